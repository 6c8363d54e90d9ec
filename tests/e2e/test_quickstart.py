"""What a newcomer types first, and what it tells them to type next."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from compare import assert_bytes, assert_floats, assert_jpeg_like_pillow, pixels, psnr
from place import PHOTOGRAPH, PHOTOGRAPH_PSNR, binary, clean_environment
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """Its folder and what it printed."""
    folder = tmp_path_factory.mktemp("quickstart")
    command = [binary(), "quickstart", "--out", "here"]
    result = subprocess.run(
        command, cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_the_pictures(quickstart, demo):
    folder, _ = quickstart
    latents = load_file(folder / "here" / "latents.safetensors")["latents"]
    reference = demo.decoded(demo.unscaled(latents))

    png = pixels((folder / "here" / "picture.png").read_bytes(), "PNG")
    assert_bytes(png[None], reference)
    likeness = psnr(png, pixels(PHOTOGRAPH.read_bytes(), "PNG"))
    assert likeness >= PHOTOGRAPH_PSNR, f"the photograph comes back with {likeness:.2f} dB"

    assert_jpeg_like_pillow((folder / "here" / "picture.jpg").read_bytes(), png)
    (tensor,) = load_file(folder / "here" / "picture.safetensors").values()
    assert_floats(tensor, reference)


def test_what_it_says(quickstart):
    _, text = quickstart
    for path in ("here/picture.png", "here/picture.jpg", "here/picture.safetensors"):
        assert path in text
    assert len(re.findall(r"\d\.\d+ s\b", text)) >= 4, "each step says how long it took"


def test_the_commands_to_try_next(quickstart, server):
    folder, text = quickstart
    lines = [line.strip() for line in text.splitlines()]
    # The last one downloads a model, so it only has to be there; test_hub.py serves a preset by its name.
    serve, decode, serve_real = [line for line in lines if line.startswith(str(binary()))]
    assert shlex.split(serve)[1:] == ["serve"]
    assert shlex.split(serve_real)[1:] == ["serve", "sdxl"]
    assert "has ended" in text, "nobody shall try the address that it printed"

    subprocess.run(shlex.split(decode), cwd=folder, env=clean_environment(), check=True, timeout=120)
    again = pixels((folder / "here" / "again.png").read_bytes(), "PNG")
    assert np.array_equal(again, pixels((folder / "here" / "picture.png").read_bytes(), "PNG"))

    snippet = [line for line in lines if re.match(r"from |import |\w+ = |remote_decode\(", line)]
    assert any("http://127.0.0.1:8080/" in line for line in snippet)
    code = "\n".join(snippet).replace("http://127.0.0.1:8080/", f"{server.url}/demo")
    code = code.replace(".show()", ".save('by-diffusers.jpg')")
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=120)
    by_diffusers = pixels((folder / "by-diffusers.jpg").read_bytes(), "JPEG")
    # The client hands out decoded pixels, which are then saved as a JPEG a second time.
    assert psnr(by_diffusers, pixels((folder / "here" / "picture.jpg").read_bytes(), "JPEG")) > 35
