"""What was measured on one machine with one build, kept as JSON, and the table of it."""

import json
import re
import statistics
from datetime import date
from pathlib import Path

from environment import Failure

BASE = "remote-vae"
# Where the version goes is `{}`.
NAMES = {
    "remote-vae": "remote-vae",
    "remote-vae-1-thread": "remote-vae, 1 thread",
    "remote-vae-f16": "remote-vae, f16 storage",
    "mnn": "MNN {}",
    "ncnn": "ncnn {}",
    "onnxruntime": "ONNX Runtime {}",
    "openvino": "OpenVINO {}",
    "pytorch-channels-last": "PyTorch {} channels-last",
    "pytorch": "PyTorch {}",
}


class Record:
    def __init__(self, path: Path, data: dict) -> None:
        self.path, self.data = path, data

    @classmethod
    def read(cls, path: Path) -> "Record":
        try:
            return cls(path, json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise Failure(f"{path} cannot be read as a record: {error}") from None

    @classmethod
    def begin(cls, about: dict, cores: int, system: str, path: Path) -> "Record":
        """The record at `path` if it is of this machine and build, else a new one in its place. For a folder, the file
        in it that is named after the processor and the day."""
        data = {
            "processor": about["processor"],
            "cores": cores,
            "memory_bytes": about["memory_bytes"],
            "system": system,
            "instruction_set": about["engine"].split(", ")[1],
            "version": about["version"],
            "commit": about["commit"],
        }
        if path.suffix != ".json":
            name = f"{data['processor']} {cores} cores {date.today()}".lower()
            path = path / (re.sub(r"[^a-z0-9]+", "-", name) + ".json")
        if path.exists():
            kept = cls.read(path)
            if data.items() <= kept.data.items():
                return kept
        return cls(path, data | {"sessions": []})

    def add(self, session: dict) -> None:
        self.data["sessions"].append(session)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.data, indent=1)
        # A round on one line.
        text = re.sub(r'\{\s+("seconds": [\d.]+),\s+("processor_seconds": [\d.]+)\s+\}', r"{\1, \2}", text)
        self.path.write_text(text + "\n")

    def groups(self) -> dict[tuple[int, int], list["Line"]]:
        """For each (size, threads) a line for each engine, the fastest first."""
        sessions: dict[tuple[int, int], list[dict]] = {}
        for session in self.data["sessions"]:
            sessions.setdefault((session["size"], session["threads"]), []).append(session)
        return {key: lines(sessions[key]) for key in sorted(sessions)}

    def title(self) -> str:
        data = self.data
        commit = f" ({data['commit']})" if data["commit"] else ""
        memory = f", {data['memory_bytes'] / 1e9:.0f} GB" if data["memory_bytes"] else ""
        return (
            f"remote-vae {data['version']}{commit} on {data['processor']}, {data['cores']} cores, "
            f"{data['instruction_set']}{memory}"
        )

    def table(self) -> str:
        parts = [self.title()]
        for (size, threads), group in self.groups().items():
            plural = "" if threads == 1 else "s"
            parts.append(f"\n{size}×{size}, {threads} thread{plural}, float32\n")
            head = ["engine", "seconds (min–max)", "times ours (min–max)", "first", "peak memory", "CPU s", "rounds"]
            rows = [head] + [line.cells() for line in group]
            widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
            rows.insert(1, ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]])
            for row in rows:
                cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
                parts.append(f"| {' | '.join(cells)} |")
        return "\n".join(parts)


class Line:
    """What one engine did at one size."""

    def __init__(self, name: str, sessions: list[dict]) -> None:
        self.name = name
        self.sessions = [session for session in sessions if name in session["engines"]]
        rounds = [row for session in self.sessions for row in session["rounds"]]
        self.seconds = [row[name]["seconds"] for row in rounds]
        self.processor_seconds = [row[name]["processor_seconds"] for row in rounds]
        # Only what was measured in one round is compared: the machine may have been busier in another.
        self.ratios = [row[name]["seconds"] / row[BASE]["seconds"] for row in rounds if BASE in row]
        self.about = self.sessions[-1]["engines"][name]
        self.first = [session["engines"][name]["first"]["seconds"] for session in self.sessions]
        self.peak_memory = max(session["engines"][name]["peak_memory_bytes"] for session in self.sessions)

    @property
    def label(self) -> str:
        version = self.about["version"] or ""
        return NAMES[self.name].format(version.split("+")[0])

    def cells(self) -> list[str]:
        return [
            self.label,
            spread(self.seconds, 2),
            spread(self.ratios, 2) if self.ratios else "-",
            f"{statistics.median(self.first):.2f}",
            f"{self.peak_memory / 1e6:.0f} MB",
            f"{statistics.median(self.processor_seconds):.1f}",
            str(len(self.seconds)),
        ]


def lines(sessions: list[dict]) -> list[Line]:
    names = dict.fromkeys(name for session in sessions for name in session["engines"])
    return sorted((Line(name, sessions) for name in names), key=lambda line: statistics.median(line.seconds))


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"
