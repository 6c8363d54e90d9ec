"""Many clients with small pictures, and what others feel of it: this build, another one, and a plain Python server, in turn.

    cargo build --release
    ~/.cache/remote-vae/venv/bin/python bench/small.py --before OLD_BINARY [--rounds N] [--record FILE]

Four questions, each asked of both builds with default settings, and where it says so of the Python server of throughput.py:

* crowd: 64 clients that never try again send 600 requests. How many get their picture, and is each the right one?
* rate: 8 clients, requests a second; small and full SD v1, beside the Python server.
* alone: how long one request for 512×512 takes, when there is no other.
* codec: 4 clients get 1024×1024 as JPEG and WebP. For which part of the time does no model work?
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import requests
from throughput import ROOT, python_server

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from models import SD_V1, Model
from place import binary
from service import Service, serving
from video import about, largest_difference

NARROW = Model("sd-v1-narrow", 4, 0.18215, recipe=("sd-v1-narrow", "--seed", "5"))
# Height and width in latents.
SMALL, FULL, USUAL, LARGE = (16, 14), (16, 16), (64, 64), (128, 128)
CROWD, CROWD_REQUESTS = 64, 600


def sender(url: str, model: Model, size: tuple[int, int], clients: int, accept: str = "tensor/binary"):
    """A function that posts the same latents and gives status, body and seconds."""
    latents = np.random.default_rng(sum(size)).standard_normal((1, model.latent_channels, *size)).astype(np.float16)
    query = {"shape": list(latents.shape), "dtype": "float16", "scaling_factor": model.scaling_factor}
    if accept == "tensor/binary":
        query |= {"output_type": "pt", "partial_postprocess": "True"}
    else:
        query["image_format"] = accept.removeprefix("image/")
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=clients))
    headers = {"Content-Type": "tensor/binary", "Accept": accept}

    def send(_=None) -> tuple[int, bytes, float]:
        start = time.perf_counter()
        answer = session.post(url, params=query, headers=headers, data=latents.tobytes(), timeout=600)
        return answer.status_code, answer.content, time.perf_counter() - start

    return send


def crowd(service: Service) -> dict:
    """How many of the requests are answered, and after how long."""
    send = sender(service.url, NARROW, SMALL, CROWD)
    _, expected, _ = send()
    start = time.perf_counter()
    with ThreadPoolExecutor(CROWD) as clients:
        found = list(clients.map(send, range(CROWD_REQUESTS)))
    seconds = time.perf_counter() - start
    assert all(body == expected for status, body, _ in found if status == 200), "the same latents gave two pictures"
    waits = sorted(wait for status, _, wait in found if status == 200)
    return {
        "statuses": dict(Counter(str(status) for status, *_ in found)),
        "seconds": round(seconds, 2),
        "longest_seconds": round(waits[-1], 2),
    }


def rate(url: str, model: Model, size: tuple[int, int], clients: int, count: int) -> tuple[float, bytes]:
    """Requests a second, and the picture."""
    send = sender(url, model, size, clients)
    with ThreadPoolExecutor(clients) as workers:
        list(workers.map(send, range(clients)))
        start = time.perf_counter()
        found = list(workers.map(send, range(count)))
        seconds = time.perf_counter() - start
    assert all(status == 200 for status, *_ in found), Counter(status for status, *_ in found)
    return round(count / seconds, 2), found[0][1]


def alone(service: Service) -> float:
    send = sender(service.url, SD_V1, USUAL, 1)
    send()
    return round(statistics.median(send()[2] for _ in range(3)), 3)


def worked(service: Service) -> float:
    """Seconds of work of all models so far."""
    text = requests.get(f"{service.url}/metrics", timeout=10).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(r"remote_vae_work_seconds_sum", line))


def codec(service: Service, accept: str) -> float:
    """The part of the time in which no model works, in percent, while there is always a request."""
    send = sender(service.url, NARROW, LARGE, 4, accept)
    with ThreadPoolExecutor(4) as clients:
        list(clients.map(send, range(4)))
        before, start = worked(service), time.perf_counter()
        found = list(clients.map(send, range(24)))
        seconds, after = time.perf_counter() - start, worked(service)
    assert all(status == 200 for status, *_ in found)
    return round(100 * (1 - (after - before) / seconds), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="the binary to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", type=Path, help="default: bench/records/small-PROCESSOR-DATE.json")
    args = parser.parse_args()

    builds = {"now": binary()} | ({"before": args.before} if args.before else {})
    record = about(args.threads) | {"model": "SD v1: channels 32, 64, 64, 96, and full", "rounds": []}
    spawn = multiprocessing.get_context("spawn")
    python = {}
    for model in (NARROW, SD_V1):
        mine, theirs = spawn.Pipe()
        spawn.Process(target=python_server, args=(args.threads, theirs, model.folder), daemon=True).start()
        python[model.name] = f"http://127.0.0.1:{mine.recv()}/"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        services = {}
        for build, program in builds.items():
            for model in (NARROW, SD_V1):
                log = Path(folder) / f"{build}-{model.name}.log"
                arguments = [f"--threads={args.threads}", f"--model={model.folder}"]
                services[build, model.name] = stack.enter_context(serving(arguments, log, program=program))
        for number in range(args.rounds):
            order = list(builds) if number % 2 == 0 else list(builds)[::-1]
            row = {name: {} for name in order}
            rates = {}
            for name in order:
                row[name]["crowd"] = crowd(services[name, NARROW.name])
                row[name]["alone"] = alone(services[name, SD_V1.name])
                for accept in ("image/jpeg", "image/webp"):
                    row[name][accept] = codec(services[name, NARROW.name], accept)
            for model, size, count in ((NARROW, SMALL, 80), (SD_V1, FULL, 24)):
                urls = {name: services[name, model.name].url for name in order} | {"python": python[model.name]}
                pictures = {}
                for name, url in urls.items():
                    rates[name, model.name], pictures[name] = rate(url, model, size, 8, count)
                for name in order:
                    difference = largest_difference(pictures[name], pictures["python"])
                    assert difference <= 1, f"the pictures differ by up to {difference}, so the times do not count"
            for (name, model), value in rates.items():
                row.setdefault(name, {})[f"rate {model}"] = value
            record["rounds"].append(row)
            print(f"round {number + 1} of {args.rounds}: {json.dumps(row)}", file=sys.stderr)

    name = re.sub(r"[^a-z0-9]+", "-", f"small {record['processor']} {os.cpu_count()} cores {date.today()}".lower())
    path = args.record or ROOT / "bench" / "records" / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"remote-vae {record['version']} ({record['commit']}) on {record['processor']}; median of {args.rounds} rounds\n")
    for question in ("alone", "image/jpeg", "image/webp", f"rate {NARROW.name}", f"rate {SD_V1.name}"):
        cells = {
            name: statistics.median(row[name][question] for row in record["rounds"])
            for name in (*builds, "python")
            if question in record["rounds"][0].get(name, {})
        }
        print(f"{question}: {cells}")
    for name in builds:
        print(f"crowd, {name}: {[row[name]['crowd'] for row in record['rounds']]}")


if __name__ == "__main__":
    main()
