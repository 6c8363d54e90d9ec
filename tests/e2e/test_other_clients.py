"""The clients in the field other than diffusers' own, byte for byte.

None of them can be installed from a package index: SD.Next and the ComfyUI nodes are applications and plugins that run from
their own repositories, and we found no package of theirs or of another client of this protocol on PyPI or npm. (The general
client of the endpoints on which the pilot ran, `InferenceClient` of huggingface_hub, has no task that takes or gives
latents.) What they send is therefore written down here from their sources, which are named at each test, and put on the
wire by the library that they use, `requests` (captured, then replayed).
"""

import base64
import io
import json
import urllib.parse
import urllib.request

import numpy as np
import pytest
import requests
import torch
from compare import assert_bytes, assert_floats, assert_jpeg_like_pillow, round8
from models import FLUX, NARROW_VIDEO, SD_V1
from wiretap import Answer, capture, picture, replay, tensor, with_path, written

TENSOR = {"Content-Type": "tensor/binary", "Accept": "tensor/binary", "Connection": "keep-alive"}


def query(**parameters) -> str:
    return urllib.parse.urlencode(parameters, doseq=True)


def posted(server, path: str, latents: torch.Tensor, parameters: dict, headers: dict, timeout: int | None = None) -> Answer:
    """The answer to what `requests.post` makes of a tensor, under a path as it stands in the client's own table."""
    body = latents.contiguous().numpy().tobytes()
    request = capture(lambda url: requests.post(url, params=parameters, headers=headers, data=body, timeout=timeout))
    return replay(server.port, with_path(request, path))


# ComfyUI-HFRemoteVae, `nodes.py`: `HFRemoteVAEDecode.decode`, and `RemoteVAE.decode` which other nodes call, give these
# arguments to the node's own copy of an early `remote_decode`; a URL with a slash, no timeout, no image_format. The copy
# still knows base64, which the nodes do not ask for.


def comfyui(latents: torch.Tensor, how: str = "binary") -> tuple[dict, dict]:
    """Parameters and headers. ComfyUI's latents are in the decoder's own scale. Height and width are the third and the fourth
    side, whatever these are: of a video frames and height."""
    parameters = {
        "do_scaling": False,
        "output_type": "pt",
        "partial_postprocess": False,
        "shape": list(latents.shape),
        "dtype": str(latents.dtype).split(".")[-1],
        "height": latents.shape[2] * 8,
        "width": latents.shape[3] * 8,
    }
    return parameters, {"Content-Type": f"tensor/{how}", "Accept": f"tensor/{how}"}


@pytest.mark.parametrize("batch", [1, 2])
def test_comfyui_hf_remote_vae(server, demo, batch):
    latents = demo.unscaled(demo.latents(batch, 6, 9, dtype=torch.float32))
    answer = posted(server, "/demo/", latents, *comfyui(latents))
    assert_floats(tensor(answer), demo.decoded(latents))


def test_comfyui_hf_remote_vae_of_a_video(videos):
    """Five dimensions, for which height and width are nonsense."""
    model = NARROW_VIDEO
    latents = model.unscaled(model.latents(1, 2, 5, 3, dtype=torch.float32))
    answer = posted(videos, f"/{model.name}/", latents, *comfyui(latents))
    assert_floats(tensor(answer), model.decoded(latents))


def test_base64_of_the_early_client(server, demo):
    """The default of that early `remote_decode`, and so of whoever copied it and changed nothing."""
    latents = demo.unscaled(demo.latents(1, 6, 9, dtype=torch.float32))
    parameters, headers = comfyui(latents, "base64")
    body = {"inputs": base64.b64encode(latents.numpy().tobytes()).decode("utf-8")}
    request = capture(lambda url: requests.post(url, params=parameters, json=body, headers=headers))
    answer = replay(server.port, with_path(request, "/demo/"))
    assert answer.status == 200, answer.body
    content = json.loads(answer.body)
    assert content["parameters"] == {"shape": [1, 3, 48, 72], "dtype": "float16"}
    got = torch.frombuffer(bytearray(base64.b64decode(content["inputs"])), dtype=torch.float16)
    assert_floats(got.reshape(content["parameters"]["shape"]), demo.decoded(latents))


# SD.Next (vladmandic/sdnext), `modules/vae/sd_vae_remote.py`: `remote_decode`. A URL without a slash at its end, one request
# for each item of a batch, a timeout of 300 s, no `do_scaling`; the factors are those of the pipeline's configuration, and
# are not sent where that has none (`requests` leaves out what is None). What it sends for which setting of its "remote VAE
# image type" is in FORMATS. Its `remote_encode` calls diffusers' own, image by image: see test_diffusers_client.py.

FORMATS = {
    "raw": (
        {"partial_postprocess": False, "output_type": "pt", "output_tensor_type": "binary"},
        "tensor/binary",
    ),
    "png": ({"image_format": "png", "output_type": "pil"}, "image/png"),
    "jpg": ({"image_format": "jpg", "output_type": "pil"}, "image/jpeg"),
}


def sd_next(server, path: str, latent: torch.Tensor, how: str, model, **more) -> Answer:
    options, accept = FORMATS[how]
    parameters = {
        "input_tensor_type": "binary",
        "shape": list(latent.shape),
        "dtype": str(latent.dtype).split(".")[-1],
        **options,
        **more,
        "scaling_factor": model.scaling_factor,
        "shift_factor": model.shift_factor,
    }
    headers = {"Content-Type": "tensor/binary", "Accept": accept}
    return posted(server, path, latent, parameters, headers, timeout=300)


def assert_answer(answer: Answer, how: str, reference: torch.Tensor) -> None:
    match how:
        case "raw":
            assert_floats(tensor(answer), reference)
        case "png":
            assert answer.headers["Content-Type"] == "image/png"
            assert_bytes(np.asarray(picture(answer))[None], reference)
        case "jpg":
            assert answer.headers["Content-Type"] == "image/jpeg"
            assert_jpeg_like_pillow(answer.body, round8(reference)[0])


@pytest.mark.parametrize("how", FORMATS)
def test_sd_next(server, how):
    """Stable Diffusion: each item of a batch with its own first dimension."""
    latents = SD_V1.latents(2, 6, 8, seed=3)
    for item in latents:
        answer = sd_next(server, "/sd-v1", item[None], how, SD_V1)
        assert_answer(answer, how, SD_V1.decoded(SD_V1.unscaled(item[None])))


@pytest.mark.parametrize("how", FORMATS)
def test_sd_next_with_flux(server, how):
    """`f1` and `chroma`: an item without its first dimension, as [16, h, w], which must not be taken for packed latents, with
    the picture's size beside it."""
    latents = FLUX.latents(1, 6, 8, seed=9)
    answer = sd_next(server, "/flux", latents[0], how, FLUX, width=64, height=48)
    assert_answer(answer, how, FLUX.decoded(FLUX.unscaled(latents)))


@pytest.mark.parametrize("how", FORMATS)
def test_sd_next_with_a_packed_batch(server, how):
    """`f1` and `chroma` as the pipeline hands them over, packed: its loop over the first dimension of a tensor with three axes
    sends all in one request, and opens the answer as one picture, or as a tensor of all."""
    latents = FLUX.latents(2, 6, 8, seed=9)
    tokens = latents.view(2, 16, 3, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 12, 64)
    answer = sd_next(server, "/flux", tokens, how, FLUX, width=64, height=48)
    expected = latents if how == "raw" else latents[:1]
    assert_answer(answer, how, FLUX.decoded(FLUX.unscaled(expected)))
    assert ("x-warning" in answer.headers) == (how != "raw")


def test_sd_next_with_models_that_share_the_autoencoder_of_flux(server):
    """`h1`, `zimage`, `lumina2`: with the first dimension, and with the size all the same."""
    latents = FLUX.latents(1, 6, 8, seed=9)
    answer = sd_next(server, "/flux", latents, "raw", FLUX, width=64, height=48)
    assert_answer(answer, "raw", FLUX.decoded(FLUX.unscaled(latents)))


def test_sd_next_with_a_video(videos):
    """`hunyuanvideo`: always the raw form."""
    model = NARROW_VIDEO
    latents = model.latents(1, 2, 3, 5)
    answer = sd_next(videos, f"/{model.name}", latents, "raw", model)
    assert_floats(tensor(answer), model.decoded(model.unscaled(latents)))


@pytest.mark.parametrize("model", [SD_V1, FLUX], ids=lambda model: model.name)
def test_sd_next_of_the_first_generation(server, model):
    """`modules/sd_vae_remote.py` of vladmandic/automatic: JSON with everything in it, latents as the pipeline has them, of Flux
    too with four dimensions and the size beside them, and a JPEG file back, within 60 s."""
    latents = model.latents(1, 6, 8, seed=3)
    parameters = {"shape": list(latents.shape), "dtype": "float16"}
    if model is FLUX:
        parameters |= {"width": 64, "height": 48}
    body = {"inputs": base64.b64encode(latents.numpy().tobytes()).decode("utf-8"), "parameters": parameters}
    headers = {"Content-Type": "application/json", "Accept": "image/jpeg"}
    request = capture(lambda url: requests.post(url, json=body, headers=headers, timeout=60))
    answer = replay(server.port, with_path(request, f"/{model.name}"))
    assert_answer(answer, "jpg", model.decoded(model.unscaled(latents)))


# The function in the announcement of the pilot (huggingface/blog, `remote_vae.md`, first version), which scripts still carry:
# the same JSON, to a URL with a slash; for Flux the latents as FluxPipeline hands them out, packed.


def test_the_function_of_the_announcement(server):
    latents = FLUX.latents(1, 6, 8, seed=9)
    tokens = latents.view(1, 16, 3, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 12, 64)
    parameters = {"shape": list(tokens.shape), "dtype": "float16", "height": 48, "width": 64}
    body = {"inputs": base64.b64encode(tokens.numpy().tobytes()).decode("utf-8"), "parameters": parameters}
    headers = {"Content-Type": "application/json", "Accept": "image/jpeg"}
    request = capture(lambda url: requests.post(url, json=body, headers=headers))
    for path in ("/flux/", "/flux/predict"):
        answer = replay(server.port, with_path(request, path))
        assert_answer(answer, "jpg", FLUX.decoded(FLUX.unscaled(latents)))


# Others, written from the protocol's table alone: nobody's source was at hand.


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
    assert_answer(answer, "png", demo.decoded(demo.unscaled(latents)))


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
    got = tensor(posted(server, "/demo", latents, parameters | {"out_dtype": "float32"}, TENSOR))
    assert got.dtype == torch.float32
    assert (got - demo.decoded(demo.unscaled(latents))).abs().max() < 2e-4


def test_all_pictures_of_a_batch(server, demo):
    """`multipart/mixed` and `application/zip` hold a file for each."""
    import email
    import zipfile

    from PIL import Image

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
