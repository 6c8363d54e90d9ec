"""Runs the engines in turn, each in a process of its own that sleeps while the others work."""

import argparse
import ctypes
import http.client
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from environment import HERE, ROOT, Failure, build
from record import Record

LIBC = ctypes.CDLL(None)
TICKS = os.sysconf("SC_CLK_TCK")


def end_with_parent() -> None:
    """Run in a new process: whatever ends this program, no stopped engine stays behind with its memory."""
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Engine:
    """A process that has loaded its model. It is stopped while it has nothing to do, so that no pool of threads that
    waits by spinning disturbs the others."""

    def __init__(self, name: str, command: list, log: Path, **pipes) -> None:
        self.name, self.log = name, log
        with log.open("wb") as output:
            pipes.setdefault("stdout", output)
            command = list(map(str, command))
            self.process = subprocess.Popen(command, stderr=output, preexec_fn=end_with_parent, **pipes)

    def sleep(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def failed(self, what: str) -> Failure:
        return Failure(f"{self.name} {what}; it said:\n{self.log.read_text(errors='replace')[-3000:]}")

    def processor_seconds(self) -> float:
        """Of all its threads so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def peak_memory(self) -> int:
        """The most bytes that the process has had in memory since it started."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


class Peer(Engine):
    """A `worker.py`."""

    def __init__(self, name: str, common: dict, threads: int, folder: Path) -> None:
        command = [sys.executable, HERE / "worker.py", "serve", common["folder"], name.replace("-", "_"), threads]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        super().__init__(name, command, folder / f"{name}.log", **pipes)
        self.pixels = folder / f"{name}.u8"
        answer = self.answer()
        self.version, self.load_seconds = answer["version"], answer["seconds"]

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise self.failed("ended by itself")
        return json.loads(line)

    def decode(self) -> tuple[float, bytes]:
        """The engine's own seconds, and the picture."""
        self.process.stdin.write(f"{self.pixels}\n")
        return self.answer()["seconds"], self.pixels.read_bytes()


# What is served, with flags of `remote-vae serve`.
OURS = {"remote-vae": [], "remote-vae-1-thread": ["--threads=1"], "remote-vae-f16": ["--storage=f16"]}


class Ours(Engine):
    """Our server; a decode is a whole request over HTTP."""

    def __init__(self, name: str, binary: Path, common: dict, threads: int, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [binary, "serve", f"--port={self.port}", f"--model=sd-v1={common['checkpoint']}"]
        flags = OURS[name] if "--threads=1" in OURS[name] else [f"--threads={threads}", *OURS[name]]
        start = time.perf_counter()
        super().__init__(name, command + flags, folder / f"{name}.log", stdin=subprocess.DEVNULL)
        latents = np.load(Path(common["folder"]) / "latents.npy")
        self.latents = latents.tobytes()
        shape = "&".join(f"shape={side}" for side in latents.shape)
        self.query = f"/?{shape}&dtype=float32&do_scaling=False&partial_postprocess=True"
        while self.get("/ready") != 200:
            if self.process.poll() is not None:
                raise self.failed("ended by itself")
            time.sleep(0.02)
        self.load_seconds = time.perf_counter() - start

    def get(self, path: str) -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return None
        finally:
            connection.close()

    def decode(self) -> tuple[float, bytes]:
        """Seconds from the request to the last byte of its answer, and the picture."""
        headers = {"Content-Type": "tensor/binary", "Accept": "tensor/binary"}
        start = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        connection.request("POST", self.query, self.latents, headers)
        answer = connection.getresponse()
        pixels = answer.read()
        seconds = time.perf_counter() - start
        connection.close()
        if answer.status != 200:
            raise self.failed(f"answered {answer.status} {pixels[:300]}")
        return seconds, pixels


def checked(name: str, pixels: bytes, reference: np.ndarray) -> dict:
    """How near the picture is to diffusers'. A wrong one ends the comparison."""
    difference = np.abs(np.frombuffer(pixels, np.uint8).reshape(reference.shape) - reference)
    largest, equal = int(difference.max()), float((difference == 0).mean())
    square = float((difference.astype(np.float64) ** 2).mean())
    psnr = 10 * np.log10(255**2 / square) if square else None
    # What the project promises of its own answers in float32; of the others, what it promises of half precision.
    exact = name in OURS and not name.endswith("-f16")
    good = largest <= 1 and equal >= 0.985 if exact else psnr is None or psnr >= 52
    if not good:
        raise Failure(
            f"{name} decodes something else: bytes are up to {largest} from diffusers' and {equal:.2%} of them equal"
        )
    return {"largest_difference": largest, "equal": round(equal, 5), "psnr_db": psnr and round(psnr, 2)}


def prepare(size: int, engines: list[str]) -> dict:
    """Makes what is missing of the files, in a process of its own, which gives all memory back."""
    say(f"{size}: preparing files ...")
    peers = [name.replace("-", "_") for name in engines if name not in OURS]
    command = [sys.executable, HERE / "worker.py", "prepare", str(size), *peers]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise Failure(f"the files could not be prepared:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> Record:
    """Measures what the arguments ask for."""
    binary = (args.binary or build()).resolve()
    about = [binary, "bench", "--json", "--sizes=8", "--runs=1", f"--threads={args.threads}"]
    result = subprocess.run(about, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise Failure(f"{binary} does not run: {result.stderr}")
    about = json.loads(result.stdout)
    record = Record.begin(about, os.cpu_count(), platform.system(), args.record or ROOT / "bench" / "records")
    for size in args.sizes:
        with tempfile.TemporaryDirectory(prefix="peers-") as folder:
            measure(args, binary, size, record, Path(folder))
    say(f"recorded: {record.path}")
    return record


def measure(args: argparse.Namespace, binary: Path, size: int, record: Record, folder: Path) -> None:
    """All rounds of one size; the record is written after each."""
    common = prepare(size, args.engines)
    reference = np.load(Path(common["folder"]) / "pixels.npy").astype(np.int16)

    engines: list[Engine] = []
    session = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": common["model"],
        "size": size,
        "threads": args.threads,
        "engines": {},
        "rounds": [],
    }

    def decode(engine: Engine) -> dict:
        engine.wake()
        before = engine.processor_seconds()
        seconds, pixels = engine.decode()
        spent = engine.processor_seconds() - before
        engine.sleep()
        near = checked(engine.name, pixels, reference)
        session["engines"][engine.name] |= near
        return {"seconds": round(seconds, 4), "processor_seconds": round(spent, 2)}

    try:
        for name in args.engines:
            if name in OURS:
                engine = Ours(name, binary, common, args.threads, folder)
                version = None
            else:
                engine = Peer(name, common, args.threads, folder)
                version = engine.version
            engines.append(engine)
            about = {"version": version, "load_seconds": round(engine.load_seconds, 3)}
            session["engines"][name] = about
            about["first"] = decode(engine)
            say(f"{size}: {name} loaded in {engine.load_seconds:.1f} s, first decode {about['first']['seconds']:.2f} s")
        for number in range(args.rounds):
            if args.step:
                say(f"{size}: round {number + 1} waits for a line on stdin")
                sys.stdin.readline()
            # Each one goes first, second, ... in turn.
            at = number % len(engines)
            row = {engine.name: decode(engine) for engine in engines[at:] + engines[:at]}
            session["rounds"].append({engine.name: row[engine.name] for engine in engines})
            times = ", ".join(f"{name} {took['seconds']:.2f}" for name, took in session["rounds"][-1].items())
            say(f"{size}: round {number + 1} of {args.rounds}: {times}")
            for engine in engines:
                session["engines"][engine.name]["peak_memory_bytes"] = engine.peak_memory()
            if number == 0:
                record.add(session)
            record.write()
    finally:
        for engine in engines:
            engine.end()
