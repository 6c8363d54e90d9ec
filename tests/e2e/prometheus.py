"""Reading the figures that the server gives to Prometheus."""

import re


def figure(text: str, name: str, **labels: str) -> float:
    """The sum of all samples with this name and these labels."""
    total, found = 0.0, False
    for line in text.splitlines():
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if match and match[1] == name:
            has = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
            if all(has.get(key) == value for key, value in labels.items()):
                total, found = total + float(match[3]), True
    assert found, f"there is no {name} with {labels}:\n{text}"
    return total
