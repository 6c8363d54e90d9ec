"""Thousands of latents through `remote-vae decode`, while servers and clients are killed in the middle."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from diffusers import AutoencoderKL
from place import ROOT, binary, clean_environment
from safetensors.torch import save_file
from service import Service, serving

COUNT = 2000
SHAPE = (1, 2, 4, 5)
# A model of one block: what is tested is everything around it.
MODEL = ROOT / "fixtures" / "vae" / "one-block"
# Pages that the allocator has not given back, and no more.
SLACK = 8 << 20


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(COUNT, *SHAPE[1:], generator=torch.Generator().manual_seed(0)).half()


@pytest.fixture(scope="module")
def folder(latents, tmp_path_factory) -> Path:
    """Half of them in files of their own, half in one file."""
    folder = tmp_path_factory.mktemp("latents")
    for index in range(COUNT // 2):
        save_file({"latents": latents[index : index + 1].clone()}, folder / f"{index:04}.safetensors")
    rest = {f"{index:04}": latents[index : index + 1].clone() for index in range(COUNT // 2, COUNT)}
    save_file(rest, folder / "rest.safetensors")
    return folder


@pytest.fixture(scope="module")
def expected(latents) -> torch.Tensor:
    """What diffusers makes of them."""
    model = AutoencoderKL.from_pretrained(MODEL, low_cpu_mem_usage=False).eval()
    with torch.no_grad():
        return torch.cat([model.decode(part.float() / model.config.scaling_factor).sample for part in latents.split(100)])


class Restarted(Service):
    """The same server once more, at the same address."""

    def __init__(self, service: Service) -> None:
        self.port, self.url, self.log = service.port, service.url, service.log
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                service.process.args,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=clean_environment(),
            )


def client(folder: Path, out: Path, url: str, *flags: str) -> subprocess.Popen:
    command = [binary(), "decode", folder, "-o", f"{out}/", "--output-type", "pt", "--tensor-format", "npy", "--json"]
    command += ["--endpoint", url, *flags]
    with (out.parent / "events").open("ab") as events, (out.parent / "stderr").open("ab") as stderr:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=events, stderr=stderr, env=clean_environment()
        )


def wait_for(out: Path, count: int, process: subprocess.Popen) -> int:
    """Until so many files are written. Returns the bytes that the client had in memory when it was last seen at work."""
    seen = 0
    while written(out) < count:
        if process.poll() is None:
            seen = memory(process) or seen
        else:  # on a fast machine it writes the rest between two looks
            assert written(out) >= count, (out.parent / "stderr").read_text()
        time.sleep(0.01)
    return seen


def written(out: Path) -> int:
    return len(list(out.glob("*.npy")))


def memory(process: subprocess.Popen) -> int:
    """Bytes that a process has in memory; none when it has just ended."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS"))


def events(out: Path) -> list[dict]:
    lines = (out.parent / "events").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_all_right(out: Path, expected: torch.Tensor) -> None:
    names = [f"{index:04}.npy" for index in range(COUNT // 2)]
    names += [f"rest-{index:04}.npy" for index in range(COUNT // 2, COUNT)]
    assert sorted(path.name for path in out.glob("*.npy")) == sorted(names)
    got = torch.from_numpy(np.concatenate([np.load(out / name) for name in names]))
    # The tolerance is that of compare.py, the reference that of all tests.
    reference = expected.half().float()
    error = ((got.float() - reference).abs() / reference.abs().clamp(min=1)).amax(dim=(1, 2, 3))
    assert error.max() <= 1.5e-3, f"{(error > 1.5e-3).sum()} of {COUNT} are wrong"


def test_the_server_is_killed_in_the_middle(folder, expected, tmp_path):
    out = tmp_path / "out"
    service = Service([f"--model=tiny={MODEL}", "--max-queue=16", "--threads=1"], tmp_path / "log")
    try:
        service.wait_until_ready()
        process = client(folder, out, service.url, "--jobs", "8")
        early = wait_for(out, COUNT // 5, process)
        service.process.kill()
        service.process.wait()
        before = written(out)
        assert before < COUNT, "it was over too early: nothing was tested"
        time.sleep(1)  # the client runs against the wall
        assert process.poll() is None
        assert written(out) <= before + 8, "nobody decodes"
        service = Restarted(service)
        late = wait_for(out, COUNT - 50, process)
        assert process.wait(60) == 0, (tmp_path / "stderr").read_text()
    finally:
        service.stop()
    assert_all_right(out, expected)
    *items, summary = events(out)
    assert Counter(item["event"] for item in items) == {"done": COUNT}
    assert len({item["output"] for item in items}) == COUNT, "none twice"
    assert (summary["done"], summary["failed"], summary["not_done"]) == (COUNT, 0, 0)
    assert early and late, "the client was seen at work"
    assert late <= early + SLACK, f"the client grew from {early >> 20} to {late >> 20} MiB"
    assert not list(out.glob(".*")), "nothing half done is left"


def test_the_client_is_killed_in_the_middle(folder, expected, tmp_path):
    """With more requests at a time than the server's queue takes, so that many are told to come back."""
    out = tmp_path / "out"
    with serving([f"--model=tiny={MODEL}", "--max-queue=16", "--threads=1"], tmp_path / "log") as service:
        process = client(folder, out, service.url, "--jobs", "24", "--resume")
        wait_for(out, COUNT // 3, process)
        process.kill()
        process.wait()
        before = {path.name for path in out.glob("*.npy")}
        assert COUNT // 3 <= len(before) < COUNT
        for name in before:
            np.load(out / name)  # each of them is whole
        text = (tmp_path / "events").read_text()
        (tmp_path / "events").write_text(text[: text.rfind("\n") + 1])
        first = {item["output"] for item in events(out)}

        assert client(folder, out, service.url, "--jobs", "24", "--resume").wait(120) == 0
        refused = requests.get(f"{service.url}/health", timeout=10)
        assert refused.ok, "and the server is well"
    assert_all_right(out, expected)
    *_, summary = events(out)
    assert (summary["skipped"], summary["done"], summary["failed"]) == (len(before), COUNT - len(before), 0)
    second = {item["output"] for item in events(out) if item["event"] == "done"} - first
    # A file is there before its line: the killed client may have been cut off between the two.
    assert len(second) <= COUNT - len(first)
    assert {Path(item["output"]).name for item in events(out) if item["event"] == "skipped"} == before


def test_the_example_for_python(server, tmp_path):
    """The unmodified client of diffusers with a thread and a queue, as documented."""
    script = ROOT / "examples" / "decode_queue.py"
    command = [sys.executable, script, f"{server.url}/demo", tmp_path]
    result = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("*.png"))) == 6
    assert result.stdout.count("decoded") == 6
    bare = subprocess.run([sys.executable, script], env=clean_environment(), capture_output=True, text=True, timeout=120)
    assert bare.returncode == 1 and "usage:" in bare.stderr and "Traceback" not in bare.stderr
