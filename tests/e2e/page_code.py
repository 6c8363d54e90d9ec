"""Runs the code that the page shows."""

import functools
import json
import subprocess
import sys
from pathlib import Path

from place import ROOT, clean_environment


def run_curl(command: str, folder: Path, **environment: str) -> None:
    run(["sh", "-ec", command], folder, environment)


def run_python(code: str, folder: Path, **environment: str) -> None:
    run([sys.executable, "-c", code], folder, environment)


def run_rust(code: str, folder: Path, **environment: str) -> None:
    """Compiled against the libraries of the release build, as they are."""
    source = folder / "main.rs"
    source.write_text(code)
    program = folder / "program"
    client, dependencies = client_library()
    command = ["rustc", "--edition=2024", "-Dwarnings", source, "-o", program, f"--extern=client={client}"]
    run([*command, "-L", f"dependency={dependencies}"], folder, {})
    run([program], folder, environment)


@functools.cache
def client_library() -> tuple[str, Path]:
    """The client's crate as cargo has built it for the binary, and the folder of what it needs."""
    command = ["cargo", "build", "--release", "--locked", "--offline", "--message-format=json"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "client":
            library = next(name for name in message["filenames"] if name.endswith(".rlib"))
            return library, Path(library).parent / ("" if Path(library).parent.name == "deps" else "deps")
    raise AssertionError("the build has no client")


def run(command: list, folder: Path, environment: dict[str, str]) -> None:
    variables = clean_environment(**environment)
    result = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
