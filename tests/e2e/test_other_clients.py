"""Every client seen in the field, byte for byte: captured from the real package where it is installed, otherwise written
down as it was seen. Each must get the right answer."""

import base64
import io
import json
import urllib.parse
import urllib.request

import numpy as np
import pytest
import requests
import torch
from compare import assert_bytes, assert_floats, assert_jpeg_like_pillow, assert_latents, round8
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.remote_utils import remote_decode, remote_encode
from models import FLUX, SD_V1
from PIL import Image
from place import PHOTOGRAPH
from wiretap import Answer, capture, picture, replay, with_path, written

# What `requests` puts before everything else.
REQUESTS = {"User-Agent": "python-requests/2.32.3", "Accept-Encoding": "gzip, deflate"}
TENSOR = {"Content-Type": "tensor/binary", "Accept": "tensor/binary", "Connection": "keep-alive"}


def tensor(answer: Answer) -> torch.Tensor:
    assert answer.status == 200, answer.body
    dtypes = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "uint8": torch.uint8}
    values = torch.frombuffer(bytearray(answer.body), dtype=dtypes[answer.headers["dtype"]])
    return values.reshape(json.loads(answer.headers["shape"]))


def query(**parameters) -> str:
    return urllib.parse.urlencode(parameters, doseq=True)


def test_diffusers_remote_decode(server):
    """Packed Flux latents to a JPEG file, and SD v1's to a tensor: no authorization, `Accept` by what is to come."""
    latents = FLUX.latents(1, 6, 8, seed=9)
    tokens = latents.view(1, 16, 3, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 12, 64).bfloat16()
    options = {"scaling_factor": FLUX.scaling_factor, "shift_factor": FLUX.shift_factor, "height": 48, "width": 64}
    request = capture(lambda url: remote_decode(url, tokens, **options))
    assert b"authorization" not in request.lower()
    answer = replay(server.port, with_path(request, "/flux"))
    assert answer.headers["Content-Type"] == "image/jpeg"
    reference = FLUX.decoded(FLUX.unscaled(latents.bfloat16()))
    assert_jpeg_like_pillow(answer.body, round8(reference)[0])

    latents = SD_V1.latents(1, 6, 8)
    request = capture(
        lambda url: remote_decode(url, latents, scaling_factor=SD_V1.scaling_factor, output_type="pt", return_type="pt")
    )
    assert_floats(tensor(replay(server.port, request)), SD_V1.decoded(SD_V1.unscaled(latents)))


@pytest.mark.parametrize("form", ["image", "tensor"])
def test_diffusers_remote_encode(server, demo, form):
    """No content type at all: a PNG file, or a raw tensor whose shape and type are in the query."""
    image = Image.open(PHOTOGRAPH).convert("RGB").resize((72, 56))
    prepared = VaeImageProcessor(vae_scale_factor=8).preprocess(image)
    # Contiguous: of others the client (0.42.1) makes a copy that it has let go of when it is sent.
    sent = image if form == "image" else prepared.contiguous()
    request = capture(lambda url: remote_encode(url, sent, demo.scaling_factor, demo.shift_factor))
    assert b"content-type" not in request.split(b"\r\n\r\n")[0].lower()
    answer = replay(server.port, with_path(request, "/demo"))
    # The client asks for a sample; the server says which, and the mode is a query away.
    posterior = demo.posterior(prepared)
    noise = (tensor(answer).float() / demo.scaling_factor + (demo.shift_factor or 0) - posterior.mean) / posterior.std
    assert abs(noise.mean().item()) < 5 / noise.numel() ** 0.5
    assert abs(noise.var().item() - 1) < 5 * (2 / noise.numel()) ** 0.5
    joint = b"&" if b"?" in request.split(b"\r\n")[0] else b"?"
    asked = with_path(request, "/demo").replace(b" HTTP/1.1", joint + b"sample_mode=argmax HTTP/1.1", 1)
    assert_latents(tensor(replay(server.port, asked)), demo.scaled(posterior.mode()))


def test_comfyui_hf_remote_vae(server, demo):
    """float32 latents that are scaled already, `pt`, no image_format, height and width always."""
    latents = demo.unscaled(demo.latents(1, 6, 9, dtype=torch.float32))
    parameters = query(
        output_type="pt",
        partial_postprocess=False,
        shape=list(latents.shape),
        dtype="float32",
        do_scaling=False,
        height=512,
        width=512,
    )
    request = written(f"/demo?{parameters}", REQUESTS | TENSOR, latents.numpy().tobytes())
    assert_floats(tensor(replay(server.port, request)), demo.decoded(latents))


def test_sd_next(server):
    """A URL without slash, keys that mean nothing to us, and one Flux latent as [16, h, w] with height and width."""
    latents = FLUX.latents(1, 6, 8, seed=9)
    parameters = query(
        input_tensor_type="binary",
        output_tensor_type="binary",
        output_type="pt",
        partial_postprocess=True,
        image_format="jpg",
        shape=list(latents.shape[1:]),
        dtype="float16",
        scaling_factor=FLUX.scaling_factor,
        shift_factor=FLUX.shift_factor,
        height=48,
        width=64,
    )
    request = written(f"/flux?{parameters}", REQUESTS | TENSOR, latents.numpy().tobytes())
    got = tensor(replay(server.port, request))
    assert_bytes(got.numpy(), FLUX.decoded(FLUX.unscaled(latents)))


def test_sd_next_of_the_first_generation(server):
    """JSON with everything in it, pipeline latents, and a JPEG file back; one request an item."""
    latents = SD_V1.latents(1, 6, 8, seed=3)
    body = {
        "inputs": base64.b64encode(latents.numpy().tobytes()).decode("utf-8"),
        "parameters": {"shape": list(latents.shape), "dtype": "float16"},
    }
    headers = REQUESTS | {"Accept": "image/jpeg", "Content-Type": "application/json", "Connection": "keep-alive"}
    answer = replay(server.port, written("/", headers, json.dumps(body).encode()))
    assert answer.status == 200, answer.body
    assert_jpeg_like_pillow(answer.body, round8(SD_V1.decoded(SD_V1.unscaled(latents)))[0])

    # Flux of that time: packed, with its size among the parameters.
    latents = FLUX.latents(1, 6, 8, seed=9)
    tokens = latents.view(1, 16, 3, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 12, 64)
    body = {
        "inputs": base64.b64encode(tokens.numpy().tobytes()).decode("utf-8"),
        "parameters": {"shape": list(tokens.shape), "dtype": "float16", "height": 48, "width": 64},
    }
    answer = replay(server.port, written("/flux/predict", headers, json.dumps(body).encode()))
    assert answer.status == 200, answer.body
    assert_jpeg_like_pillow(answer.body, round8(FLUX.decoded(FLUX.unscaled(latents)))[0])


def test_urllib_with_wrong_sizes(server, demo):
    """The standard library's client, the shape as JSON text, booleans in lower case, and a nonsense size."""
    latents = demo.latents(1, 4, 7)
    parameters = query(
        shape=json.dumps(list(latents.shape)),
        dtype="float16",
        output_type="pil",
        image_format="png",
        do_scaling="true",
        height=7,
        width=-3,
    )

    def ask(url: str) -> None:
        headers = {"Content-Type": "tensor/binary"}
        request = urllib.request.Request(f"{url}/demo/?{parameters}", data=latents.numpy().tobytes(), headers=headers)
        urllib.request.urlopen(request, timeout=60)

    answer = replay(server.port, capture(ask))
    assert answer.headers["Content-Type"] == "image/png"
    assert_bytes(np.asarray(picture(answer))[None], demo.decoded(demo.unscaled(latents)))


def test_page_that_asks_for_float32_decoding(server, demo):
    """A test page that sends float32 with do_scaling=False and asks `pt`, from JavaScript: lower-case booleans."""
    latents = demo.unscaled(demo.latents(1, 5, 5, dtype=torch.float32))
    parameters = "shape=1&shape=16&shape=5&shape=5&dtype=float32&do_scaling=false&output_type=pt&partial_postprocess=false"
    headers = TENSOR | {"Origin": "null", "Sec-Fetch-Mode": "cors", "User-Agent": "Mozilla/5.0"}
    answer = replay(server.port, written(f"/demo?{parameters}", headers, latents.numpy().tobytes()))
    assert answer.headers["shape"] == "[1, 3, 40, 40]"
    assert answer.headers["dtype"] == "float16"
    assert_floats(tensor(answer), demo.decoded(latents))


def test_out_dtype(server, demo):
    """float32 for those who ask: far closer to diffusers than float16 can be."""
    latents = demo.latents(1, 6, 6)
    parameters = {"shape": list(latents.shape), "dtype": "float16", "do_scaling": True, "output_type": "pt"}
    parameters["out_dtype"] = "float32"
    url = f"{server.url}/demo"
    answer = requests.post(url, params=parameters, headers=TENSOR, data=latents.numpy().tobytes(), timeout=60)
    assert answer.status_code == 200, answer.text
    got = torch.frombuffer(bytearray(answer.content), dtype=torch.float32).reshape(1, 3, 48, 48)
    assert (got - demo.decoded(demo.unscaled(latents))).abs().max() < 2e-4


def test_all_pictures_of_a_batch(server, demo):
    """`multipart/mixed` and `application/zip` hold a file for each."""
    import email
    import zipfile

    latents = demo.latents(3, 4, 5)
    parameters = query(shape=list(latents.shape), dtype="float16", do_scaling=True, image_format="png")
    reference = demo.decoded(demo.unscaled(latents))

    def files(accept: str) -> Answer:
        headers = {"Content-Type": "tensor/binary", "Accept": accept}
        return replay(server.port, written(f"/demo?{parameters}", headers, latents.numpy().tobytes()))

    packed = files("application/zip")
    with zipfile.ZipFile(io.BytesIO(packed.body)) as archive:
        zipped = [archive.read(name) for name in archive.namelist()]
    mixed = files("multipart/mixed")
    head = f"Content-Type: {mixed.headers['Content-Type']}\r\n\r\n".encode()
    parts = [part.get_payload(decode=True) for part in email.message_from_bytes(head + mixed.body).get_payload()]
    assert zipped == parts
    pictures = [np.asarray(Image.open(io.BytesIO(file))) for file in zipped]
    assert_bytes(np.stack(pictures), reference)
