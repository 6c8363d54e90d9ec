"""A real model at a real size: SD v1 to 512 x 512 pixels."""

import math

import pytest
import torch
from compare import assert_telling
from diffusers.utils.remote_utils import remote_decode
from models import SD_V1
from service import serving


def decode(server) -> torch.Tensor:
    latents = SD_V1.latents(1, 64, 64, seed=30)
    url = f"{server.url}/{SD_V1.name}"
    options = {"scaling_factor": SD_V1.scaling_factor, "output_type": "pt", "return_type": "pt"}
    tensor = remote_decode(url, latents, **options)
    assert tuple(tensor.shape) == (1, 3, 512, 512)
    return tensor


@pytest.fixture(scope="module")
def picture(server):
    """What the default, storage in f32, makes of it."""
    tensor = decode(server)
    assert_telling(tensor.float())
    return tensor


def test_a_decode_repeats_bit_for_bit(server, picture):
    """Whichever thread did what, sums are added up in one order."""
    assert torch.equal(decode(server), picture)


def test_storage_in_f16_keeps_52_db(picture, tmp_path):
    arguments = [f"--model={SD_V1.name}={SD_V1.folder}", "--storage=f16"]
    with serving(arguments, tmp_path / "log") as service:
        halved = decode(service)
    assert not torch.equal(halved, picture), "nothing was rounded, so this tests nothing"
    mean_square = (halved.double() - picture.double()).square().mean().item()
    # Pictures range over [-1, 1].
    ratio = 10 * math.log10(2**2 / mean_square)
    assert ratio >= 52, f"{ratio:.1f} dB"
