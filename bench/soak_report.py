"""What soak.py found, as text and as a chart."""

import curves


def report(record: dict) -> str:
    good, memory, mib = record["good"], record["memory"], 1 << 20
    seconds = ", ".join(f"{name} {value:.2f} s" for name, value in good["seconds"].items())
    before, after, most = record["before"], record["after"], record["most"]
    bad_ones = {name: count for name, count in record["others"].items() if name.startswith("bad")}
    slow_ones = {name.removeprefix("slow: "): count for name, count in record["others"].items() if name.startswith("slow")}
    lines = [
        f"{record['minutes']:.1f} minutes, remote-vae {record['version']} ({record['commit']}) on {record['processor']}",
        f"good requests      {good['answered']} answered, every byte as expected; {good['refused']} told to come back",
        f"  took             {seconds}",
        f"bad requests       {sum(bad_ones.values())} of {len(bad_ones)} kinds",
        f"slow and leaving   {sum(slow_ones.values())}: " + ", ".join(f"{name} {count}" for name, count in slow_ones.items()),
        f"statuses           {', '.join(f'{status}: {count}' for status, count in record['statuses'].items())}",
        f"resident memory    {memory['mean_bytes'] / mib:.0f} MiB on average, {memory['highest_bytes'] / mib:.0f} at most;"
        f" slope {memory['slope_bytes_per_minute'] / 1024:+.0f} KiB a minute;"
        f" low {memory['low_first_half_bytes'] / mib:.0f} MiB in the first half, {memory['low_second_half_bytes'] / mib:.0f} in the second",
        f"memory of its own  {before['own_bytes'] / mib:.0f} MiB at rest before, {after['own_bytes'] / mib:.0f} at rest after",
        f"file descriptors   {before['file_descriptors']} before, {most['file_descriptors']} at most, {after['file_descriptors']} after",
        f"threads            {before['threads']} before, {most['threads']} at most, {after['threads']} after",
    ]
    if record["faults"]:
        lines += ["", *(f"FAULT, {count} times: {text}" for text, count in record["faults"].items())]
    else:
        lines.append("At the end the server was ready, finished what it had on SIGTERM, and ended with 0. No fault.")
    return "\n".join(lines)


def chart(record: dict) -> str:
    memory = {"resident memory": [(minutes, size / (1 << 20)) for minutes, size, *_ in record["samples"]]}
    by_minute = list(enumerate(record["good"]["by_minute"]))
    latency = {name: [(minute + 0.5, row[name]) for minute, row in by_minute if row] for name in ("p50", "p99", "max")}
    panels = [
        curves.Panel("MiB", "minutes", memory, dots=False),
        curves.Panel("seconds until the answer, good clients, each minute", "minutes", latency, log=True),
    ]
    notes = [
        f"{record['good']['answered']} good requests; {sum(record['others'].values())} bad, slow and leaving ones beside them",
        f"{record['processor']}, {record['instruction_set']}, {record['threads']} threads; remote-vae {record['commit']}",
    ]
    return curves.svg(f"{record['minutes']:.0f} minutes among good, bad and slow clients", panels, notes, "Memory and latency over time")
