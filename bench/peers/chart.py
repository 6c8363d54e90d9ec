"""Draws a record as an SVG that reads well on light and on dark pages."""

import statistics
from html import escape

from record import BASE, Line, Record

WIDTH, ROW, TOP, BOTTOM = 860, 30, 74, 58
# Left edge and width of the two panels' bars.
TIME, MEMORY = (226, 262), (622, 140)

STYLE = """
  text { font: 13px -apple-system, BlinkMacSystemFont, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .title { font-size: 15px; font-weight: 600 }
  .ours { font-weight: 600 }
  .quiet { font-size: 12px; fill: #59636e }
  .page { fill: #ffffff; stroke: #d1d9e0 }
  .bar { fill: #9aa5b1 }
  .bar.ours { fill: #1a7f5a }
  .whisker { stroke: #1f2328; stroke-width: 1.5 }
  .end { text-anchor: end }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .quiet { fill: #9198a1 }
    .page { fill: #0d1117; stroke: #3d444d }
    .bar { fill: #59636e }
    .bar.ours { fill: #2ea97c }
    .whisker { stroke: #f0f6fc }
  }
"""


def svg(record: Record) -> str:
    """The record's first size with its first number of threads of the most engines."""
    (size, threads), lines = max(record.groups().items(), key=lambda item: len(item[1]))
    height = TOP + ROW * len(lines) + BOTTOM
    plural = "" if threads == 1 else "s"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="Seconds and memory of each engine for one {size}×{size} picture">',
        f"<style>{STYLE}</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        text(20, 30, f"Decoding one {size}×{size} picture, Stable Diffusion v1, float32, {threads} thread{plural}", "title"),
        text(TIME[0], 56, "seconds (lower is better)", "quiet"),
        text(MEMORY[0], 56, "peak memory of the process", "quiet"),
    ]
    slowest = max(max(line.seconds) for line in lines)
    largest = max(line.peak_memory for line in lines)
    for index, line in enumerate(lines):
        parts += row(TOP + ROW * index, line, TIME[1] / slowest, MEMORY[1] / largest)
    rounds = min(len(line.seconds) for line in lines)
    machine = f"{record.data['processor']}, {record.data['cores']} cores, {record.data['instruction_set']}"
    build = f"remote-vae {record.data['commit'] or record.data['version']}"
    method = f"Medians of {rounds} or more rounds, in each of which every engine decodes once; lines: least to most; ×: of our time"
    parts += [
        text(20, height - 36, method, "quiet"),
        text(20, height - 16, f"{machine}; {build}", "quiet"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def row(y: float, line: Line, per_second: float, per_byte: float) -> list[str]:
    ours = " ours" if line.name.startswith(BASE) else ""
    middle = y + ROW / 2 - 2
    seconds = statistics.median(line.seconds)
    left, right = (TIME[0] + per_second * bound for bound in (min(line.seconds), max(line.seconds)))
    said = f"{seconds:.1f} s"
    if line.ratios and line.name != BASE:
        said += f"   {statistics.median(line.ratios):.1f}×"
    return [
        text(TIME[0] - 10, middle + 4, line.label, "end" + ours),
        bar(TIME[0], y, per_second * seconds, ours),
        f'<line class="whisker" x1="{left:.1f}" x2="{right:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>',
        text(right + 8, middle + 4, said, ours.strip()),
        bar(MEMORY[0], y, per_byte * line.peak_memory, ours),
        text(MEMORY[0] + per_byte * line.peak_memory + 8, middle + 4, gigabytes(line.peak_memory), ours.strip()),
    ]


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def bar(x: float, y: float, width: float, extra: str) -> str:
    return f'<rect class="bar{extra}" x="{x}" y="{y}" width="{width:.1f}" height="{ROW - 8}" rx="2"/>'


def text(x: float, y: float, content: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" xml:space="preserve">{escape(content)}</text>'
