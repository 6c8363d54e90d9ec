"""A server among good, bad, slow and leaving clients for a long time: what does it do to its answers, memory and latency?

    cargo build --release
    ~/.cache/remote-vae/venv/bin/python bench/soak.py --minutes 20 [--real] [--record FILE] [--chart FILE]

Starts a server with the embedded demonstration model and lets loose on it, all at once,

* four good clients with keys of their own: decodes and encodes of many sizes, every answer compared byte by byte with the
  first of its kind, and those with diffusers. They come back when a 429 says so;
* bad ones (bad.py): malformed, oversized and truncated requests, wrong keys, image bombs, what is no HTTP. Each must be
  answered with the status and the sentence that it deserves;
* slow ones: heads and bodies that trickle or are held unfinished, connections that say nothing, answers that nobody reads;
* leaving ones: requests whose client hangs up before, during and after the work, one by one and in crowds, with something
  behind their request, and those that only send no more.

Meanwhile it writes down once a second what the process has: memory, file descriptors, threads. At the end the file with the keys is
emptied for a moment, which must shut out everybody. Then all must be as it was before, memory at rest among it; the server must be
ready, and on SIGTERM it must finish what it has accepted and end with 0. What is not so is said, and the exit status is 1.

`--real` adds a real-size Stable Diffusion v1 decoder with random weights, asked for 512×512 pixels now and then.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import secrets
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

import bad
import httpx2
from soak_report import chart, report
from strangers import LONGEST, TIMEOUTS, Strangers
from traffic import ROOT, Kind, Outcome, connect, decode, error_of, kinds, learn, machine, percentiles, post, refusal, send

from service import Service, serving  # found by what traffic does to the path

GOOD_CLIENTS = 4
# Pauses of the good clients between an answer and the next request, in seconds on average.
PAUSE = 0.4
# How much the memory may grow from the first half to the second; and minutes before that means anything, as the first of
# everything takes memory. What one request takes comes and goes; what stays is a leak.
GROWTH = 32 << 20
SETTLED = 5
# After how long without work the server is at rest; how much more memory of its own it may have then than at the beginning, for
# holes between what is left.
REST = 3
LEFT = 24 << 20


class Soak:
    def __init__(self, service: Service, keys: dict[str, str], seed: int) -> None:
        self.service, self.keys, self.seed = service, keys, seed
        self.strangers = Strangers(service.port, keys)
        self.good: list[tuple[float, Outcome]] = []
        self.done: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.samples: list[dict] = []
        self.started = time.monotonic()

    def fault(self, text: str) -> None:
        if not self.faults[text]:
            print(f"after {self.minutes():.1f} min: {text}", file=sys.stderr, flush=True)
        self.faults[text] += 1

    def minutes(self) -> float:
        return (time.monotonic() - self.started) / 60

    # The good.

    async def good_client(self, name: str, chosen: list[Kind], expected: dict[str, bytes], chance: random.Random) -> None:
        loop = asyncio.get_running_loop()
        async with connect(self.service.url, self.keys[name]) as client:
            while True:
                kind = chance.choices(chosen, [kind.weight for kind in chosen])[0]
                outcome = await send(client, kind, expected[f"{kind.model} {kind.name}"], loop.time())
                self.good.append((self.minutes(), outcome))
                if outcome.wrong:
                    self.fault(f"good client, `{kind.name}`: {outcome.wrong}")
                # A full queue says when to come back in whole seconds.
                await asyncio.sleep(1 if outcome.status == 429 else chance.expovariate(1 / PAUSE))

    # The bad.

    async def bad_client(self, requests: list[bad.Bad], chance: random.Random) -> None:
        while True:
            chance.shuffle(requests)
            for request in requests:
                await self.bad_request(request)
                await asyncio.sleep(chance.expovariate(5))

    async def bad_request(self, request: bad.Bad) -> None:
        status, headers, body = await self.strangers.ask(request.request)
        if status == 429 and request.explained:
            wrong = refusal(headers.get("retry-after"), body)
        elif status not in request.statuses:
            wrong = f"{status} {body[:200]!r}, and not one of {sorted(request.statuses)}"
        else:
            wrong = error_of(body) if request.explained and status != 200 else None
        self.done[f"bad: {request.name}"] += 1
        if wrong:
            self.fault(f"{request.name}: {wrong}")

    # The slow.

    async def slow_client(self, act, chance: random.Random) -> None:
        name = act.__name__.replace("_", " ")
        while True:
            wrong = None
            try:
                wrong = await act(chance)
            except (ConnectionError, TimeoutError) as error:
                wrong = f"{type(error).__name__} {error}"
            self.done[f"slow: {name}"] += 1
            if wrong:
                self.fault(f"{name}: {wrong}")
            await asyncio.sleep(chance.expovariate(2))

    # The books.

    def process(self) -> dict:
        folder = Path(f"/proc/{self.service.process.pid}")
        status = folder.joinpath("status").read_text()
        return {
            "resident_bytes": int(re.search(r"^VmRSS:\s+(\d+) kB$", status, re.M)[1]) * 1024,
            # Without the pages of mapped files, which the system takes back when it needs them.
            "own_bytes": int(re.search(r"^RssAnon:\s+(\d+) kB$", status, re.M)[1]) * 1024,
            "threads": int(re.search(r"^Threads:\s+(\d+)$", status, re.M)[1]),
            "file_descriptors": sum(1 for _ in folder.joinpath("fd").iterdir()),
        }

    async def watch(self) -> None:
        said = 0
        while True:
            self.samples.append({"minutes": round(self.minutes(), 4)} | self.process())
            if self.minutes() >= said + 1:
                said += 1
                good = [outcome for _, outcome in self.good]
                print(
                    f"{said} min: {len(good)} good requests, {sum(self.done.values())} others, "
                    f"{self.samples[-1]['resident_bytes'] >> 20} MiB, {self.samples[-1]['file_descriptors']} files, "
                    f"{sum(self.faults.values())} faults",
                    file=sys.stderr,
                    flush=True,
                )
            await asyncio.sleep(1)

    async def figures(self) -> str:
        async with connect(self.service.url, self.keys["good-0"]) as client:
            return (await client.get("/metrics")).raise_for_status().text

    async def run(self, minutes: float, chosen: list[Kind], expected: dict[str, bytes]) -> None:
        # Made before anything runs: to compress the bombs takes so long that the server would lose its patience meanwhile.
        requests = bad.all_of_them(self.keys["bad"])
        self.started = time.monotonic()
        chances = (random.Random(self.seed + number) for number in range(99))
        clients = [self.good_client(f"good-{n}", chosen, expected, next(chances)) for n in range(GOOD_CLIENTS)]
        clients += [self.bad_client(requests.copy(), next(chances)) for _ in range(2)]
        clients += [self.slow_client(act, next(chances)) for act in self.strangers.acts()]
        tasks = [asyncio.create_task(client) for client in [*clients, self.watch()]]
        ended, _ = await asyncio.wait(tasks, timeout=minutes * 60, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # None of them ends by itself, unless by a bug of its own or with the server.
        for task in ended:
            task.result()

    async def settle(self, before: dict) -> dict:
        """Waits until the process has no more files, threads and memory than before; half a minute at most."""
        allowed = {"threads": before["threads"], "file_descriptors": before["file_descriptors"], "own_bytes": before["own_bytes"] + LEFT}
        for _ in range(60):
            now = self.process()
            if all(now[name] <= most for name, most in allowed.items()):
                return now
            await asyncio.sleep(0.5)
        for name, most in allowed.items():
            if now[name] > most:
                self.fault(f"{now[name]} {name} are left, and there were {before[name]}")
        return now

    async def shut_out(self, file: Path) -> None:
        """An emptied file of keys shuts out everybody until they are back; whether the server lives is nobody's secret."""
        text = file.read_text()
        async with connect(self.service.url, self.keys["good-0"]) as client:
            for content, expected in (("", 401), (text, 200)):
                file.write_text(content)
                self.service.process.send_signal(signal.SIGHUP)
                for _ in range(50):
                    status = (await client.get("/models")).status_code
                    if status == expected:
                        break
                    await asyncio.sleep(0.1)
                else:
                    self.fault(f"with {len(content)} bytes of keys `GET /models` was answered with {status}")
                if (await client.get("/health")).status_code != 200:
                    self.fault("`GET /health` was refused for want of keys")

    async def end(self, kind: Kind, expected: bytes) -> None:
        """Ready, with nothing to do; and what is under way when SIGTERM comes is answered."""
        text = await self.figures()
        for name, value in (("remote_vae_ready", 1), ("remote_vae_in_flight", 0), ("remote_vae_queue_length", 0)):
            if f"\n{name} {value}\n" not in text:
                self.fault(f"{name} is not {value} at the end")
        async with connect(self.service.url, self.keys["good-0"]) as client:
            last = [asyncio.create_task(post(client, kind)) for _ in range(3)]
            for _ in range(200):
                if "\nremote_vae_in_flight 3\n" in await self.figures():
                    break
            code = await asyncio.to_thread(self.service.stop)
            for answer in await asyncio.gather(*last, return_exceptions=True):
                if not isinstance(answer, httpx2.Response) or answer.status_code != 200 or answer.content != expected:
                    self.fault(f"a request under way at the stop was answered with {answer!r}")
            if code != 0:
                self.fault(f"the server ended with {code}")

    def memory(self) -> dict:
        """How the resident memory went on, without the first fifth, in which it settles."""
        settled = self.samples[len(self.samples) // 5 :]
        at, size = ([sample[name] for sample in settled] for name in ("minutes", "resident_bytes"))
        slope = statistics.linear_regression(at, size).slope
        half = len(size) // 2
        low, high = (statistics.quantiles(part, n=10)[0] for part in (size[:half], size[half:]))
        return {
            "mean_bytes": round(statistics.fmean(size)),
            "highest_bytes": max(sample["resident_bytes"] for sample in self.samples),
            "slope_bytes_per_minute": round(slope),
            # The tenth percentile: what is there while little is under way.
            "low_first_half_bytes": round(low),
            "low_second_half_bytes": round(high),
        }


def statuses(metrics: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for status, count in re.findall(r'^remote_vae_requests_total\{.*?status="(\d+)"\} (\d+)', metrics, re.M):
        found[status] += int(count)
    return dict(sorted(found.items()))


async def soak(service: Service, keys: dict[str, str], file: Path, args) -> dict:
    soak = Soak(service, keys, args.seed)
    async with connect(service.url, keys["good-0"]) as client:
        models = {model["name"]: model for model in (await client.get("/models")).raise_for_status().json()["models"]}
        demo = models["demo"]
        chosen = [*kinds(demo), decode(demo, 64, "png", 15)]
        if args.real:
            chosen.append(decode(models["sd-v1"], 512, "jpg", 0.3))
        expected = {f"{kind.model} {kind.name}": (await learn(client, kind))[0] for kind in chosen}
    await asyncio.sleep(REST + 1)  # the server sees that this client has gone, and rests
    before = soak.process()
    await soak.run(args.minutes, chosen, expected)
    await soak.shut_out(file)
    after = await soak.settle(before)
    metrics = await soak.figures()
    largest = next(kind for kind in chosen if kind.name == "decode 1024 jpg")
    await soak.end(largest, expected[f"demo {largest.name}"])

    memory = soak.memory()
    growth = memory["low_second_half_bytes"] - memory["low_first_half_bytes"]
    if args.minutes >= SETTLED and growth > GROWTH:
        soak.fault(f"the memory grows: {memory}")
    served = [outcome for _, outcome in soak.good if outcome.status == 200]
    times = percentiles(outcome.seconds for outcome in served)
    if not served or times["max"] > LONGEST:
        soak.fault(f"good requests took too long: {times}")
    said = service.log.read_text(errors="replace")
    for line in re.findall(r"^.*(?:ERROR|panick).*$", said, re.M)[:5]:
        soak.fault(f"in the server's log: {line}")
    answered = statuses(metrics)
    if answered.get("500"):
        soak.fault(f"{answered['500']} requests were answered with 500")
    bins = range(int(soak.samples[-1]["minutes"]) + 1)
    by_minute = [[o.seconds for at, o in soak.good if o.status == 200 and int(at) == minute] for minute in bins]
    return {
        "minutes": round(soak.samples[-1]["minutes"], 2),
        "seed": args.seed,
        "good": {
            "answered": len(served),
            "refused": sum(outcome.status == 429 for _, outcome in soak.good),
            "seconds": times,
            "kinds": {
                f"{kind.name} ({kind.model})": {"answered": len(own)} | percentiles(own)
                for kind in chosen
                if (own := [o.seconds for _, o in soak.good if o.status == 200 and o.kind == kind.name])
            },
            "by_minute": [percentiles(seconds) for seconds in by_minute],
        },
        "others": dict(sorted(soak.done.items())),
        "statuses": answered,
        "memory": memory,
        "before": before,
        "after": after,
        "most": {name: max(sample[name] for sample in soak.samples) for name in ("threads", "file_descriptors")},
        "samples": [[s["minutes"], *(s[name] for name in before)] for s in soak.samples[:: max(len(soak.samples) // 300, 1)]],
        "faults": dict(soak.faults),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="how long (20)")
    parser.add_argument("--real", action="store_true", help="with a real-size model beside the demonstration model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of the server")
    parser.add_argument("--record", type=Path, help="JSON file; default: bench/records/soak-PROCESSOR-DATE.json")
    parser.add_argument("--chart", type=Path, help="SVG file for the chart")
    args = parser.parse_args()

    record = machine(args.threads)
    names = [*(f"good-{number}" for number in range(GOOD_CLIENTS)), "bad", "slow", "crowd"]
    keys = {name: secrets.token_hex(16) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys"
        file.write_text("".join(f"{name}:{key}\n" for name, key in keys.items()))
        flags = ["--model=demo=demo", f"--api-key-file={file}", f"--threads={args.threads}", "--max-queue=16", "--max-body=8MiB"]
        # Bodies that are held take much of what all may have.
        flags += [f"--idle-release={REST}s", "--max-pending=64MiB"]
        if args.real:
            from models import SD_V1

            flags.append(f"--model={SD_V1.name}={SD_V1.folder}")
        with serving([*flags, *TIMEOUTS], Path(folder) / "log") as service:
            record |= asyncio.run(soak(service, keys, file, args))
    name = re.sub(r"[^a-z0-9]+", "-", f"soak {record['processor']} {os.cpu_count()} cores {date.today()}".lower())
    path = args.record or ROOT / "bench" / "records" / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    if args.chart:
        args.chart.write_text(chart(record))
    print(report(record))
    if record["faults"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
