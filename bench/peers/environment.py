"""Where things are, and the virtual environment with the peers. Runs with Python's own library only."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "remote-vae"
VENV = CACHE / "peers"


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
        print(f"Installing the peers into {VENV} (some GB; once) ...", file=sys.stderr)
        for command in (
            [sys.executable, "-m", "venv", VENV],
            [python, "-m", "pip", "install", "--quiet", "-r", files[0]],
        ):
            if subprocess.run(command).returncode != 0:
                raise Failure(f"the peers could not be installed into {VENV}, see above")
        stamp.write_text(pins)
    os.execv(python, [python, str(HERE), *sys.argv[1:]])


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
