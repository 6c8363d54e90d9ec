"""Draws curves as an SVG that reads well on light and on dark pages, two panels side by side."""

import math
import sys
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "peers"))
from chart import STYLE, text  # noqa: E402

WIDTH, HEIGHT = 860, 400
TOP, BOTTOM = 84, 322
# Left and right edge of each panel.
PANELS = ((64, 412), (490, 838))

COLOURS = """
  .axis { stroke: #59636e; stroke-width: 1 }
  .grid { stroke: #d1d9e0; stroke-width: 1 }
  .mark { stroke: #9aa5b1; stroke-width: 1; stroke-dasharray: 4 3 }
  .curve { fill: none; stroke-width: 2 }
  .dot { stroke: none }
  .c0 { stroke: #1a7f5a; fill: #1a7f5a } .c1 { stroke: #b35900; fill: #b35900 } .c2 { stroke: #6639ba; fill: #6639ba }
  .c3 { stroke: #9aa5b1; fill: #9aa5b1; stroke-dasharray: 4 3 }
  path.c0, path.c1, path.c2, path.c3 { fill: none }
  text.c0, text.c1, text.c2, text.c3 { stroke: none }
  .middle { text-anchor: middle }
  @media (prefers-color-scheme: dark) {
    .axis { stroke: #9198a1 } .grid { stroke: #3d444d } .mark { stroke: #59636e }
    .c0 { stroke: #2ea97c; fill: #2ea97c } .c1 { stroke: #f0883e; fill: #f0883e } .c2 { stroke: #ab7df8; fill: #ab7df8 }
    .c3 { stroke: #59636e; fill: #59636e }
  }
"""


@dataclass
class Panel:
    title: str
    x_label: str
    # Points by the curve's name, in the order of their colours; the fourth is dashed.
    curves: dict[str, list[tuple[float, float]]]
    log: bool = False
    # Vertical lines with what they mean.
    marks: dict[float, str] = field(default_factory=dict)
    dots: bool = True


def svg(title: str, panels: list[Panel], notes: list[str], label: str) -> str:
    height = HEIGHT + 20 * (len(notes) - 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(label, quote=True)}">',
        f"<style>{STYLE}{COLOURS}</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        text(20, 30, title, "title"),
    ]
    for panel, edges in zip(panels, PANELS, strict=True):
        parts += drawn(panel, *edges)
    parts += [text(20, HEIGHT - 16 + 20 * index, note, "quiet") for index, note in enumerate(notes)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def drawn(panel: Panel, left: float, right: float) -> list[str]:
    points = [point for curve in panel.curves.values() for point in curve]
    x_end = max(x for x, _ in points)
    highest, lowest = max(y for _, y in points), min(y for _, y in points if y > 0)
    if panel.log:
        low, high = 10 ** math.floor(math.log10(lowest)), 10 ** math.ceil(math.log10(highest))
        ticks = [10.0**e for e in range(round(math.log10(low)), round(math.log10(high)) + 1)]
        # One more within each decade, as three decades make three lines.
        ticks = sorted(ticks + [3 * tick for tick in ticks[:-1]])
    else:
        ticks = steps(highest)
        low, high = 0, ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        part = math.log(max(y, low) / low) / math.log(high / low) if panel.log else y / high
        return left + (right - left) * x / x_end, BOTTOM - (BOTTOM - TOP) * part

    parts = [text(left - 44, 58, panel.title, "quiet")]
    for tick in ticks:
        y = place(0, tick)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(left - 8, y + 4, f"{tick:g}", "quiet end"))
    for tick in steps(x_end):
        if tick <= x_end:
            x = place(tick, high)[0]
            parts.append(text(x, BOTTOM + 18, f"{tick:g}", "quiet middle"))
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{BOTTOM}" y2="{BOTTOM}"/>')
    parts.append(text((left + right) / 2, BOTTOM + 36, panel.x_label, "quiet middle"))
    for x, said in panel.marks.items():
        at = place(x, high)[0]
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{BOTTOM}"/>')
        parts.append(text(at - 5, TOP + 12, said, "quiet end"))
    at = left
    for index, (name, curve) in enumerate(panel.curves.items()):
        path = " ".join(f"{'L' if i else 'M'}{x:.1f},{y:.1f}" for i, (x, y) in enumerate(place(*point) for point in curve))
        parts.append(f'<path class="curve c{index}" d="{path}"/>')
        if panel.dots and index < 3:
            parts += [f'<circle class="dot c{index}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in (place(*p) for p in curve)]
        # The legend, in a row above.
        parts.append(f'<line class="curve c{index}" x1="{at:.1f}" x2="{at + 16:.1f}" y1="72" y2="72"/>')
        parts.append(text(at + 21, 76, name, "quiet"))
        at += 36 + 6.6 * len(name)
    return parts


def steps(highest: float) -> list[float]:
    """Four to eight round numbers from 0 to `highest` or just above."""
    size = 10 ** math.floor(math.log10(highest))
    step = next(size * part for part in (0.1, 0.2, 0.5, 1, 2) if highest / (size * part) <= 6)
    return [round(step * count, 10) for count in range(math.ceil(highest / step) + 1)]
