"""The wheel, as somebody gets it who has neither this checkout nor torch."""

import functools
import http.server
import importlib.metadata
import os
import re
import subprocess
import sys
import threading
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from place import ROOT, clean_environment


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """As `pip install ./python` builds it; with the tools that are installed, so that nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, ROOT / "python"]
    built = subprocess.run(command, env=os.environ | {"PATH": tools}, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = folder.glob("*.whl")
    return file


def required(names: set[str]) -> set[str]:
    """These packages and all that they require here."""
    found, queue = set(), list(names)
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            for line in importlib.metadata.requires(name) or []:
                requirement = Requirement(line)
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    queue.append(requirement.name)
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of programs of a new environment, into which the wheel was installed by its name. What it declares to
    require comes from this environment, and nothing else does."""
    folder = tmp_path_factory.mktemp("fresh")
    index = folder / "index" / "simple" / "remote-vae"
    index.mkdir(parents=True)
    (index / wheel.name).symlink_to(wheel)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder / "index")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / "bin"
    url = f"http://127.0.0.1:{server.server_port}/simple"
    try:
        command = [programs / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--index-url", url, "remote-vae"]
        subprocess.run(command, check=True, timeout=120)
    finally:
        server.shutdown()

    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    declared = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.+)$", metadata, re.M)]
    names = {one.name for one in declared if one.marker is None or one.marker.evaluate({"extra": ""})}
    assert names == {"httpx2", "numpy"}
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    for name in required(names):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (packages / top).exists():
                (packages / top).symlink_to(source)
    return programs


def test_what_is_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        sources = {name for name in names if name.startswith("remote_vae/")}
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    files = [file for file in (ROOT / "python" / "src").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert sources == {str(file.relative_to(ROOT / "python" / "src")) for file in files}
    assert "remote_vae/py.typed" in sources
    assert any(name.endswith(".data/scripts/remote-vae") for name in names)
    assert any(name.endswith("/LICENSE") for name in names)
    version = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    assert f"Version: {version}\n" in metadata and "License-Expression: Apache-2.0\n" in metadata


def test_the_program(installed):
    printed = subprocess.check_output([installed / "remote-vae", "--version"], text=True, timeout=60)
    assert printed.startswith("remote-vae 0.")


def test_the_package_decodes_without_torch(installed, server):
    code = f"""
import importlib.metadata, importlib.util, numpy, remote_vae
assert importlib.util.find_spec("torch") is None and importlib.util.find_spec("PIL") is None
assert remote_vae.__version__ == importlib.metadata.version("remote-vae")
latents = numpy.random.default_rng(0).standard_normal((1, 16, 4, 6), numpy.float32)
values = remote_vae.decode(latents, "{server.url}/demo", output_type="pt", do_scaling=True)
assert values.shape == (1, 3, 32, 48) and values.dtype == numpy.float16
assert remote_vae.decode(latents, "{server.url}/demo", return_type="file")[:2] == b"\\xff\\xd8"
try:
    remote_vae.RemoteAutoencoder("{server.url}")
except ModuleNotFoundError as error:
    print(error)
"""
    environment = {name: value for name, value in clean_environment().items() if name != "PYTHONPATH"}
    command = [installed / "python", "-I", "-c", code]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60).stdout
    assert "torch" in printed and "pip install 'remote-vae[diffusers]'" in printed
