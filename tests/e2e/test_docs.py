"""The Python in the documentation runs as printed, and prints what is printed there."""

import re
import shutil
import subprocess
import sys

import pytest
from place import PHOTOGRAPH, PHOTOGRAPH_LATENTS, ROOT, binary, clean_environment
from service import serving

# Pages whose Python talks to a plain `remote-vae serve` on its usual port.
PAGES = ["uis.md", "encode.md"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with serving([], tmp_path_factory.mktemp("plain") / "log") as service:
        yield service


@pytest.mark.parametrize("page", PAGES)
def test_python(plain, tmp_path, page):
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```\n\n```\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) == text.count("```python") > 0
    # What quickstart writes.
    (tmp_path / "remote-vae-quickstart").mkdir()
    shutil.copy(PHOTOGRAPH_LATENTS, tmp_path / "remote-vae-quickstart" / "latents.safetensors")
    shutil.copy(PHOTOGRAPH, tmp_path / "remote-vae-quickstart" / "picture.png")
    for code, printed in blocks:
        code = code.replace("http://127.0.0.1:8080", plain.url)
        result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert (result.returncode, result.stdout) == (0, printed), result.stderr


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
