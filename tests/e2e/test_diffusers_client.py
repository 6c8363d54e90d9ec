"""diffusers' client byte for byte: what the installed package puts on the wire for each combination of its options, captured
on a socket and replayed.

The first release with this client, 0.33.0, puts together the same query, headers and body as the one that is installed
(`prepare_decode` of both compared by eye), so these are the bytes of every release so far.
"""

import io
import itertools
import urllib.parse

import numpy as np
import pytest
import torch
from compare import assert_bytes, assert_floats, assert_frames, assert_jpeg_like_pillow, assert_latents, round8
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.remote_utils import remote_decode, remote_encode
from diffusers.video_processor import VideoProcessor
from models import FLUX, NARROW_VIDEO
from PIL import Image
from place import PHOTOGRAPH
from wiretap import Answer, capture, picture, replay, tensor, with_path

# What it asks for. `return_type` is not among it: the request does not depend on it.
FORMS = list(itertools.product(["pil", "pt"], ["jpg", "png"], [False, True], [False, True]))


def head_of(request: bytes) -> tuple[dict, dict]:
    """The query and the headers of a captured request."""
    head, _ = request.split(b"\r\n\r\n", 1)
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return urllib.parse.parse_qs(urllib.parse.urlsplit(first.split(" ")[1]).query), headers


def assert_unauthorised(request: bytes) -> None:
    """Nobody has a key but by the URL, and then it is in the request."""
    assert "authorization" not in head_of(request)[1]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form)))
def test_remote_decode(server, demo, form):
    """Every form of a picture's decode."""
    output_type, image_format, partial_postprocess, with_processor = form
    latents = demo.latents(1, 6, 9)
    request = capture(
        lambda url: remote_decode(
            url,
            latents,
            processor=VaeImageProcessor() if with_processor else None,
            scaling_factor=demo.scaling_factor,
            shift_factor=demo.shift_factor,
            output_type=output_type,
            return_type="pt",  # the one that needs nothing else
            image_format=image_format,
            partial_postprocess=partial_postprocess,
        )
    )
    assert_unauthorised(request)
    query, headers = head_of(request)
    assert query["shape"] == ["1", "16", "6", "9"] and query["partial_postprocess"] == [str(partial_postprocess)]
    assert headers["content-type"] == "tensor/binary"

    answer = replay(server.port, with_path(request, "/demo"))
    reference = demo.decoded(demo.unscaled(latents))
    match (output_type, with_processor):
        case ("pt", _) if partial_postprocess:
            assert headers["accept"] == "tensor/binary"
            assert_bytes(tensor(answer).numpy(), reference)
        case ("pt", _):
            assert headers["accept"] == "tensor/binary"
            assert_floats(tensor(answer), reference)
        case ("pil", True):
            assert headers["accept"] == "tensor/binary"
            expected = (reference / 2 + 0.5).clamp(0, 1).half().float()
            got = tensor(answer)
            assert got.dtype == torch.float16 and got.shape == expected.shape
            assert (got.float() - expected).abs().max() <= 1.5e-3
        case ("pil", False):
            assert_file(answer, image_format, reference)


def assert_file(answer: Answer, image_format: str, reference: torch.Tensor) -> None:
    assert answer.headers["Content-Type"] == {"jpg": "image/jpeg", "png": "image/png"}[image_format]
    if image_format == "png":
        assert_bytes(np.asarray(picture(answer))[None], reference)
    else:
        assert_jpeg_like_pillow(answer.body, round8(reference)[0])


@pytest.mark.parametrize("shift_factor", [None, 0.25])
@pytest.mark.parametrize("scaling_factor", [None, 0.7])
@pytest.mark.parametrize("do_scaling", [True, False, None])
def test_scaling(server, demo, do_scaling, scaling_factor, shift_factor):
    """The client says `do_scaling` only where it is true and there is no factor."""
    latents = demo.latents(1, 6, 9)
    options = {"do_scaling": do_scaling, "scaling_factor": scaling_factor, "shift_factor": shift_factor}
    request = capture(lambda url: remote_decode(url, latents, output_type="pt", return_type="pt", **options))
    query, _ = head_of(request)
    assert ("do_scaling" in query) == bool(do_scaling and scaling_factor is None)
    if not do_scaling:
        unscaled = latents.float()
    elif scaling_factor is not None:
        unscaled = latents.float() / scaling_factor + (shift_factor or 0.0)
    else:
        unscaled = demo.unscaled(latents)
    assert_floats(tensor(replay(server.port, with_path(request, "/demo"))), demo.decoded(unscaled))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_packed_latents(server, dtype):
    """Flux's, with the size of the picture."""
    latents = FLUX.latents(1, 6, 8, seed=9, dtype=dtype)
    tokens = latents.view(1, 16, 3, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 12, 64)
    options = {"scaling_factor": FLUX.scaling_factor, "shift_factor": FLUX.shift_factor, "height": 48, "width": 64}
    request = capture(lambda url: remote_decode(url, tokens, **options))
    answer = replay(server.port, with_path(request, "/flux"))
    assert_file(answer, "jpg", FLUX.decoded(FLUX.unscaled(latents)))


@pytest.mark.parametrize("form", ["pt", "pt bytes", "pil", "mp4"])
def test_remote_decode_of_a_video(videos, form):
    model = NARROW_VIDEO
    latents = model.latents(1, 2, 3, 5)
    options = {
        "pt": {"output_type": "pt", "return_type": "pt"},
        "pt bytes": {"output_type": "pt", "return_type": "pt", "partial_postprocess": True},
        "pil": {"output_type": "pil", "return_type": "pt", "processor": VideoProcessor()},
        "mp4": {"output_type": "mp4", "return_type": "mp4"},
    }[form]
    request = capture(lambda url: remote_decode(url, latents, scaling_factor=model.scaling_factor, **options))
    answer = replay(videos.port, with_path(request, f"/{model.name}"))
    reference = model.decoded(model.unscaled(latents))
    match form:
        case "pt":
            assert_floats(tensor(answer), reference)
        case "pt bytes":
            assert_frames(tensor(answer), reference)
        case "pil":
            expected = (reference[0].transpose(0, 1) / 2 + 0.5).clamp(0, 1)
            assert tensor(answer).shape == expected.shape
            assert (tensor(answer).float() - expected).abs().max() <= 2e-3
        case "mp4":
            assert head_of(request)[1]["accept"] == "text/plain"
            assert answer.status == 200 and answer.body[4:8] == b"ftyp"


ENCODED = {
    "image": lambda image, prepared: image,
    "grey image": lambda image, prepared: image.convert("L"),
    "tensor": lambda image, prepared: prepared,
    "tensor in [0, 1]": lambda image, prepared: prepared / 2 + 0.5,
    "float16 tensor": lambda image, prepared: prepared.half(),
    "bfloat16 tensor": lambda image, prepared: prepared.bfloat16(),
}


@pytest.mark.parametrize("factors", ["none", "scaling", "both"])
@pytest.mark.parametrize("form", ENCODED)
def test_remote_encode(server, demo, form, factors):
    """No content type at all: a PNG file, or a raw tensor whose shape and type are in the query."""
    processor = VaeImageProcessor(vae_scale_factor=8)
    image = Image.open(PHOTOGRAPH).convert("RGB").resize((72, 56))
    sent = ENCODED[form](image, processor.preprocess(image).contiguous())
    options = {
        "none": {},
        "scaling": {"scaling_factor": 0.7},
        "both": {"scaling_factor": demo.scaling_factor, "shift_factor": demo.shift_factor},
    }[factors]
    request = capture(lambda url: remote_encode(url, sent, **options))
    assert_unauthorised(request)
    query, headers = head_of(request)
    assert "content-type" not in headers
    body = request.split(b"\r\n\r\n", 1)[1]
    if isinstance(sent, Image.Image):
        assert "shape" not in query and body.startswith(b"\x89PNG")
        prepared = processor.preprocess(Image.open(io.BytesIO(body)).convert("RGB"))
    else:
        assert query["dtype"] == [str(sent.dtype).split(".")[-1]]
        prepared = processor.preprocess(sent.float())

    # The client asks for a sample; a question for the mode is a query away.
    posterior = demo.posterior(prepared)
    scale, shift = options.get("scaling_factor", 1.0), options.get("shift_factor") or 0.0
    sample = tensor(replay(server.port, with_path(request, "/demo")))
    noise = (sample.float() / scale + shift - posterior.mean) / posterior.std
    assert abs(noise.mean().item()) < 5 / noise.numel() ** 0.5
    assert abs(noise.var().item() - 1) < 5 * (2 / noise.numel()) ** 0.5
    joint = b"&" if b"?" in request.split(b"\r\n")[0] else b"?"
    asked = with_path(request, "/demo").replace(b" HTTP/1.1", joint + b"sample_mode=argmax HTTP/1.1", 1)
    assert_latents(tensor(replay(server.port, asked)), (posterior.mode() - shift) * scale)
