"""Clients that programs make of the API's description decode and encode; and a program that makes up requests by it is
answered as it says."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from compare import assert_bytes, assert_floats, pixels
from PIL import Image
from place import CACHE, PHOTOGRAPH, ROOT, clean_environment
from service import serving

PROGRAMS = ROOT / "tests" / "e2e" / "generated"


@pytest.fixture(scope="module")
def tools() -> Path:
    """The folder of the generators, installed by the script that ./test runs too."""
    folder = CACHE / "generators"
    subprocess.run([ROOT / "tools" / "generators" / "install.sh", folder], check=True)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(["--model=demo=demo"], tmp_path_factory.mktemp("generated") / "log") as service:
        yield service


@pytest.fixture(scope="module")
def document(served, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("document") / "openapi.json"
    file.write_bytes(requests.get(f"{served.url}/openapi.json", timeout=10).content)
    return file


@pytest.fixture(scope="module")
def latents(demo, tmp_path_factory):
    """In a file as the programs read it, and as diffusers decodes it."""
    latents = demo.latents(1, 8, 12)
    file = tmp_path_factory.mktemp("latents") / "latents"
    file.write_bytes(latents.numpy().tobytes())
    return file, demo.decoded(demo.unscaled(latents))


def run(tools: Path, folder: Path, *command, **environment: str) -> str:
    path = f"{tools / 'bin'}{os.pathsep}{tools / 'node_modules' / '.bin'}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        command,
        cwd=folder,
        env=clean_environment(PATH=path, **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def original(folder: Path) -> bytes:
    """A picture for the program to encode."""
    Image.open(PHOTOGRAPH).convert("RGB").resize((64, 48)).save(folder / "original.png")
    return (folder / "original.png").read_bytes()


def check(folder: Path, served, reference: torch.Tensor) -> None:
    """What both programs have written."""
    assert_bytes(pixels((folder / "picture.png").read_bytes(), "PNG")[None], reference)
    values = np.frombuffer((folder / "values").read_bytes(), np.float16).reshape(1, 3, 64, 96)
    assert_floats(torch.from_numpy(values.copy()), reference)
    assert_bytes(np.frombuffer((folder / "bytes").read_bytes(), np.uint8).reshape(1, 64, 96, 3), reference)
    answer = requests.post(f"{served.url}/?seed=7", data=(folder / "original.png").read_bytes(), timeout=60)
    assert (folder / "encoded").read_bytes() == answer.content


def test_a_client_in_python(tools, served, document, latents, tmp_path):
    file, reference = latents
    said = run(tools, tmp_path, "openapi-python-client", "generate", f"--path={document}", "--output-path=made", "--meta=none")
    # What it cannot do is send or read media types that HTTP libraries do not know, and nothing else.
    faults = [line for line in said.splitlines() if "nsupported" in line or "annot" in line or "rror" in line]
    assert all("image/*" in line or "tensor/" in line or "openmetrics" in line for line in faults), said
    package = tmp_path / "package" / "remote_vae_client"
    package.parent.mkdir()
    (tmp_path / "made").rename(package)
    original(tmp_path)
    run(tools, tmp_path, "python", PROGRAMS / "decode.py", served.url, file, tmp_path, PYTHONPATH=str(package.parent))
    check(tmp_path, served, reference)
    assert_bytes(pixels((tmp_path / "by-json.png").read_bytes(), "PNG")[None], reference)


def test_clients_in_typescript(tools, served, document, latents, tmp_path):
    file, reference = latents
    (tmp_path / "node_modules").symlink_to(tools / "node_modules")
    shutil.copy(PROGRAMS / "decode.ts", tmp_path)
    run(tools, tmp_path, "openapi-ts", "-i", document, "-o", "client")
    run(tools, tmp_path, "openapi-typescript", document, "-o", "types.d.ts")
    strict = ["--strict", "--skipLibCheck", "--target", "es2022", "--module", "commonjs", "--moduleResolution", "node10"]
    run(tools, tmp_path, "tsc", *strict, "--esModuleInterop", "--types", "node", "--outDir", "built", "decode.ts")
    original(tmp_path)
    run(tools, tmp_path, "node", "built/decode.js", served.url, file, tmp_path)
    check(tmp_path, served, reference)
    assert (tmp_path / "by-json").stat().st_size == (tmp_path / "values").stat().st_size
    assert_bytes(pixels((tmp_path / "by-types.png").read_bytes(), "PNG")[None], reference)


def test_requests_that_are_made_up(tools, served, tmp_path):
    """A few of each operation, the same ones each time. That a server refuses what its description allows is no fault:
    shapes and models that fit are more than a description can say."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    said = run(
        tools,
        tmp_path,
        "schemathesis",
        f"--config-file={PROGRAMS / 'schemathesis.toml'}",
        "run",
        f"{served.url}/openapi.json",
        f"--checks={checks}",
        "--phases=examples,coverage,fuzzing",
        "--max-examples=12",
        "--seed=1",
        "--generation-deterministic",
        "--request-timeout=20",
        "--no-color",
    )
    # It ends with 0 as well where it has tried nothing.
    assert int(re.search(r"([0-9]+) generated, \1 passed", said)[1]) > 100, said
    assert requests.get(f"{served.url}/ready", timeout=10).status_code == 200
