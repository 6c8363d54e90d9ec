"""Compares remote-vae with PyTorch on a video: HunyuanVideo's decoder at its real configuration, with random weights.

    cargo build --release
    ~/.cache/remote-vae/venv/bin/python bench/video.py [--rounds N] [--latents F,H,W] [--record FILE]

In a round each engine is started in a process of its own, loads the model, decodes once and ends: ours over HTTP, from the
request to the last byte of its answer; PyTorch as the bare call of diffusers' `decode`. Memory is that of the process at
its peak, and how much of it was not there yet when the model was loaded; ours only maps its weights then, so what its
kernels make of them counts too. A time counts only when our bytes are within 1 of PyTorch's. Rounds are added to those
that the record has of the same build.
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))


def status(pid: int | str, name: str) -> int:
    """Bytes from `/proc/PID/status`."""
    return int(re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)[1]) * 1024


def reset_peak(pid: int | str) -> None:
    """Lets VmHWM begin anew, so that what loading took does not count; see proc(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def measured(pid: int | str, decode) -> tuple[dict, object]:
    loaded = status(pid, "VmRSS")
    reset_peak(pid)
    start = time.perf_counter()
    result = decode()
    seconds = time.perf_counter() - start
    peak = status(pid, "VmHWM")
    return {"seconds": round(seconds, 2), "peak_bytes": peak, "loaded_bytes": loaded}, result


def pytorch(shape: list[int], threads: int) -> tuple[dict, bytes]:
    """Runs in a process of its own."""
    import torch
    from compare import round8
    from models import HUNYUAN_VIDEO

    torch.set_num_threads(threads)
    vae = HUNYUAN_VIDEO.reference
    latents = HUNYUAN_VIDEO.unscaled(HUNYUAN_VIDEO.latents(*shape, seed=40))
    with torch.inference_mode():
        found, pixels = measured("self", lambda: vae.decode(latents).sample)
    return found, round8(pixels[0].transpose(0, 1)).tobytes()


def remote_vae(shape: list[int], threads: int) -> tuple[dict, bytes]:
    import requests
    from models import HUNYUAN_VIDEO
    from service import serving

    latents = HUNYUAN_VIDEO.latents(*shape, seed=40)
    query = {"shape": list(latents.shape), "dtype": "float16", "partial_postprocess": "True"}
    query["scaling_factor"] = HUNYUAN_VIDEO.scaling_factor
    headers = {"Content-Type": "tensor/binary", "Accept": "tensor/binary"}

    def decode():
        answer = requests.post(service.url, params=query, headers=headers, data=latents.numpy().tobytes())
        answer.raise_for_status()
        return answer.content

    arguments = [f"--model=video={HUNYUAN_VIDEO.folder}", f"--threads={threads}"]
    with tempfile.TemporaryDirectory() as folder, serving(arguments, Path(folder) / "log") as service:
        return measured(service.process.pid, decode)


ENGINES = {"remote-vae": remote_vae, "pytorch": pytorch}


def apart(name: str, shape: list[int], threads: int) -> tuple[dict, bytes]:
    """The engine's round, in a new process that gives all memory back."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(ENGINES[name], (shape, threads))


def largest_difference(ours: bytes, theirs: bytes) -> int:
    import numpy as np

    assert len(ours) == len(theirs), "the videos are not equally long"
    return int(np.abs(np.frombuffer(ours, np.uint8).astype(int) - np.frombuffer(theirs, np.uint8)).max())


def about(threads: int) -> dict:
    """The build and the machine."""
    import torch
    from place import binary

    command = [binary(), "bench", "--json", "--sizes=8", "--runs=1", f"--threads={threads}"]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    return {
        "model": "AutoencoderKLHunyuanVideo, random weights, float32",
        "processor": found["processor"],
        "cores": os.cpu_count(),
        "instruction_set": found["engine"].split(", ")[1],
        "threads": threads,
        "version": found["version"],
        "commit": found["commit"],
        "pytorch": torch.__version__,
    }


def table(record: dict) -> str:
    lines = [
        f"remote-vae {record['version']} ({record['commit']}) and PyTorch {record['pytorch']} on {record['processor']}, "
        f"{record['threads']} threads, {record['instruction_set']}",
        f"latents {record['latents']}, {record['model']}, {len(record['rounds'])} rounds\n",
        "| engine | seconds (min–max) | peak memory | when loaded | above that |",
        "|---|--:|--:|--:|--:|",
    ]
    for name in ENGINES:
        rows = [row[name] for row in record["rounds"]]
        seconds = [row["seconds"] for row in rows]
        peak, loaded = (max(row[key] for row in rows) / 1e6 for key in ("peak_bytes", "loaded_bytes"))
        above = max(row["peak_bytes"] - row["loaded_bytes"] for row in rows) / 1e6
        spread = f"{statistics.median(seconds):.1f} ({min(seconds):.1f}–{max(seconds):.1f})"
        lines.append(f"| {name} | {spread} | {peak:.0f} MB | {loaded:.0f} MB | {above:.0f} MB |")
    times = [row["pytorch"]["seconds"] / row["remote-vae"]["seconds"] for row in record["rounds"]]
    above = [[row[name]["peak_bytes"] - row[name]["loaded_bytes"] for name in ENGINES] for row in record["rounds"]]
    shares = [ours / theirs for ours, theirs in above]
    lines.append(
        f"\nPyTorch takes {statistics.median(times):.2f} times as long ({min(times):.2f}–{max(times):.2f}); ours takes "
        f"{statistics.median(shares):.2f} of its memory above the loaded model ({min(shares):.2f}–{max(shares):.2f})."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--latents", default="3,40,64", metavar="F,H,W", help="frames, height and width (3,40,64)")
    parser.add_argument("--record", type=Path, help="default: bench/records/video-PROCESSOR-DATE.json")
    args = parser.parse_args()
    shape = [1, *map(int, args.latents.split(","))]

    data = about(args.threads) | {"latents": [1, 16, *shape[1:]]}
    name = re.sub(r"[^a-z0-9]+", "-", f"video {data['processor']} {data['cores']} cores {date.today()}".lower())
    path = args.record or ROOT / "bench" / "records" / f"{name}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    record = kept if data.items() <= kept.items() else data | {"rounds": []}
    for number in range(args.rounds):
        # Each goes first in turn.
        order = list(ENGINES) if len(record["rounds"]) % 2 == 0 else list(ENGINES)[::-1]
        found = {name: apart(name, shape, args.threads) for name in order}
        difference = largest_difference(*(found[name][1] for name in ENGINES))
        assert difference <= 1, f"bytes are up to {difference} from diffusers', so the times do not count"
        record["rounds"].append({name: found[name][0] for name in ENGINES} | {"largest_difference": difference})
        print(f"round {number + 1} of {args.rounds}:", *(f"{name} {found[name][0]}" for name in ENGINES), file=sys.stderr)
        path.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))


if __name__ == "__main__":
    main()
