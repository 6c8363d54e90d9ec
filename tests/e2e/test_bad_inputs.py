"""What the server says to bad requests: the table in docs/bad-inputs.md, each row of it from a real run.

A row that is not true any more fails, and so does one that is missing. `BAD_INPUTS=write` writes the table anew.
"""

import base64
import contextlib
import io
import json
import os
import re
import socket
import struct
import zlib
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from models import ALPHA
from place import ROOT
from service import serving

DOCUMENT = ROOT / "docs" / "bad-inputs.md"
KEY = "correct-horse-battery"
LATENTS = bytes(16 * 2 * 2 * 2)
QUERY = {"shape": "[1,16,2,2]", "dtype": "float16"}
LIMITS = ["--max-pixels=65536", "--max-total-pixels=131072", "--max-batch=4", "--max-body=1MiB", "--header-timeout=1s", "--body-timeout=1s"]


def raw(url: str, content: bytes) -> tuple[int, dict[str, str], bytes]:
    """Sends bytes as they are, and reads what comes back: status (0 when nothing does), headers, body."""
    with socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=30) as connection:
        answer = b""
        # A refusal may come before all of it is sent.
        with contextlib.suppress(ConnectionError):
            connection.sendall(content)
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(1 << 16):
                answer += piece
    if not answer:
        return 0, {}, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


def send(url: str, body: bytes = LATENTS, *, path="/", method="POST", query=None, content_type="tensor/binary", headers=()) -> tuple:
    query = "&".join(f"{key}={value}" for key, value in (QUERY if query is None else query).items() if value is not None)
    lines = [f"{method} {path}?{query} HTTP/1.1", "host: test", "connection: close", f"content-length: {len(body)}", *headers]
    if content_type:
        lines.append(f"content-type: {content_type}")
    return raw(url, "\r\n".join([*lines, "", ""]).encode() + body)


def asking(**changes):
    """A decode whose query is changed."""
    path = changes.pop("path", "/")
    body = changes.pop("body", LATENTS)
    return lambda url: send(url, body, path=path, query=QUERY | changes)


def body(content: bytes | str, content_type: str, **query):
    content = content if isinstance(content, bytes) else content.encode()
    return lambda url: send(url, content, query=query, content_type=content_type)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *more: bytes, rows: int | None = None) -> bytes:
    """A black picture, of which a MiB of pixels is there at most."""
    size = (3 * width + 1) * (height if rows is None else rows)
    pixels = zlib.compress(bytes(min(size, 1 << 20)), 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, "JPEG")
    head, rest = content.getvalue().split(b"\xff\xc0", 1)
    return head + b"\xff\xc0" + rest[:3] + struct.pack(">HH", height, width) + rest[7:]


def webp(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    content = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size
    return b"RIFF" + struct.pack("<I", len(content)) + content


def photograph(format: str) -> bytes:
    content = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(content, format)
    return content.getvalue()


BOMB = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9))
NAN, INFINITY = b"\x00\x7e" * 64, b"\x00\x7c" * 64
B64 = base64.b64encode(LATENTS).decode()
PIXELS = {"shape": "[1,3,8,8]", "dtype": "float32", "task": "encode"}


def first_generation(inputs=B64, **parameters):
    return body(json.dumps({"inputs": inputs, "parameters": {"shape": [1, 16, 2, 2], "dtype": "float16"} | parameters}), "application/json")


# What was sent -> how.
PARAMETERS = {
    "no `shape`": asking(shape=None),
    "no `dtype`": asking(dtype=None),
    "`shape=one`": asking(shape="one"),
    "`shape=[1,16,2`": asking(shape="[1,16,2"),
    "`shape=[1,-16,2,2]`": asking(shape="[1,-16,2,2]"),
    "`shape=[1,16,0,2]`": asking(shape="[1,16,0,2]"),
    "`shape` with 9 axes": asking(shape="[1,1,1,1,1,1,1,1,64]"),
    "`shape=[4294967296,4294967296,4294967296]`": asking(shape="[4294967296,4294967296,4294967296]"),
    "`dtype=float8`": asking(dtype="float8"),
    "float16 latents called float32": asking(dtype="float32"),
    "latents that are cut short": asking(body=LATENTS[:100]),
    "latents that go on": asking(body=LATENTS + bytes(28)),
    "no body": asking(body=b""),
    "latents of another model": asking(shape="[1,4,4,4]", body=bytes(128)),
    "latents of a video": asking(shape="[1,16,2,1,2]"),
    "a table": asking(shape="[8,8]"),
    "packed latents without a size": asking(shape="[1,1,64]"),
    "packed latents with another size": asking(shape="[1,1,64]", height=32, width=32),
    "`scaling_factor=0`": asking(scaling_factor=0),
    "`scaling_factor=nan`": asking(scaling_factor="nan"),
    "`do_scaling=perhaps`": asking(do_scaling="perhaps"),
    "`output_type=gif`": asking(output_type="gif"),
    "`output_type=mp4` of a model of pictures": asking(output_type="mp4"),
    "`image_format=bmp`": asking(image_format="bmp"),
    "`quality=0`": asking(quality=0),
    "`out_dtype=int8`": asking(output_type="pt", out_dtype="int8"),
    "`task=sing`": asking(task="sing"),
    "`dtype` twice": asking(dtype="float16&dtype=float16"),
    "a model that is not there": asking(path="/nobody"),
    "two models": asking(path="/demo", model="other"),
    "a batch as one picture": asking(shape="[2,16,2,2]", body=2 * LATENTS, output_type="pil"),
}
LATENT_VALUES = {
    "NaN in every latent": asking(body=NAN),
    "infinity in every latent": asking(body=INFINITY),
    "NaN in the last two of 128 latents": asking(shape="[1,16,2,4]", body=LATENTS + bytes(124) + NAN[:4]),
    "`scaling_factor=1e-39`, so that latents become infinite": asking(body=b"\x00\x3c" * 64, scaling_factor="1e-39"),
    "`scaling_factor=1e-38`, so that all overflows": asking(body=b"\x00\x3c" * 64, scaling_factor="1e-38"),
}
SIZES = {
    "a shape above `--max-body`, and no body": asking(shape="[1,16,4000,4000]", body=b""),
    "a picture above `--max-pixels`": asking(shape="[1,16,33,32]", body=bytes(2 * 16 * 33 * 32)),
    "a batch above `--max-batch`": asking(shape="[5,16,2,2]", body=5 * LATENTS, output_type="pt"),
    "a batch above `--max-total-pixels`": asking(shape="[3,16,32,32]", body=bytes(2 * 3 * 16 * 32 * 32), output_type="pt"),
    "a picture file above `--max-body`": body(bytes(2 << 20), "image/png"),
    "JSON above `--max-body`": body(" " * (2 << 20), "application/json"),
}
BODIES = {
    "a web form": body("a=b", "application/x-www-form-urlencoded"),
    "a multipart form": body("--x--", "multipart/form-data; boundary=x"),
    "a compressed body": lambda url: send(url, headers=["content-encoding: gzip"]),
    "JSON that breaks off": body('{"inputs": "AA', "application/json"),
    "a JSON list": body("[1, 2]", "application/json"),
    "JSON without `inputs`": body('{"parameters": {}}', "application/json"),
    "JSON that is 100 000 lists deep": body('{"inputs": ' + "[" * 100_000, "application/json"),
    "`inputs` that is no base64": first_generation(inputs="!!!!"),
    "base64 of another length": first_generation(inputs="AAAA"),
    "JSON with a shape in words": first_generation(shape="large"),
    "JSON without `dtype`": first_generation(dtype=None),
    "JSON with 80 kB of parameters": first_generation(prompt="a" * 80_000),
    "`tensor/base64` without a shape": body(json.dumps({"inputs": B64}), "tensor/base64"),
}
PICTURES = {
    "an empty file": body(b"", "image/png"),
    "a GIF": body(b"GIF89a" + bytes(20), "image/gif"),
    "text called PNG": body("a picture of a cat", "image/png"),
    "a PNG that breaks off": body(png(64, 64)[:60], "image/png"),
    "a JPEG that breaks off": body(photograph("JPEG")[:-500], "image/jpeg"),
    "a JPEG without its end marker": body(photograph("JPEG")[:-2], "image/jpeg"),
    "a WebP that breaks off": body(photograph("WEBP")[:-50], "image/webp"),
    "a JPEG with 12 bits a sample": body(photograph("JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "image/jpeg"),
    "a PNG with rows missing": body(png(64, 64, rows=8), "image/png"),
    "a PNG of 1 kB with 2 147 483 647 × 2 147 483 647 pixels": body(png(2**31 - 1, 2**31 - 1), "image/png"),
    "a PNG of 30 000 × 30 000 pixels": body(png(30_000, 30_000), "image/png"),
    "a JPEG of 65 535 × 65 535 pixels": body(jpeg(65_535, 65_535), "image/jpeg"),
    "a WebP of 16 777 216 × 16 777 216 pixels": body(webp(1 << 24, 1 << 24), "image/webp"),
    "a PNG with 100 MB of comment, compressed to 97 kB": body(png(8, 8, BOMB), "image/png"),
    "a picture of 4 × 4 pixels": body(png(4, 4), "image/png"),
    "NaN in every pixel": lambda url: send(url, np.full(192, np.nan, "<f4").tobytes(), query=PIXELS, content_type=""),
    "pixels with four channels": lambda url: send(url, bytes(1024), query=PIXELS | {"shape": "[1,4,8,8]"}, content_type=""),
    "pixels with five channels": lambda url: send(url, bytes(1280), query=PIXELS | {"shape": "[1,5,8,8]"}, content_type=""),
    "`sample_mode=mean`": body(png(8, 8), "image/png", sample_mode="mean"),
    "`seed=-1`": body(png(8, 8), "image/png", seed=-1),
}
WITH_ALPHA = {
    "a decode without `image_format`": asking(),
    "`image_format=jpg`": asking(image_format="jpg"),
    "`image_format=png`": asking(image_format="png"),
    "`output_type=mp4`": asking(output_type="mp4"),
    "a PNG without alpha": body(png(8, 8), "image/png"),
    "pixels with three channels": lambda url: send(url, bytes(768), query=PIXELS, content_type=""),
    "pixels with two channels": lambda url: send(url, bytes(512), query=PIXELS | {"shape": "[1,2,8,8]", "task": "encode"}, content_type=""),
}
POST = b"POST /?shape=[1,16,2,2]&dtype=float16 HTTP/1.1\r\nhost: test\r\ncontent-type: tensor/binary\r\n"
HTTP = {
    "a path that is not there": lambda url: send(url, path="/a/b/c"),
    "`..` in the path": lambda url: send(url, path="/..%2f..%2fetc%2fpasswd"),
    "another method": lambda url: send(url, method="DELETE"),
    "`GET` of a model": lambda url: send(url, method="GET", path="/demo"),
    "200 headers": lambda url: send(url, headers=[f"x-{number}: 1" for number in range(200)]),
    "a header of 1 MB": lambda url: send(url, headers=["x-long: " + "a" * 1_000_000]),
    "a URL of 100 kB": lambda url: send(url, path="/" + "a" * 100_000),
    "a header that is no text": lambda url: raw(url, b"GET /models HTTP/1.1\r\nhost: test\r\n\xff\xfe: \x01\r\n\r\n"),
    "a `Content-Type` beyond ASCII": lambda url: raw(url, b"POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: \xe4\r\ncontent-length: 0\r\n\r\n"),
    "no HTTP": lambda url: raw(url, b"hello\r\n\r\n"),
    "a greeting of TLS": lambda url: raw(url, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)),
    "a greeting of HTTP/2": lambda url: raw(url, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "`Content-Length: -1`": lambda url: raw(url, POST + b"content-length: -1\r\n\r\n"),
    "two lengths": lambda url: raw(url, POST + b"content-length: 128\r\ncontent-length: 5\r\n\r\n" + LATENTS),
    "a chunk whose length is no number": lambda url: raw(url, POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
    "a head that does not come": lambda url: raw(url, b"POST / HTTP/1.1\r\nhost:"),
    "a body that does not come": lambda url: raw(url, POST + b"connection: close\r\ncontent-length: 128\r\n\r\n"),
    "`x-request-timeout: soon`": lambda url: send(url, headers=["x-request-timeout: soon"]),
    "`x-request-timeout: 0.000001`": lambda url: send(url, headers=["x-request-timeout: 0.000001"]),
}
BASIC = base64.b64encode(b"alice:wrong").decode()
KEYS = {
    "no key": lambda url: send(url),
    "a wrong key": lambda url: send(url, headers=["authorization: Bearer wrong"]),
    "a wrong key in the URL": lambda url: send(url, query=QUERY | {"api_key": "wrong"}),
    "a wrong password": lambda url: send(url, headers=[f"authorization: Basic {BASIC}"]),
    "`Basic` that is no base64": lambda url: send(url, headers=["authorization: Basic %%%"]),
    "another scheme": lambda url: send(url, headers=[f"authorization: Digest {KEY}"]),
    "a key, once too often within `--rate-limit`": lambda url: [send(url, headers=[f"authorization: Bearer {KEY}"]) for _ in range(2)][-1],
}
SECTIONS = {
    "Parameters": PARAMETERS,
    "Values": LATENT_VALUES,
    "Sizes": SIZES,
    "Bodies": BODIES,
    "Pictures to encode": PICTURES,
    "Pictures with alpha": WITH_ALPHA,
    "HTTP": HTTP,
    "Keys": KEYS,
}


def row(name: str, answer: tuple[int, dict[str, str], bytes]) -> str:
    """A line of the table; what is not a success must be JSON with a sentence, or a closed connection."""
    status, headers, content = answer
    if status == 0:
        return f"| {name} | – | the connection is closed |"
    if status == 200:
        return f"| {name} | 200 | {headers['content-type']} |"
    assert status in {400, 401, 404, 405, 408, 413, 414, 415, 422, 429, 431, 503}, (name, status, content)
    assert headers["content-type"] == "application/json"
    assert ("retry-after" in headers) == (status in {429, 503})
    error = json.loads(content)
    assert error.keys() == {"error"}
    sentence = error["error"]
    assert len(sentence) > 15 and sentence.isprintable(), sentence
    long = re.sub(r"a{100,}", "aaa…", sentence)
    return f"| {name} | {status} | {long.replace('|', chr(92) + '|')} |"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """All rows by section."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "keys").write_text(f"alice:{KEY}\n")
    with (
        serving(["--model=demo=demo", *LIMITS], folder / "log") as open_server,
        serving(["--model=demo=demo", f"--api-key-file={folder / 'keys'}", "--rate-limit=1/h"], folder / "locked") as locked,
        serving([f"--model=alpha={ALPHA.folder}", *LIMITS], folder / "alpha") as alpha,
    ):
        servers = {"Keys": locked, "Pictures with alpha": alpha}
        found = {}
        for section, inputs in SECTIONS.items():
            url = servers.get(section, open_server).url
            found[section] = [row(name, ask(url)) for name, ask in inputs.items()]
            # Nothing of it may leave the server worse than before.
            assert send(open_server.url)[0] == 200, section
        assert KEY not in (folder / "locked").read_text()
    return found


def test_the_document_says_what_the_server_says(rows):
    tables = {name: "\n".join(["| sent | status | answer |", "|---|---|---|", *lines]) for name, lines in rows.items()}
    if os.environ.get("BAD_INPUTS") == "write":
        intro = DOCUMENT.read_text().split("\n## ")[0].rstrip()
        DOCUMENT.write_text("\n\n".join([intro, *(f"## {name}\n\n{table}" for name, table in tables.items())]) + "\n")
    document = DOCUMENT.read_text()
    for name, table in tables.items():
        section = document.partition(f"\n## {name}\n")[2].partition("\n## ")[0].strip()
        assert section == table
