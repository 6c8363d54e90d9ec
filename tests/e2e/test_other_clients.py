"""What other programs send, as seen in the field. None of them uses diffusers' client."""

import io
import json
import urllib.parse
import urllib.request

import numpy as np
import requests
import torch
from compare import assert_bytes, assert_floats
from models import FLUX
from PIL import Image

BINARY = {"Content-Type": "tensor/binary", "Accept": "tensor/binary"}


def tensor(content: bytes, headers) -> torch.Tensor:
    dtype = {"float16": torch.float16, "float32": torch.float32, "uint8": torch.uint8}[headers["dtype"]]
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(json.loads(headers["shape"]))


def test_comfyui_node(server, demo):
    """float32 latents that are scaled already, `pt`, no image_format, height and width always."""
    latents = demo.unscaled(demo.latents(1, 6, 9, dtype=torch.float32))
    query = {
        "output_type": "pt",
        "partial_postprocess": False,
        "shape": list(latents.shape),
        "dtype": "float32",
        "do_scaling": False,
        "height": 512,
        "width": 512,
    }
    url = f"{server.url}/demo"
    answer = requests.post(url, params=query, headers=BINARY, data=latents.numpy().tobytes(), timeout=60)
    assert answer.status_code == 200, answer.text
    assert_floats(tensor(answer.content, answer.headers), demo.decoded(latents))


def test_sd_next(server):
    """A URL without slash, keys that mean nothing to us, and one Flux latent as [16, h, w] with height and width."""
    latents = FLUX.latents(1, 6, 8, seed=9)
    query = {
        "input_tensor_type": "binary",
        "output_tensor_type": "binary",
        "output_type": "pt",
        "partial_postprocess": True,
        "image_format": "jpg",
        "shape": list(latents.shape[1:]),
        "dtype": "float16",
        "scaling_factor": FLUX.scaling_factor,
        "shift_factor": FLUX.shift_factor,
        "height": 48,
        "width": 64,
    }
    url = f"{server.url}/flux"
    answer = requests.post(url, params=query, headers=BINARY, data=latents.numpy().tobytes(), timeout=300)
    assert answer.status_code == 200, answer.text
    got = tensor(answer.content, answer.headers)
    assert_bytes(got.numpy(), FLUX.decoded(FLUX.unscaled(latents)))


def test_urllib_with_wrong_sizes(server, demo):
    """The standard library's client, the shape as JSON text, booleans in lower case, and a nonsense size."""
    latents = demo.latents(1, 4, 7)
    query = {
        "shape": json.dumps(list(latents.shape)),
        "dtype": "float16",
        "output_type": "pil",
        "image_format": "png",
        "do_scaling": "true",
        "height": 7,
        "width": -3,
    }
    request = urllib.request.Request(
        f"{server.url}/demo/?{urllib.parse.urlencode(query)}",
        data=latents.numpy().tobytes(),
        headers={"Content-Type": "tensor/binary"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.headers["Content-Type"] == "image/png"
        picture = Image.open(io.BytesIO(answer.read()))
    assert_bytes(np.asarray(picture)[None], demo.decoded(demo.unscaled(latents)))


def test_page_that_asks_for_float32_decoding(server, demo):
    """A test page that sends float32 with do_scaling=False and asks `pt`, from JavaScript: lower-case booleans."""
    latents = demo.unscaled(demo.latents(1, 5, 5, dtype=torch.float32))
    query = "shape=1&shape=16&shape=5&shape=5&dtype=float32&do_scaling=false&output_type=pt&partial_postprocess=false"
    url = f"{server.url}/demo?{query}"
    answer = requests.post(url, headers=BINARY, data=latents.numpy().tobytes(), timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers["shape"] == "[1, 3, 40, 40]"
    assert answer.headers["dtype"] == "float16"
    assert_floats(tensor(answer.content, answer.headers), demo.decoded(latents))


def test_out_dtype(server, demo):
    """float32 for those who ask: far closer to diffusers than float16 can be."""
    latents = demo.latents(1, 6, 6)
    query = {"shape": list(latents.shape), "dtype": "float16", "do_scaling": True, "output_type": "pt"}
    query["out_dtype"] = "float32"
    url = f"{server.url}/demo"
    answer = requests.post(url, params=query, headers=BINARY, data=latents.numpy().tobytes(), timeout=60)
    assert answer.status_code == 200, answer.text
    got = tensor(answer.content, answer.headers)
    assert got.dtype == torch.float32
    assert (got - demo.decoded(demo.unscaled(latents))).abs().max() < 2e-4
