"""The real binary, started as a person would start it."""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import requests
from place import binary, clean_environment


class Service:
    """A running `remote-vae serve`; its log is in `log`."""

    def __init__(
        self, arguments: list[str], log: Path, folder: Path | None = None, program: Path | None = None, **environment: str
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        command = [program or binary(), "serve", "--port", str(self.port), *arguments]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=clean_environment(**environment),
            )

    def wait_until_ready(self, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the server ended by itself:\n{self.log.read_text()}"
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{self.url}/ready", timeout=10).status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"the server was not ready after {seconds} s:\n{self.log.read_text()}")

    def stop(self, seconds: float = 120) -> int:
        """Asks it to stop and gives its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()


@contextlib.contextmanager
def serving(arguments: list[str], log: Path, program: Path | None = None, **environment: str) -> Iterator[Service]:
    service = Service(arguments, log, program=program, **environment)
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.stop()
