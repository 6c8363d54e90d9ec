"""The commands and the code in the documentation, and a shell in which they run as somebody would type them."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from place import ROOT, binary, clean_environment

# How a block begins that shows what was typed and what came back.
PROMPT = "$ "


@dataclass
class Block:
    """A block of a page: `kind` is sh, python, session, or what else stands behind the backticks."""

    page: str
    kind: str
    text: str
    # The block behind it, if it says what is printed.
    printed: str | None = None

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Each command with what the page shows of its output."""
        if self.kind == "sh":
            joined = re.findall(r"(?:.*\\\n)*.*\n", self.text)
            return [(command.strip(), "") for command in joined if command.strip() and not command.startswith("#")]
        if self.kind == "session":
            return re.findall(r"^\$ ((?:[^\n]*\\\n)*[^\n]*\n)(.*?)(?=^\$ |\Z)", self.text, re.M | re.S)
        return []


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in their order. Plain ones count as sessions if they show a prompt, else as `text`."""
    found, after = [], ""
    parts = re.split(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.M | re.S)
    for before, language, text in zip(parts[::3], parts[1::3], parts[2::3]):
        is_session = language in ("", "console") and text.startswith(PROMPT)
        kind = "session" if is_session else {"bash": "sh", "shell": "sh", "": "text"}.get(language, language)
        if kind == "text" and text.startswith("remote-vae "):
            kind = "sh"
        # Nothing but an empty line between the code and this.
        if kind == "text" and before == "\n\n" and after == "python":
            found[-1].printed = text
        else:
            found.append(Block(page.name, kind, text))
        after = kind
    return found


# What differs from one run and one machine to the next.
MASKS = {
    r"\x1b\[[0-9;]*m|\r": "",
    r"[0-9]{4}-[0-9-]+T[0-9:.]+Z": "TIME",
    r"\b[0-9]+(\.[0-9]+)?( ?m?s\b|/s)": r"N\2",
    r"\b(dur|load_ms|warm_up_ms|queue_ms|work_ms|memory_mib|ms)=[0-9.]+": r"\1=N",
    r"retry-after: [0-9]+": "retry-after: N",
    r"(bytes|seconds|_sum)(\{[^}]*\})? [0-9.]+": r"\1\2 N",
    r"\b[0-9.]+ ?(B|KiB|MiB|GiB|kB|MB|GB)\b": r"N \1",
    r"\"[0-9]+MiB\"": '"N MiB"',
    r"content-length: [0-9]+": "content-length: N",
    r"x-request-id: [0-9a-f]+": "x-request-id: ID",
    r'id="[0-9a-f]{16}"': 'id="ID"',
    r'engine="[^"]*"|cpu, .* threads': "ENGINE",
    r"(threads = )[0-9]+": r"\1N",
    r"(127\.0\.0\.1|localhost):[0-9]+": "ADDRESS",
    r"port = [0-9]+": "port = N",
    r"(?m)^date: .*\n": "",
    r"(?m)^\[[0-9]+\].*\n": "",  # the shell's own word on jobs
    r"[ \t]+": " ",
}


def masked(text: str) -> str:
    for pattern, mask in MASKS.items():
        text = re.sub(pattern, mask, text)
    return text.strip()


def without_log(shown: str) -> tuple[str, list[str]]:
    """What a page shows of a command, and the lines among it that a server in the background wrote into its log."""
    lines = masked(shown).splitlines()
    return "\n".join(line for line in lines if not line.startswith("TIME ")), [line for line in lines if line.startswith("TIME ")]


def is_shown(shown: str, printed: str) -> bool:
    """Whether lines were printed as the page shows them; `...` stands for any number of others."""
    parts = [re.escape(part.strip("\n")) for part in re.split(r"^\.\.\.$", masked(shown), flags=re.M)]
    return re.fullmatch(r"\n?(?:.*\n)*?".join(parts) + r"\n?", masked(printed) + "\n") is not None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Shell:
    """A bash in a folder, which keeps its variables, its jobs and its place from one command to the next. The ports of the
    page are replaced by free ones; the port that `serve` takes by itself is among them."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.log = folder / "server.log"
        self.ports = {"8080": free_port()}
        path = os.pathsep.join([str(binary().parent), str(Path(sys.executable).parent), os.environ["PATH"]])
        variables = {"PATH": path, "REMOTE_VAE_PORT": str(self.ports["8080"]), "HOME": str(folder), "HF_HUB_CACHE": ""}
        self.process = subprocess.Popen(
            ["bash", "--norc"],
            cwd=folder,
            env=clean_environment(**variables, **environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.output = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.output += line

    def local(self, text: str) -> str:
        """The text with the ports of this shell."""

        def replace(found: re.Match) -> str:
            port = self.ports.setdefault(found[2], free_port())
            return f"{found[1]}{port}"

        return re.sub(r"(:|--port |PORT=)([0-9]{4,5})\b", replace, text)

    def run(self, command: str, seconds: float = 300) -> tuple[int, str]:
        """Its exit code and what it printed."""
        start, mark = len(self.output), f"done-{time.monotonic_ns()}"
        self.process.stdin.write(f"{self.local(command)}\necho {mark} $?\n")
        self.process.stdin.flush()
        end = time.monotonic() + seconds
        while not (found := re.search(rf"{mark} ([0-9]+)\n", self.output[start:])):
            assert time.monotonic() < end, f"not done after {seconds} s: {command}\n{self.output[start:]}"
            assert self.process.poll() is None, self.output[start:]
            time.sleep(0.01)
        return int(found[1]), self.output[start : start + found.start()]

    def serve(self, command: str) -> None:
        """Starts a server as the page says, and waits until it is ready."""
        port = self.local(command).partition("--port ")[2].split() or [str(self.ports["8080"])]
        scheme = "https" if "--tls-cert" in command else "http"
        code, printed = self.run(f"{command.strip().removesuffix('&')} >>{self.log} 2>&1 &")
        assert code == 0, printed
        end = time.monotonic() + 120
        while time.monotonic() < end:
            ask = ["curl", "-fsk", "-o", "/dev/null", f"{scheme}://localhost:{port[0]}/ready"]
            if subprocess.run(ask, check=False).returncode == 0:
                return
            # A server that ends is a job no longer.
            assert self.run("jobs -r | grep -c serve")[1].strip() != "0", self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"not ready: {command}\n{self.log.read_text()}")

    def has_logged(self, lines: list[str], seconds: float = 5) -> bool:
        """Whether a server has written these lines, or does so soon."""
        end = time.monotonic() + seconds
        while True:
            log = masked(self.log.read_text()).splitlines() if lines else []
            if all(line in log for line in lines) or time.monotonic() > end:
                return all(line in log for line in lines)
            time.sleep(0.05)

    def stop_serving(self) -> None:
        """Ends what runs in the background, as somebody does who goes on to the next section."""
        self.run("kill $(jobs -p) 2>/dev/null; wait 2>/dev/null")

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def fresh_clone(folder: Path) -> Path:
    """The tree as git has it, with the binary where a build puts it."""
    names = subprocess.check_output(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True)
    for name in names.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "target" / "release").mkdir(parents=True)
    (folder / "target" / "release" / "remote-vae").symlink_to(binary())
    return folder
