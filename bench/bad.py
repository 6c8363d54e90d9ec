"""Requests that no server may take, and what they must be answered with: what soak.py sends among the good ones.

All are for a server with API keys and `--max-body=8MiB` that serves the embedded demonstration model.
"""

import base64
import io
import json
import struct
import zlib
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from PIL import Image

LATENTS = bytes(16 * 8 * 8 * 2)
SHAPE = [1, 16, 8, 8]


@dataclass(frozen=True)
class Bad:
    name: str
    # All of it, or as much as is sent.
    request: bytes
    # One of these; an empty set is a connection that is closed without a word.
    statuses: frozenset[int]
    # Whether the answer is the server's own, and so has a sentence; what is no HTTP gets none.
    explained: bool = True


def http(method: str, target: str, headers: dict[str, str], body: bytes = b"", length: int | None = None) -> bytes:
    headers = {"Host": "soak", "Connection": "close"} | headers
    if method != "GET" and "Transfer-Encoding" not in headers:
        headers["Content-Length"] = str(len(body) if length is None else length)
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def all_of_them(key: str) -> list[Bad]:
    auth = {"Authorization": f"Bearer {key}"}
    tensor = auth | {"Content-Type": "tensor/binary"}
    found: list[Bad] = []

    def bad(name: str, request: bytes, *statuses: int, explained: bool = True) -> None:
        found.append(Bad(name, request, frozenset(statuses), explained))

    def decode(name: str, query: dict | str, body: bytes, *statuses: int, headers: dict = tensor, length=None) -> None:
        text = query if isinstance(query, str) else urlencode(query)
        bad(name, http("POST", f"/?{text}", headers, body, length), *statuses)

    def image(name: str, body: bytes, *statuses: int, kind: str = "image/png") -> None:
        bad(name, http("POST", "/", auth | {"Content-Type": kind}, body), *statuses)

    sound = {"shape": json.dumps(SHAPE), "dtype": "float16"}

    # Doors.
    decode("no key", sound, LATENTS, 401, headers={"Content-Type": "tensor/binary"})
    decode("a wrong key", sound, LATENTS, 401, headers=tensor | {"Authorization": "Bearer 0000000000000000000000"})
    decode("a key that is no text", sound, LATENTS, 401, headers=tensor | {"Authorization": "Bearer \xff\xfe"})
    decode("a Basic key that is no base64", sound, LATENTS, 401, headers=tensor | {"Authorization": "Basic %%%"})
    bad("metrics without a key", http("GET", "/metrics", {}), 401)

    # Where to, and how.
    bad("an unknown path", http("POST", "/a/b/c", tensor, LATENTS), 404)
    bad("an unknown model", http("POST", f"/nothing?{urlencode(sound)}", tensor, LATENTS), 404)
    bad("a path out of the page's folder", http("GET", "/page/..%2f..%2fCargo.toml", auth), 404)
    bad("another method", http("PUT", "/predict", tensor, LATENTS), 405)
    bad("a method that there is not", http("BREW", "/predict", tensor, LATENTS), 405)

    # Queries.
    decode("no shape", {"dtype": "float16"}, LATENTS, 400, 422)
    decode("no type", {"shape": json.dumps(SHAPE)}, LATENTS, 400, 422)
    decode("an unknown type", sound | {"dtype": "complex512"}, LATENTS, 400, 422)
    decode("a shape that is no list", sound | {"shape": "{}"}, LATENTS, 400, 422)
    decode("a negative shape", sound | {"shape": "[1,16,-8,8]"}, LATENTS, 400, 422)
    decode("a shape with a zero", sound | {"shape": "[1,16,0,8]"}, b"", 400, 422)
    not_a_number = b"\x00\x7e" + LATENTS[2:]
    decode("latents that are no numbers", sound, not_a_number, 422)
    decode("a shape whose product overflows", sound | {"shape": json.dumps([1, 16, 2**33, 2**33])}, LATENTS, 400, 413, 422)
    decode("a shape beyond all integers", sound | {"shape": f"[1,16,8,{'9' * 400}]"}, LATENTS, 400, 413, 422)
    decode("a shape of a thousand axes", sound | {"shape": json.dumps([1] * 1000)}, LATENTS, 400, 413, 422)
    decode("other channels", sound | {"shape": "[1,4,8,32]"}, LATENTS, 400, 422)
    decode("a picture beyond the limit", sound | {"shape": "[1,16,512,512]"}, bytes(8 << 20), 413)
    decode("a batch beyond the limit", sound | {"shape": "[99,16,8,8]"}, LATENTS * 99, 413)
    decode("factors that are no numbers", sound | {"scaling_factor": "much"}, LATENTS, 400, 422)
    decode("a factor of nought", sound | {"scaling_factor": "0"}, LATENTS, 400, 422)
    decode("an unknown output", sound | {"output_type": "hologram"}, LATENTS, 400, 422)
    decode("a video of a model of pictures", sound | {"output_type": "mp4"}, LATENTS, 400, 422)
    decode("text that is no UTF-8", f"shape={quote('[1,16,8,8]')}&dtype=%ff%fe", LATENTS, 400, 422)
    decode("a broken escape", "shape=%zz%1&dtype=float16", LATENTS, 400, 422)

    # Bodies.
    decode("less than the shape says", sound, LATENTS[:-1], 400, 422)
    decode("more than the shape says", sound, LATENTS + b"x", 400, 413, 422)
    decode("no body", sound, b"", 400, 422)
    decode("a body that is announced too large", sound, b"", 400, 413, length=1 << 40)
    decode("a compressed body", sound, zlib.compress(LATENTS), 415, headers=tensor | {"Content-Encoding": "deflate"})
    decode("an unknown content", {}, b"x" * 99, 400, 415, 422, headers=auth | {"Content-Type": "application/x-tar"})
    chunked = tensor | {"Transfer-Encoding": "chunked"}
    endless = (b"10000\r\n" + bytes(1 << 16) + b"\r\n") * 16
    decode("chunks beyond the shape", sound, endless + b"0\r\n\r\n", 413, headers=chunked)
    decode("chunks that are none", sound, b"nonsense\r\n\r\n", 400, headers=chunked)

    # JSON.
    def as_json(name: str, body: bytes, *statuses: int) -> None:
        bad(name, http("POST", "/", auth | {"Content-Type": "application/json"}, body), *statuses)

    parameters = {"shape": SHAPE, "dtype": "float16"}
    as_json("JSON that breaks off", b'{"inputs": "AAAA', 400, 422)
    as_json("JSON of another kind", b"[1,2,3]", 400, 422)
    as_json("JSON a hundred thousand deep", b"[" * 100_000, 400, 422)
    as_json("no inputs", json.dumps({"parameters": parameters}).encode(), 400, 422)
    as_json("base64 that is none", json.dumps({"inputs": "&" * 64, "parameters": parameters}).encode(), 400, 422)
    short = base64.b64encode(LATENTS[:100]).decode()
    as_json("base64 of another length", json.dumps({"inputs": short, "parameters": parameters}).encode(), 400, 422)

    as_json("JSON of six megabytes that breaks off", b'{"inputs": "' + b"A" * (6 << 20), 400, 422)
    as_json("six megabytes of base64 for another shape", json.dumps({"inputs": "A" * (6 << 20), "parameters": parameters}).encode(), 400, 413, 422)

    # Pictures.
    image("a picture that is none", b"GIF89a" + bytes(99), 400, 415, 422)
    image("an empty picture", b"", 400, 415, 422)
    image("a PNG that breaks off", png(64, 64)[:60], 400, 422)
    image("a PNG with a wrong checksum", png(64, 64)[:-20] + bytes(20), 400, 422)
    image("a PNG of 60000 x 60000", png(60_000, 60_000, rows=4), 413)
    # Readers take what its size says and leave the rest, as Pillow does.
    image("a PNG whose pixels inflate to 100 MB", png(64, 64, data=bytes(100_000_000)), 200)
    image("a JPEG of 65500 x 65500", jpeg_head(65_500, 65_500), 400, 413, 422, kind="image/jpeg")
    image("a JPEG that is only its first bytes", b"\xff\xd8\xff\xe0", 400, 422, kind="image/jpeg")
    # Pictures of four components are read as Pillow reads them, and whatever is cut is refused.
    for mode in ("RGB", "CMYK", "L"):
        whole = jpeg(mode)
        image(f"a JPEG in {mode}", whole, 200, kind="image/jpeg")
        image(f"half a JPEG in {mode}", whole[: len(whole) // 2], 400, 422, kind="image/jpeg")
    image("half a progressive JPEG", (whole := jpeg("RGB", progressive=True))[: len(whole) // 2], 400, 422, kind="image/jpeg")
    image("a WebP of 16383 x 16383", webp_head(16_383, 16_383), 400, 413, 422, kind="image/webp")

    # No HTTP.
    bad("bytes at random", bytes(range(256)) * 8, 400, explained=False)
    bad("a TLS hello on a plain port", bytes.fromhex("1603010200010001fc0303") + bytes(512), 400, explained=False)
    bad("another version", b"GET /health HTTP/9.9\r\nHost: soak\r\n\r\n", 400, explained=False)
    bad("a header without a name", b"GET /health HTTP/1.1\r\n: x\r\n\r\n", 400, explained=False)
    huge = http("GET", "/health", {"X-Large": "x" * (1 << 20)})
    bad("a head of a megabyte", huge, 431, explained=False)
    many = http("GET", "/health", {f"X-{number}": "x" for number in range(1000)})
    bad("a thousand headers", many, 431, explained=False)
    two = http("POST", f"/?{urlencode(sound)}", tensor | {"content-length": "7"}, LATENTS)
    bad("two lengths", two, 400, explained=False)
    return found


def png(width: int, height: int, rows: int | None = None, data: bytes | None = None) -> bytes:
    """A black grey-scale PNG, or one that says so of itself and has other `rows` or other pixel `data`."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    raw = bytes((width + 1) * (height if rows is None else rows)) if data is None else data
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def jpeg(mode: str, **options) -> bytes:
    """A picture of many colours, as Pillow writes it."""
    file = io.BytesIO()
    Image.effect_mandelbrot((128, 96), (-2, -1.5, 1, 1.5), 50).convert("RGB").convert(mode).save(file, format="JPEG", **options)
    return file.getvalue()


def jpeg_head(width: int, height: int) -> bytes:
    """A JPEG that ends after its frame header."""
    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xda"


def webp_head(width: int, height: int) -> bytes:
    """A lossless WebP that has no more than its size."""
    bits = (width - 1) | (height - 1) << 14
    stream = b"\x2f" + struct.pack("<I", bits) + bytes(16)
    chunk = b"VP8L" + struct.pack("<I", len(stream)) + stream + b"\0" * (len(stream) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
