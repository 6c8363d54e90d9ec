"""Records docs/images/session.svg, the terminal session in the README: what really happens in a real terminal.

    cargo build --release && ~/.cache/remote-vae/venv/bin/python tools/record_session.py

tmux (a terminal without a window; `apt-get install tmux`) runs a shell in which the command is typed. What its screen shows
is read again and again while the program works, with the colours, and becomes an animated picture without a script in it:
the screens below each other, moved past a window at the pace at which they were seen. The latents are made by
`remote-vae encode` from photographs that scikit-image brings (their licences: assets/README.md). Colours are read by rich,
which is among the packages of tools/constraints.txt.
"""

import argparse
import base64
import io
import shlex
import subprocess
import tempfile
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text
from skimage import data

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "remote-vae decode 'latents/*.safetensors' -o pictures/ --jobs 4 --preview"
COLUMNS, ROWS = 78, 29
# Of a character, in the units of the picture.
WIDTH, HEIGHT, FONT = 8.4, 18, 14
MARGIN, BAR = 14, 30
# Seconds: between two looks at the screen, the shortest time that a screen is shown, and the last one.
LOOK, SHORTEST, LAST = 0.1, 0.25, 4.0

GROUND, INK = (24, 26, 32), (214, 218, 226)
THEME = TerminalTheme(
    GROUND,
    INK,
    [(60, 64, 74), (224, 108, 117), (137, 202, 120), (229, 192, 123), (97, 175, 239), (198, 120, 221), (86, 200, 216), INK],
    [(110, 116, 130), (240, 130, 140), (160, 220, 140), (240, 210, 140), (120, 190, 250), (215, 150, 235), (120, 220, 232), (255, 255, 255)],
)
HALF_BLOCK = "▀"


@dataclass
class Frame:
    """A screen, as lines with colours, and when it was seen."""

    lines: list[str]
    seen: float


def make_latents(folder: Path, program: Path) -> None:
    """Twenty-four files: eight windows of each of three photographs, encoded by the program itself."""
    photographs = folder / "photographs"
    photographs.mkdir()
    for name, picture in [("cat", data.chelsea()), ("coffee", data.coffee()), ("rocket", data.rocket())]:
        image = Image.fromarray(picture)
        side = min(image.size) * 3 // 4
        for step in range(8):
            left, top = (image.width - side) * step // 7, (image.height - side) * (7 - step) // 7
            window = image.crop((left, top, left + side, top + side)).resize((512, 512), Image.Resampling.LANCZOS)
            window.save(photographs / f"{name}-{step}.png")
    subprocess.run([program, "encode", photographs, "-o", folder / "latents", "--sample-mode", "argmax"], check=True)


class Terminal:
    """A shell in tmux, in a server of its own."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.socket = folder / "tmux"
        shell = f"cd {shlex.quote(str(folder))} && PATH={shlex.quote(str(program.parent))}:$PATH PS1='$ ' COLORTERM=truecolor exec sh"
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), shell)
        self.tmux("set-option", "status", "off")

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-u", "-S", str(self.socket), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)

    def screen(self) -> list[str]:
        return self.tmux("capture-pane", "-e", "-p").split("\n")[:ROWS]

    def close(self) -> None:
        self.tmux("kill-server")


def record(folder: Path, program: Path) -> list[Frame]:
    """The screens of the session, each different from the one before it."""
    terminal = Terminal(folder, program)
    frames: list[Frame] = []

    def look() -> str:
        lines = terminal.screen()
        if not frames or frames[-1].lines != lines:
            frames.append(Frame(lines, time.monotonic()))
        return Text.from_ansi("\n".join(lines)).plain

    try:
        while not look().startswith("$"):
            time.sleep(LOOK)
        for word in COMMAND.split(" "):
            terminal.type(word if word == COMMAND.split(" ")[0] else f" {word}")
            time.sleep(0.15)
            look()
        terminal.tmux("send-keys", "Enter")
        end = time.monotonic() + 120
        # It is over when the shell asks again, below what the program has said last.
        while not (" done in " in (screen := look()) and screen.rstrip().endswith("\n$")):
            assert time.monotonic() < end, screen
            time.sleep(LOOK)
    finally:
        terminal.close()
    kept = [frames[0]]
    for frame in frames[1:-1]:
        if frame.seen - kept[-1].seen >= SHORTEST:
            kept.append(frame)
    return [*kept, frames[-1]]


def color(value, otherwise: tuple[int, int, int]) -> tuple[int, int, int]:
    return otherwise if value is None or value.is_default else tuple(value.get_truecolor(THEME))


def css(rgb: tuple[int, int, int]) -> str:
    return "#%02x%02x%02x" % rgb


class Drawing:
    """The screens as parts of one SVG file. Pictures that several screens show are in it once."""

    def __init__(self) -> None:
        self.console = Console(color_system="truecolor", width=COLUMNS, force_terminal=True)
        self.pictures: dict[bytes, str] = {}

    def screen(self, lines: list[str]) -> str:
        parts, blocks = [], []
        for row, line in enumerate(lines):
            column = 0
            blocks.append([])
            for segment in Text.from_ansi(line).render(self.console, end=""):
                style = segment.style or Style.null()
                if set(segment.text) == {HALF_BLOCK} and style.bgcolor is not None:
                    blocks[row] += [(color(style.color, INK), color(style.bgcolor, GROUND))] * len(segment.text)
                elif segment.text.strip():
                    parts.append(self.text(segment.text, row, column, style))
                column += len(segment.text)
        return "".join([*self.blocks(blocks), *parts])

    def text(self, text: str, row: int, column: int, style: Style) -> str:
        begin = len(text) - len(text.lstrip())
        text = text.strip()
        look = f' fill="{css(color(style.color, INK))}"' if style.color else ""
        look += ' font-weight="bold"' if style.bold else ""
        look += ' opacity="0.6"' if style.dim else ""
        x, y = (column + begin) * WIDTH, (row + 0.75) * HEIGHT
        width = f'{len(text) * WIDTH:.1f}" lengthAdjust="spacingAndGlyphs'
        return f'<text x="{x:.1f}" y="{y:.1f}" textLength="{width}"{look}>{escape(text)}</text>'

    def blocks(self, rows: list[list]) -> list[str]:
        """Lines of half blocks below each other are a picture, two pixels in each character."""
        parts, row = [], 0
        while row < len(rows):
            end = row
            while end < len(rows) and len(rows[end]) == len(rows[row]):
                end += 1
            if rows[row]:
                parts.append(self.picture(rows[row:end], row))
            row = end
        return parts

    def picture(self, rows: list[list], row: int) -> str:
        image = Image.new("RGB", (len(rows[0]), 2 * len(rows)))
        image.putdata([pixel for line in rows for half in (0, 1) for pixel in (cell[half] for cell in line)])
        file = io.BytesIO()
        image.save(file, "PNG", optimize=True)
        name = self.pictures.setdefault(file.getvalue(), f"p{len(self.pictures)}")
        return f'<use href="#{name}" y="{row * HEIGHT}"/>'

    def definitions(self) -> str:
        parts = []
        for file, name in self.pictures.items():
            width, height = Image.open(io.BytesIO(file)).size
            parts.append(
                f'<image id="{name}" width="{width * WIDTH:.1f}" height="{height // 2 * HEIGHT}" preserveAspectRatio="none" '
                f'href="data:image/png;base64,{base64.b64encode(file).decode()}"/>'
            )
        return "<defs>" + "".join(parts) + "</defs>"


def svg(frames: list[Frame]) -> str:
    drawing = Drawing()
    screens = [drawing.screen(frame.lines) for frame in frames]
    width, height = COLUMNS * WIDTH, ROWS * HEIGHT
    total = frames[-1].seen - frames[0].seen + LAST
    stops = [
        f"{(frame.seen - frames[0].seen) / total:.2%}{{transform:translateY({-index * height}px)}}"
        for index, frame in enumerate(frames)
    ]
    last = f"transform:translateY({-(len(frames) - 1) * height}px)"
    film = "".join(f'<g transform="translate(0 {index * height})">{screen}</g>' for index, screen in enumerate(screens))
    dots = "".join(
        f'<circle cx="{18 + 18 * index}" cy="{BAR / 2}" r="5.5" fill="{css(tint)}"/>'
        for index, tint in enumerate([(237, 106, 94), (245, 191, 79), (98, 197, 84)])
    )
    outer = (width + 2 * MARGIN, height + BAR + MARGIN)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {outer[0]:.0f} {outer[1]:.0f}" width="{outer[0]:.0f}" '
        f'height="{outer[1]:.0f}" role="img" aria-label="A terminal in which {escape(COMMAND, quote=True)} shows each picture '
        f'and a progress bar">\n<style>text{{font:{FONT}px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",'
        f"monospace;white-space:pre}}image{{image-rendering:pixelated}}"
        f"#film{{animation:film {total:.2f}s step-end infinite}}@keyframes film{{{''.join(stops)}100%{{{last}}}}}"
        f"@media(prefers-reduced-motion:reduce){{#film{{animation:none;{last}}}}}</style>\n{drawing.definitions()}\n"
        f'<rect width="100%" height="100%" rx="9" fill="{css(GROUND)}"/>{dots}\n'
        f'<svg x="{MARGIN}" y="{BAR}" width="{width:.1f}" height="{height}"><g id="film" fill="{css(INK)}">{film}</g></svg>\n</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=ROOT / "target" / "release" / "remote-vae")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "session.svg")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_latents(Path(folder), args.program.resolve())
        frames = record(Path(folder), args.program.resolve())
    args.out.write_text(svg(frames))
    print(f"{args.out}: {len(frames)} screens, {args.out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
