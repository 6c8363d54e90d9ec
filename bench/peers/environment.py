"""Where things are, and the virtual environment with the peers. Runs with Python's own library only."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "remote-vae"
VENV = CACHE / "peers"

# What requirements.txt and constraints.txt bring on x86-64 Linux, rounded up: GB to fetch (the sum of the wheels), GB on the
# disk, most of both PyTorch's libraries for graphics cards; and an estimate of what pip does beside fetching, in minutes.
FETCHED, INSTALLED, UNPACKING = 3.3, 6.5, 4
# The decoder of Stable Diffusion v1 in float32 for ONNX, MNN and ncnn, 0.2 GB each, for each size of pictures.
EXPORTED = 0.6


class Failure(Exception):
    """Something that the user can mend, in one sentence."""


def enter() -> None:
    """Continues this program in the virtual environment, which is made or brought up to date before."""
    if Path(sys.prefix) == VENV:
        return
    files = [HERE / "requirements.txt", HERE / "constraints.txt"]
    pins = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    python = VENV / "bin" / "python"
    stamp = VENV / "pins"
    if not (python.exists() and stamp.exists() and stamp.read_text() == pins):
        print(plan(again=python.exists()), file=sys.stderr, flush=True)
        check_disk()
        for command in (
            [sys.executable, "-m", "venv", VENV],
            [python, "-m", "pip", "install", "--quiet", "-r", files[0]],
        ):
            if subprocess.run(command).returncode != 0:
                raise Failure(f"the peers could not be installed into {VENV}, see above")
        stamp.write_text(pins)
    os.execv(python, [python, str(HERE), *sys.argv[1:]])


def plan(again: bool) -> str:
    """What is about to be installed and how long that takes, for people."""
    minutes = round(UNPACKING + FETCHED * 8e3 / 100 / 60)
    replaced = "Packages of older versions in that folder are replaced. " if again else ""
    return (
        f"Installing the engines to compare with, once, into {VENV}:\n"
        f"  about {FETCHED:g} GB to fetch from PyPI, {INSTALLED:g} GB on the disk, {minutes} minutes with 100 Mbit/s; and "
        f"{EXPORTED:g} GB for each size of pictures.\n"
        f"  {replaced}Nothing else is removed or changed; `rm -r {VENV}` removes all of it."
    )


def check_disk() -> None:
    """Before anything is fetched."""
    CACHE.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(CACHE).free / 1e9
    if free < INSTALLED + EXPORTED:
        raise Failure(
            f"the peers need {INSTALLED + EXPORTED:g} GB in {CACHE}, and there are {free:.1f} GB free; "
            f"XDG_CACHE_HOME names another folder"
        )


def build() -> Path:
    """A release build of the checkout."""
    print("Building remote-vae ...", file=sys.stderr)
    command = ["cargo", "build", "--quiet", "--release", "--locked", "--bin", "remote-vae", "--message-format=json"]
    try:
        result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise Failure("cargo is missing; install Rust, or name a --binary") from None
    if result.returncode != 0:
        raise Failure("remote-vae could not be built, see above")
    messages = [json.loads(line) for line in result.stdout.splitlines()]
    return Path(next(message["executable"] for message in reversed(messages) if message.get("executable")))
