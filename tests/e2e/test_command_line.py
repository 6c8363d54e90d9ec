"""The commands, as a person types them."""

import io
import subprocess

import numpy as np
import pytest
import torch
from compare import assert_bytes, assert_floats, pixels, psnr, round8
from models import FLUX, SD_V1
from PIL import Image
from place import PHOTOGRAPH, PHOTOGRAPH_PSNR, PHOTOGRAPH_LATENTS, binary, clean_environment
from safetensors.torch import load_file, save_file


def run(*arguments, status: int = 0, cwd=None, **environment: str) -> subprocess.CompletedProcess:
    """Runs `remote-vae`; anything but the expected exit code is shown with what it printed."""
    result = subprocess.run(
        [binary(), *map(str, arguments)],
        cwd=cwd,
        env=clean_environment(**environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == status, f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture(params=["in process", "by a server"])
def way(request, server):
    """Decoding here and decoding by a server must not differ."""

    def arguments(model):
        if request.param == "by a server":
            return ["--endpoint", f"{server.url}/{model.name}"]
        return ["--model", "demo" if model.name == "demo" else model.folder]

    return arguments


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_decode_to_a_png(way, demo, tmp_path, kind):
    latents = demo.latents(1, 7, 12)
    file = tmp_path / f"latents.{kind}"
    if kind == "npy":
        np.save(file, latents.numpy())
    else:
        save_file({"latents": latents}, file)
    out = tmp_path / "out.png"
    run("decode", file, "-o", out, *way(demo))
    assert_bytes(pixels(out.read_bytes(), "PNG")[None], demo.decoded(demo.unscaled(latents)))


def test_decode_a_real_model(way, tmp_path):
    latents = SD_V1.latents(1, 6, 7, dtype=torch.float32, seed=20)
    reference = SD_V1.decoded(SD_V1.unscaled(latents))
    save_file({"unused": torch.zeros(1), "latents": latents}, tmp_path / "in.safetensors")
    arguments = ["decode", f"{tmp_path}/in.safetensors:latents", *way(SD_V1)]

    run(*arguments, "-o", tmp_path / "out.npy", "--output-type", "pt", "--scaling-factor", "0.18215")
    assert_floats(torch.from_numpy(np.load(tmp_path / "out.npy")), reference)

    run(*arguments, "-o", tmp_path / "out.safetensors", "--partial-postprocess")
    (tensor,) = load_file(tmp_path / "out.safetensors").values()
    assert_bytes(tensor.numpy(), reference)

    run(*arguments, "-o", tmp_path / "out.jpg", "--image-format", "jpg")
    assert psnr(pixels((tmp_path / "out.jpg").read_bytes(), "JPEG"), round8(reference)[0]) > 20


def test_quality_is_that_of_pillow(way, demo, tmp_path):
    np.save(tmp_path / "in.npy", demo.latents(1, 16, 20).numpy())
    arguments = ["decode", tmp_path / "in.npy", *way(demo)]
    run(*arguments, "-o", tmp_path / "exact.png")
    exact = Image.open(tmp_path / "exact.png").convert("RGB")
    for quality in (30, 90):
        for ending, name in (("jpg", "JPEG"), ("webp", "WEBP")):
            out = tmp_path / f"{quality}.{ending}"
            run(*arguments, "-o", out, "--quality", quality)
            file = io.BytesIO()
            exact.save(file, name, quality=quality)
            if name == "JPEG":
                assert Image.open(out).quantization == Image.open(file).quantization
            assert 0.98 < out.stat().st_size / len(file.getvalue()) < 1.02


def test_a_tensor_has_the_type_that_is_wanted(way, demo, tmp_path):
    latents = demo.latents(1, 3, 5)
    np.save(tmp_path / "in.npy", latents.numpy())
    got = {}
    for name in ("float16", "bfloat16", "float32"):
        out = tmp_path / f"{name}.safetensors"
        run("decode", tmp_path / "in.npy", "-o", out, "--out-dtype", name, *way(demo))
        (got[name],) = load_file(out).values()
        assert got[name].dtype == getattr(torch, name)
    exact = got["float32"]
    assert_floats(exact.half(), demo.decoded(demo.unscaled(latents)))
    assert not torch.equal(exact.half().float(), exact), "it has more than float16 can hold"
    assert torch.equal(got["float16"], exact.half())
    assert torch.equal(got["bfloat16"], exact.bfloat16())


def test_decode_packed_and_scaled_latents(way, tmp_path):
    latents = FLUX.latents(1, 4, 6, seed=21)
    packed = latents.view(1, 16, 2, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 6, 64)
    save_file({"latents": packed.contiguous()}, tmp_path / "in.safetensors")
    factors = ["--scaling-factor", "0.3611", "--shift-factor", "0.1159", "--height", "32", "--width", "48"]
    run("decode", tmp_path / "in.safetensors", "-o", tmp_path / "out.npy", *factors, *way(FLUX))
    reference = FLUX.decoded(FLUX.unscaled(latents))
    assert_floats(torch.from_numpy(np.load(tmp_path / "out.npy")), reference)

    np.save(tmp_path / "ready.npy", FLUX.unscaled(latents).numpy())
    run("decode", tmp_path / "ready.npy", "-o", tmp_path / "ready.out.npy", "--no-scaling", *way(FLUX))
    assert_floats(torch.from_numpy(np.load(tmp_path / "ready.out.npy")), reference)


def test_flags_as_variables(demo, tmp_path):
    latents = demo.latents(1, 3, 5)
    np.save(tmp_path / "in.npy", latents.numpy())
    run("decode", "in.npy", cwd=tmp_path, REMOTE_VAE_OUT="out.png", REMOTE_VAE_NO_SCALING="true")
    picture = pixels((tmp_path / "out.png").read_bytes(), "PNG")
    assert_bytes(picture[None], demo.decoded(latents))


# What is typed -> words that must be in the one line of complaint.
MISTAKES = {
    "no such file": (["decode", "missing.npy", "-o", "out.png"], ["missing.npy"]),
    "no latents": (["decode", "text.npy", "-o", "out.png"], ["text.npy"]),
    "no server": (["decode", "good.npy", "-o", "out.png", "--endpoint", "http://127.0.0.1:9"], ["127.0.0.1:9"]),
    "no such model": (["decode", "good.npy", "-o", "out.png", "--model", "missing"], ["missing"]),
    "no model in the folder": (["decode", "good.npy", "-o", "out.png", "--model", "."], ["config.json"]),
    "wrong channels": (["decode", "four.npy", "-o", "out.png"], ["16", "4"]),
    "served model is missing": (["serve", "--port", "0", "--model", "a=missing"], ["missing"]),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(tmp_path, arguments, words):
    (tmp_path / "text.npy").write_text("no numbers")
    np.save(tmp_path / "good.npy", np.zeros((1, 16, 2, 2), np.float16))
    np.save(tmp_path / "four.npy", np.zeros((1, 4, 2, 2), np.float16))
    result = run(*arguments, status=1, cwd=tmp_path)
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr
    assert "panicked" not in result.stderr
    assert not (tmp_path / "out.png").exists()


def test_a_command_line_that_makes_no_sense(tmp_path):
    """Which is known before anything is looked for."""
    for flags in (["-o", "out.gif"], ["-o", "out.png", "--shift-factor", "1"]):
        result = run("decode", "missing.npy", *flags, status=2, cwd=tmp_path)
        assert result.stdout == "" and result.stderr.count("error: ") == 1
    assert list(tmp_path.iterdir()) == []


def test_help():
    for command in ([], ["serve"], ["decode"], ["quickstart"]):
        text = run(*command, "--help").stdout
        assert "Usage: remote-vae" in text
        assert all(len(line) <= 110 for line in text.splitlines())
    assert run("decode", "--help").stdout.count("REMOTE_VAE_") >= 10
    assert run("--version").stdout.startswith("remote-vae ")
    run("frobnicate", status=2)


def test_the_photograph_comes_back(server, demo, tmp_path):
    """The embedded model was not trained on it, and must show it as well as assets/README.md says."""
    latents = load_file(PHOTOGRAPH_LATENTS)["latents"]
    assert tuple(latents.shape) == (1, 16, 64, 64)
    run("decode", PHOTOGRAPH_LATENTS, "-o", tmp_path / "out.png", "--endpoint", f"{server.url}/demo")
    picture = pixels((tmp_path / "out.png").read_bytes(), "PNG")
    assert_bytes(picture[None], demo.decoded(demo.unscaled(latents)))
    likeness = psnr(picture, pixels(PHOTOGRAPH.read_bytes(), "PNG"))
    assert likeness >= PHOTOGRAPH_PSNR, f"{likeness:.2f} dB"
