"""How many requests a second a server takes, how long they take, and what happens beyond that.

    cargo build --release
    ~/.cache/remote-vae/venv/bin/python bench/load.py [--seconds N] [--record FILE] [--chart FILE]
    ~/.cache/remote-vae/venv/bin/python bench/load.py --url https://HOST/ --key KEY --rates 1,2,4,8

The load is open: requests come at random moments (a Poisson process from a seed) at a fixed rate, whether or not those
before them are answered, and a request's time counts from the moment at which it was to be sent. So a server that falls
behind cannot slow down the clients that measure it. Each step has its rate and begins with an idle server; without --rates
they go from a quarter of what the server can do to twice that. The requests are of several kinds, in a fixed mixture, from
eight clients. Every answer is compared with the first of its kind, byte by byte, and those with what diffusers makes of the
same latents or picture; an answer of a full server must be 429 with `Retry-After`. A wrong one ends it.

Without --url it starts a server with the embedded demonstration model on this machine.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

import curves
from traffic import PERCENTILES, ROOT, Kind, connect, kinds, learn, machine, percentiles, send

CLIENTS = 8
# Rates of the steps, as parts of what the server can do.
PARTS = (0.25, 0.5, 0.7, 0.85, 1.0, 1.15, 1.5, 2.0)


async def step(client, chosen: list[Kind], expected: dict[str, bytes], rate: float, seconds: float, seed: int) -> dict:
    """Requests at this rate for so long, and all that is to be said of them."""
    chance = random.Random(seed)
    loop = asyncio.get_running_loop()
    start, busy = loop.time(), time.process_time()
    due, tasks = start, []
    while (due := due + chance.expovariate(rate)) < start + seconds:
        kind = chance.choices(chosen, [kind.weight for kind in chosen])[0]
        # With --trust-forwarded-for each is a client of its own.
        forwarded = {"X-Forwarded-For": f"10.0.0.{chance.randrange(CLIENTS) + 1}"}
        await asyncio.sleep(due - loop.time())
        tasks.append(asyncio.create_task(send(client, kind, expected[kind.name], due, **forwarded)))
    outcomes = await asyncio.gather(*tasks)
    took = loop.time() - start
    wrong = [f"`{outcome.kind}`: {outcome.wrong}" for outcome in outcomes if outcome.wrong]
    if wrong:
        raise SystemExit(f"{len(wrong)} wrong answers at {rate:g} requests/s, the first: {wrong[0]}")
    groups = {
        f"{kind.name}, {status}": percentiles(o.seconds for o in outcomes if (o.kind, o.status) == (kind.name, status))
        | {"requests": sum((o.kind, o.status) == (kind.name, status) for o in outcomes)}
        for kind in chosen
        for status in (200, 429)
        if any((o.kind, o.status) == (kind.name, status) for o in outcomes)
    }
    statuses = Counter(outcome.status for outcome in outcomes)

    def per_second(status: int) -> float:
        return round(sum(o.status == status and o.due + o.seconds < start + seconds for o in outcomes) / seconds, 3)

    return {
        "rate": rate,
        "sent": len(outcomes),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        # Of answers that came while requests came; at the end of a step there is only the queue to be emptied.
        "answered_per_second": per_second(200),
        "refused_per_second": per_second(429),
        "accepted": percentiles(o.seconds for o in outcomes if o.status == 200),
        "refused": percentiles(o.seconds for o in outcomes if o.status == 429),
        "groups": groups,
        "sender_latest_ms": round(max(o.late for o in outcomes) * 1000, 1),
        "sender_busy": round((time.process_time() - busy) / took, 3),
    }


async def measure(url: str, key: str | None, args, record: dict) -> None:
    async with connect(url, key) as client:
        listed = (await client.get("/models")).raise_for_status().json()["models"]
        info = next((model for model in listed if model["name"] == args.model or not args.model), None)
        if info is None:
            raise SystemExit(f"there is no model {args.model} there, but {', '.join(model['name'] for model in listed)}")
        chosen = kinds(info)
        learnt = {kind.name: await learn(client, kind) for kind in chosen}
        expected = {name: content for name, (content, _) in learnt.items()}
        mean = sum(kind.weight * learnt[kind.name][1] for kind in chosen) / sum(kind.weight for kind in chosen)
        record |= {"model": info["name"], "capacity": round(1 / mean, 2)}
        record["kinds"] = {kind.name: {"weight": kind.weight, "seconds": round(learnt[kind.name][1], 4)} for kind in chosen}
        rates = args.rates or [float(f"{part / mean:.3g}") for part in PARTS]
        print(f"alone, a request of this mixture takes {mean * 1000:.0f} ms: {1 / mean:.1f} a second", file=sys.stderr)
        for number, rate in enumerate(rates):
            record["steps"].append(await step(client, chosen, expected, rate, args.seconds, args.seed + number))
            print(f"step {number + 1} of {len(rates)}: {rate:g} requests/s {record['steps'][-1]['accepted']}", file=sys.stderr)


def table(record: dict) -> str:
    names = [f"p{p:g}" for p in PERCENTILES] + ["max"]
    lines = [
        f"| requests/s | answered/s | refused (429) | {' | '.join(names)} | a refusal takes at most |",
        "|--:" * (len(names) + 4) + "|",
    ]
    for row in record["steps"]:
        refused = row["statuses"].get("429", 0)
        times = [f"{row['accepted'][name]:.2f} s" if row["accepted"] else "" for name in names]
        longest = f"{row['refused']['max'] * 1000:.0f} ms" if refused else ""
        share = f"{refused} of {row['sent']}" if refused else "0"
        lines.append(f"| {row['rate']:.1f} | {row['answered_per_second']:.1f} | {share} | {' | '.join(times)} | {longest} |")
    return "\n".join(lines)


def details(record: dict) -> str:
    """By kind and status, in the step with the most requests."""
    row = max(record["steps"], key=lambda row: row["sent"])
    names = [f"p{p:g}" for p in PERCENTILES] + ["max"]
    lines = [
        f"At {row['rate']:.1f} requests/s:\n",
        f"| kind, status | requests | {' | '.join(names)} |",
        "|:--" + "|--:" * (len(names) + 1) + "|",
    ]
    for name, group in row["groups"].items():
        lines.append(f"| {name} | {group['requests']} | {' | '.join(f'{group[p]:.3f} s' for p in names)} |")
    return "\n".join(lines)


def chart(record: dict) -> str:
    steps = record["steps"]
    accepted = [row for row in steps if row["accepted"]]
    latency = {name: [(row["rate"], row["accepted"][name]) for row in accepted] for name in ("p50", "p99", "max")}
    rates = [row["rate"] for row in steps]
    flow = {
        "answered": [(row["rate"], row["answered_per_second"]) for row in steps],
        "refused with 429": [(row["rate"], row["refused_per_second"]) for row in steps],
    }
    alone = {record["capacity"]: "one by one"} if record["capacity"] <= max(rates) else {}
    panels = [
        curves.Panel("seconds until the answer, of accepted requests", "requests/s that come", latency, log=True, marks=alone),
        curves.Panel("requests/s", "requests/s that come", flow, marks=alone),
    ]
    mixture = f"{len(record['kinds'])} kinds of requests to {record['model']}, {record['seconds']:g} s a step"
    place = ", ".join(str(record[name]) for name in ("processor", "instruction_set") if name in record)
    notes = [
        f"{mixture}; dashed: what the server does one by one",
        f"{place}, {record['threads']} threads; remote-vae {record['commit']}" if place else record["url"],
    ]
    return curves.svg("Under a load that does not wait: latency and throughput", panels, notes, "Latency and throughput by load")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server that runs already, instead of one on this machine")
    parser.add_argument("--key", help="its API key")
    parser.add_argument("--model", help="its model; the default one if not said")
    parser.add_argument("--rates", type=lambda text: [float(rate) for rate in text.split(",")], help="requests/s, by commas")
    parser.add_argument("--seconds", type=float, default=20, help="length of a step (20)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of the server that is started")
    parser.add_argument("--max-queue", type=int, default=32, help="places in the queue of the server that is started (32)")
    parser.add_argument("--record", type=Path, help="JSON file for all figures; default for a server of its own: "
                        "bench/records/load-PROCESSOR-DATE.json")
    parser.add_argument("--chart", type=Path, help="SVG file for the chart")
    args = parser.parse_args()

    record = {"seconds": args.seconds, "seed": args.seed, "clients": CLIENTS, "steps": []}
    with contextlib.ExitStack() as stack:
        if args.url:
            record["url"], path = args.url, args.record
        else:
            from service import serving

            record |= machine(args.threads) | {"max_queue": args.max_queue}
            name = re.sub(r"[^a-z0-9]+", "-", f"load {record['processor']} {os.cpu_count()} cores {date.today()}".lower())
            path = args.record or ROOT / "bench" / "records" / f"{name}.json"
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            flags = [f"--threads={args.threads}", f"--max-queue={args.max_queue}", "--trust-forwarded-for"]
            service = stack.enter_context(serving(flags, folder / "log"))
        asyncio.run(measure(args.url or service.url, args.key, args, record))
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n")
    if args.chart:
        args.chart.write_text(chart(record))
    about = f"remote-vae {record['version']} ({record['commit']}) on {record['processor']}" if "version" in record else args.url
    latest, busy = (max(row[name] for row in record["steps"]) for name in ("sender_latest_ms", "sender_busy"))
    print(f"{about}, {record['model']}: one by one {record['capacity']:.1f} requests/s\n\n{table(record)}\n\n{details(record)}\n")
    print(f"Every answer was right. The sender was at most {latest:.0f} ms late and took {busy:.0%} of a core.")


if __name__ == "__main__":
    main()
