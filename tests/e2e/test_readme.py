"""The README's commands and code work as printed."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from compare import pixels, psnr
from models import SDXL
from place import PHOTOGRAPH, PHOTOGRAPH_PSNR, ROOT, binary, clean_environment
from service import serving

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def test_the_two_commands(folder):
    """The second is what runs this test; the first is typed in another folder, to leave the checkout as it is."""
    quickstart, test = blocks("sh")[0].splitlines()
    assert test.split("#")[0].strip() == "./test"
    cargo, run, *rest = shlex.split(quickstart, comments=True)
    command = [cargo, run, "--manifest-path", ROOT / "Cargo.toml", *rest]
    subprocess.run(command, cwd=folder, env=clean_environment(), check=True, timeout=600)


def test_the_picture_is_what_quickstart_makes(folder):
    (path,) = re.findall(r"!\[.*?\]\((.*?quickstart.*?)\)", README)
    shown = pixels((ROOT / path).read_bytes(), "JPEG")
    assert psnr(shown, pixels((folder / "remote-vae-quickstart" / "picture.jpg").read_bytes(), "JPEG")) > 40


def test_the_snippet(folder, server):
    """It decodes the latents that quickstart has written, with a server of the embedded model."""
    code, _ = blocks("python")
    assert "http://127.0.0.1:8080/" in code
    code = code.replace("http://127.0.0.1:8080/", f"{server.url}/demo")
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=120)
    picture = pixels((folder / "decoded.png").read_bytes(), "PNG")
    assert psnr(picture, pixels(PHOTOGRAPH.read_bytes(), "PNG")) >= PHOTOGRAPH_PSNR - 0.5  # its JPEG loses a little more


def test_the_snippet_of_our_package(server):
    _, code = blocks("python")
    assert "http://127.0.0.1:8080/" in code
    code = code.replace("http://127.0.0.1:8080/", f"{server.url}/demo")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python" / "src")}
    told = subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120, stdout=subprocess.PIPE)
    config = json.loads((ROOT / "assets" / "demo-vae" / "config.json").read_text())
    assert told.stdout.decode().split() == [str(config["scaling_factor"]), str(config["latent_channels"])]


def test_serving_a_real_checkpoint(tmp_path):
    """The command with the folder and the port of this test in it."""
    (command,) = [line for block in blocks("sh") for line in block.splitlines() if "serve sdxl=" in line]
    program, serve, *rest = shlex.split(command)
    assert (ROOT / program).name == binary().name
    assert serve == "serve"
    arguments = [re.sub(r"(sdxl)=.*", rf"\1={SDXL.folder}", argument) for argument in rest]
    assert any(str(SDXL.folder) in argument for argument in arguments)
    with serving(arguments, tmp_path / "log") as service:
        assert service.url


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")), ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_versions_agree():
    """The README names the diffusers that these tests run."""
    import diffusers

    pins = (ROOT / "tools" / "requirements.txt").read_text()
    assert f"diffusers=={diffusers.__version__}" in pins
    assert f"diffusers {'.'.join(diffusers.__version__.split('.')[:2])}" in README
    (rust,) = re.findall(r'^rust-version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M)
    assert f"Rust {rust} or newer" in README
