"""Autoencoders in one file, at their real sizes: the layouts that UIs keep and that models were released in."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from models import FLUX, SD_V1, SDXL, TOOLS, Model
from place import CACHE, digest
from safetensors.torch import load_file, save_file
from test_command_line import run


def original(model: Model, inside: str | None) -> Path:
    """The model as one file in the original layout, alone or inside of a full checkpoint. Kept on disk."""
    scripts = digest(TOOLS / "original_layout.py", model.key)
    file = CACHE / "checkpoints" / f"original-{model.name}-{inside or 'bare'}-{scripts}.safetensors"
    if not file.exists():
        for outdated in file.parent.glob(f"original-{model.name}-{inside or 'bare'}-*"):
            outdated.unlink()
        part = file.with_suffix(".part")
        command = [sys.executable, TOOLS / "original_layout.py", model.folder, part]
        subprocess.run([*command, "--inside", inside] if inside else command, check=True)
        part.rename(file)
    return file


# The layout, and what the log says of the factors.
LAYOUTS = {
    "a bare file of SD v1 or SDXL": (SD_V1, None, ["WARN", "0.18215", "assumed", "scaling_factor=0.13025"]),
    "a full checkpoint of SDXL": (SDXL, "sdxl", ["INFO", "0.13025", "the checkpoint is of SDXL"]),
    "ae.safetensors of Flux": (FLUX, None, ["WARN", "0.3611", "0.1159", "of Flux are assumed"]),
}


@pytest.mark.parametrize(("model", "inside", "words"), LAYOUTS.values(), ids=LAYOUTS)
def test_the_original_layout_gives_the_bits_of_diffusers_own(model, inside, words, tmp_path):
    file = original(model, inside)
    # diffusers takes the file for the same weights.
    converted = AutoencoderKL.from_single_file(
        file, config=str(model.folder), local_files_only=True, torch_dtype=torch.float32, low_cpu_mem_usage=False
    ).state_dict()
    expected = model.reference.state_dict()
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)

    save_file({"latents": model.latents(1, 6, 5, seed=30)}, tmp_path / "in.safetensors")
    # The metadata of what is written names the source, which differs.
    arguments = ["--log=info", "decode", "--no-metadata", tmp_path / "in.safetensors"]
    run(*arguments, "-o", tmp_path / "folder.safetensors", "--model", model.folder)
    said = run(*arguments, "-o", tmp_path / "file.safetensors", "--model", file).stderr
    assert (tmp_path / "file.safetensors").read_bytes() == (tmp_path / "folder.safetensors").read_bytes()
    assert all(word in said for word in words), said


def test_folders_and_files_of_diffusers_give_the_same_bits(tmp_path):
    """The folder of an autoencoder, that of a pipeline, and the weights alone, whose configuration their shapes tell."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "vae").symlink_to(SD_V1.folder)
    (tmp_path / "alone.safetensors").symlink_to(SD_V1.folder / "diffusion_pytorch_model.safetensors")
    save_file({"latents": SD_V1.latents(1, 6, 5, seed=30)}, tmp_path / "in.safetensors")
    decoded = []
    for source in (SD_V1.folder, tmp_path / "pipeline", tmp_path / "alone.safetensors"):
        out = tmp_path / "out.safetensors"
        run("decode", "--no-metadata", tmp_path / "in.safetensors", "-o", out, "--model", source)
        decoded.append(out.read_bytes())
    assert decoded[0] == decoded[1] == decoded[2]


def test_the_users_factors_go_first(tmp_path):
    file = original(SD_V1, None)
    latents = SD_V1.latents(1, 2, 2, seed=31)
    save_file({"latents": latents}, tmp_path / "in.safetensors")
    arguments = ["decode", tmp_path / "in.safetensors", "--model"]
    said = run(*arguments, f"{file},scaling_factor=0.13025", "-o", tmp_path / "a.safetensors").stderr
    assert said == "", "there is nothing left to assume"
    run(*arguments, SD_V1.folder, "--scaling-factor", "0.13025", "-o", tmp_path / "b.safetensors")
    (a,), (b,) = (load_file(tmp_path / f"{name}.safetensors").values() for name in "ab")
    assert torch.equal(a, b)


def test_a_file_of_a_folder_keeps_its_configuration(tmp_path):
    """The second variant in a folder is chosen by its file; config.json beside it says what no tensor does."""
    folder = shutil.copytree(FLUX.folder, tmp_path / "vae")
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.rename(folder / "diffusion_pytorch_model.bf16.safetensors")
    weights.write_text("another variant, which is not asked for")
    save_file({"latents": FLUX.latents(1, 2, 2, seed=32)}, tmp_path / "in.safetensors")
    arguments = ["--log=info", "decode", "--no-metadata", tmp_path / "in.safetensors", "--model"]
    said = run(*arguments, folder / "diffusion_pytorch_model.bf16.safetensors", "-o", tmp_path / "a.safetensors").stderr
    assert "config.json" in said and "assumed" not in said
    run(*arguments, FLUX.folder, "-o", tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
