"""The load test and the soak, in short: that they run, and that what they look at is as it should be."""

import json
import subprocess
import sys
from xml.etree import ElementTree

from place import ROOT


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, ROOT / "bench" / script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def test_load(tmp_path):
    """A server with few places under less and under far more than it can take. The script itself looks at every answer."""
    record, chart = tmp_path / "load.json", tmp_path / "load.svg"
    flags = ["--rates=2,60", "--seconds=3", "--max-queue=4", f"--record={record}", f"--chart={chart}"]
    said = run("load.py", *flags)
    assert "Every answer was right." in said
    calm, busy = json.loads(record.read_text())["steps"]
    assert calm["statuses"].get("200", 0) > 0
    assert busy["statuses"].keys() == {"200", "429"}
    assert busy["sent"] > 100
    assert 0 < busy["accepted"]["p50"] <= busy["accepted"]["p99"] <= busy["accepted"]["max"]
    assert "| 60.0 |" in said
    texts = [text for text in ElementTree.fromstring(chart.read_text()).itertext()]
    assert "p99" in texts and "refused with 429" in texts


def test_soak(tmp_path):
    """Twenty seconds of what runs for hours elsewhere. The script ends with 1 where anything is not as it should be."""
    record, chart = tmp_path / "soak.json", tmp_path / "soak.svg"
    said = run("soak.py", "--minutes=0.33", f"--record={record}", f"--chart={chart}")
    assert "No fault." in said
    found = json.loads(record.read_text())
    assert found["good"]["answered"] > 0
    # Each client of each kind has come to its turn.
    assert sum(name.startswith("bad: ") for name in found["others"]) > 10
    assert sum(name.startswith("slow: ") for name in found["others"]) >= 7
    assert {"200", "400", "401", "413"} <= found["statuses"].keys()
    ElementTree.fromstring(chart.read_text())
