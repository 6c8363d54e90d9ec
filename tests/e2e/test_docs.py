"""The Python in the documentation runs as printed, and prints what is printed there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub import standing_in
from models import FLUX, SD_V1, SDXL
from place import PHOTOGRAPH, PHOTOGRAPH_LATENTS, ROOT, binary, clean_environment
from service import Service, serving
from test_single_file import original

# Pages whose Python talks to a plain `remote-vae serve` on its usual port.
PAGES = ["uis.md", "encode.md"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with serving([], tmp_path_factory.mktemp("plain") / "log") as service:
        yield service


def after_quickstart(folder: Path) -> None:
    """What quickstart writes."""
    (folder / "remote-vae-quickstart").mkdir()
    shutil.copy(PHOTOGRAPH_LATENTS, folder / "remote-vae-quickstart" / "latents.safetensors")
    shutil.copy(PHOTOGRAPH, folder / "remote-vae-quickstart" / "picture.png")


def sessions(page: str) -> list[str]:
    """The blocks that show commands and what they print."""
    return re.findall(r"^```\n(\$ .*?)^```", (ROOT / "docs" / page).read_text(), re.M | re.S)


# What differs from one run to the next.
MASKS = {
    r"[0-9]{4}-[0-9-]+T[0-9:.]+Z": "TIME",
    r"\b[0-9]+\.[0-9]+( ?s\b|/s)": r"N\1",
    r"\b(dur|load_ms|warm_up_ms)=[0-9.]+": r"\1=N",
    r"x-request-id: [0-9a-f]+": "x-request-id: ID",
    r'engine="[^"]*"|cpu, .* threads': "ENGINE",
    r"127\.0\.0\.1:[0-9]+": "ADDRESS",
    "(?m)^date: .*\n": "",
    "\x1b\\[[0-9;]*m|\r": "",
}


def masked(text: str) -> str:
    for pattern, mask in MASKS.items():
        text = re.sub(pattern, mask, text)
    return text


@pytest.mark.parametrize("page", PAGES)
def test_python(plain, tmp_path, page):
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```\n\n```\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) == text.count("```python") > 0
    after_quickstart(tmp_path)
    for code, printed in blocks:
        code = code.replace("http://127.0.0.1:8080", plain.url)
        result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert (result.returncode, result.stdout) == (0, printed), result.stderr


def test_encoding_from_a_shell(plain, tmp_path):
    """Each command of the page, one after the other, prints what the page shows."""
    after_quickstart(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("420.jpg", "rgb.png", "lossy.webp"):
        shutil.copy(ROOT / "fixtures" / "images" / name, tmp_path / "photos" / name)
    environment = clean_environment(PATH=f"{binary().parent}{os.pathsep}{os.environ['PATH']}")
    count = 0
    for session in sessions("encode.md"):
        for command, shown in re.findall(r"^\$ (.*?[^\\])\n(.*?)(?=^\$ |\Z)", session, re.M | re.S):
            command = command.replace("http://127.0.0.1:8080", plain.url)
            result = subprocess.run(
                ["sh", "-ec", command],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=120,
            )
            assert result.returncode == 0, result.stdout
            assert masked(result.stdout).strip() == masked(shown).strip()
            count += 1
    assert count >= 5


@pytest.mark.parametrize("index", [0, 1])
def test_the_log_of_models(tmp_path, index):
    """What the page shows of a server that takes its models from files and from the hub."""
    page = "serve-a-checkpoint.md"
    session = [session for session in sessions(page) if "remote-vae serve" in session][index]
    command, *shown = masked(session).splitlines()
    if index == 0:
        (warning,) = [block for block in re.findall(r"^```\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.M | re.S) if " WARN " in block]
        shown += masked(warning).splitlines()
    for name, model, inside in [
        ("ae.safetensors", FLUX, None),
        ("sd_xl_base_1.0.safetensors", SDXL, "sdxl"),
        ("sdxl_vae.safetensors", SD_V1, None),
    ]:
        (tmp_path / name).symlink_to(original(model, inside))
    arguments = re.sub(r"^\$ remote-vae serve|--port \S+", "", command).split()
    if index == 0:
        arguments += ["--model", "bare=./sdxl_vae.safetensors"]
    with standing_in() as hub:
        hub.add("stabilityai/sd-vae-ft-mse", SD_V1.folder)
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_CACHE": ""}
        service = Service(arguments, tmp_path / "log", tmp_path, **environment)
        try:
            service.wait_until_ready()
        finally:
            service.stop()
    log = masked(service.log.read_text()).splitlines()
    missing = [line for line in shown if line != "..." and line not in log]
    assert missing == [], "\n".join(log)


def test_the_list_of_models(tmp_path):
    """The page shows what the program prints where nothing has been downloaded."""
    text = (ROOT / "docs" / "serve-a-checkpoint.md").read_text()
    (shown,) = re.findall(r"^```\n\$ remote-vae models\n(.*?)^```", text, re.M | re.S)
    environment = clean_environment(HF_HOME=str(tmp_path), HF_HUB_CACHE="")
    assert subprocess.check_output([binary(), "models"], env=environment, text=True) == shown


def test_the_paths_of_the_api(plain):
    """The command of the page on the page prints what it says."""
    text = (ROOT / "docs" / "page.md").read_text()
    ((command, shown),) = re.findall(r"^```\n\$ (curl .*?)\n(.*?)^```", text, re.M | re.S)
    command = command.replace("http://127.0.0.1:8080", plain.url)
    assert subprocess.check_output(["sh", "-ec", command], text=True) == shown
