"""What load.py and soak.py send: requests of many kinds whose answers are known to the byte, and figures of how it went."""

import asyncio
import io
import json
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "bench")]

# Nobody's patience ends before the server's.
PATIENCE = 300


@dataclass(frozen=True)
class Kind:
    """A request that is sent again and again."""

    name: str
    # How often it comes, beside the others.
    weight: float
    model: str
    query: dict
    body: bytes
    content_type: str
    accept: str
    # Of the picture, in pixels.
    side: int


@dataclass(frozen=True)
class Outcome:
    kind: str
    # 0: the connection broke, or there was none.
    status: int
    # When it was to be sent, and how long after that the last byte of its answer was there.
    due: float
    seconds: float
    # How much later than that it was sent: the sender's own fault.
    late: float = 0.0
    # What was wrong with the answer, if anything.
    wrong: str | None = None


# Kinds by side, output and weight: small ones often, large ones now and then.
DECODES = [
    (256, "jpg", 35),
    (256, "png", 20),
    (256, "pt", 10),
    (512, "jpg", 15),
    (1024, "jpg", 5),
]
ENCODES = [(256, 15)]
ACCEPT = {"jpg": "image/jpeg", "png": "image/png", "pt": "tensor/binary"}


def decode(info: dict, side: int, output: str, weight: float) -> Kind:
    """A decode to a square picture, with the factors of the model's own configuration."""
    factor, channels = info["spatial_factor"], info["latent_channels"]
    latents = latents_of(info["name"], channels, side // factor)
    query = {"shape": json.dumps(list(latents.shape)), "dtype": "float16", "do_scaling": "True"}
    query |= {"output_type": "pt", "partial_postprocess": "True"} if output == "pt" else {"image_format": output}
    name = f"decode {side} {output}"
    return Kind(name, weight, info["name"], query, latents.tobytes(), "tensor/binary", ACCEPT[output], side)


def encode(info: dict, side: int, weight: float) -> Kind:
    """The mode of the photograph's latents, from a PNG file."""
    query = {"sample_mode": "argmax", "scaling_factor": info["scaling_factor"]}
    if info["shift_factor"] is not None:
        query["shift_factor"] = info["shift_factor"]
    return Kind(f"encode {side} png", weight, info["name"], query, png(photograph(side)), "image/png", "*/*", side)


def kinds(info: dict) -> list[Kind]:
    """What is sent to a model of pictures, as `GET /models` describes it."""
    if info["temporal_factor"] is not None:
        raise SystemExit(f"{info['name']} decodes videos, and this sends pictures: name another model with --model")
    found = [decode(info, side, output, weight) for side, output, weight in DECODES]
    return found + [encode(info, side, weight) for side, weight in ENCODES if info["can_encode"]]


def latents_of(model: str, channels: int, side: int) -> np.ndarray:
    """The photograph's latents for the demonstration model, repeated or cut to size; noise for the others."""
    if model != "demo":
        return np.random.default_rng(side).standard_normal((1, channels, side, side)).astype(np.float16)
    from place import PHOTOGRAPH_LATENTS
    from safetensors.numpy import load_file

    latents = load_file(PHOTOGRAPH_LATENTS)["latents"].astype(np.float16)
    times = -(-side // latents.shape[-1])
    return np.ascontiguousarray(np.tile(latents, (1, 1, times, times))[..., :side, :side])


def photograph(side: int) -> Image.Image:
    from place import PHOTOGRAPH

    return Image.open(PHOTOGRAPH).convert("RGB").crop((0, 0, side, side))


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


async def learn(client: httpx2.AsyncClient, kind: Kind) -> tuple[bytes, float]:
    """The bytes of the answer, and the shorter time of two. Of the demonstration model they must be what diffusers says."""
    answers = []
    for _ in range(2):
        start = time.perf_counter()
        answer = await post(client, kind)
        seconds = time.perf_counter() - start
        if answer.status_code != 200:
            raise SystemExit(f"`{kind.name}` was answered with {answer.status_code}: {answer.text}")
        answers.append((answer.content, seconds))
    (first, one), (second, other) = answers
    assert first == second, f"`{kind.name}` was answered in two ways"
    if kind.model == "demo":
        check(kind, first)
    return first, min(one, other)


def check(kind: Kind, content: bytes) -> None:
    """Within what the project promises of diffusers in float32."""
    import compare
    import torch
    from models import demo

    model = demo()
    if kind.name.startswith("encode"):
        latents = torch.from_numpy(np.frombuffer(content, np.float16).reshape(1, -1, kind.side // 8, kind.side // 8).copy())
        picture = torch.from_numpy(np.asarray(photograph(kind.side)).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        compare.assert_latents(latents, model.scaled(model.posterior(picture).mode()))
        return
    shape = json.loads(kind.query["shape"])
    latents = torch.from_numpy(np.frombuffer(kind.body, np.float16).reshape(shape).copy())
    reference = model.decoded(model.unscaled(latents))
    if kind.accept == "image/jpeg":
        compare.assert_jpeg_like_pillow(content, compare.round8(reference)[0])
    elif kind.accept == "image/png":
        compare.assert_bytes(compare.pixels(content, "PNG")[None], reference)
    else:
        compare.assert_bytes(np.frombuffer(content, np.uint8).reshape(1, kind.side, kind.side, 3), reference)


def connect(url: str, key: str | None = None) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE, limits=limits, trust_env=False)


async def post(client: httpx2.AsyncClient, kind: Kind, **headers: str) -> httpx2.Response:
    headers = {"Content-Type": kind.content_type, "Accept": kind.accept} | headers
    return await client.post(f"/{kind.model}", params=kind.query, content=kind.body, headers=headers)


async def send(client: httpx2.AsyncClient, kind: Kind, expected: bytes, due: float, **headers: str) -> Outcome:
    """Sends a request that was to be sent at `due` (of the event loop's clock), and looks at every byte of its answer."""
    now = asyncio.get_running_loop().time
    late = now() - due
    try:
        answer = await post(client, kind, **headers)
    except httpx2.TransportError as error:
        return Outcome(kind.name, 0, due, now() - due, late, f"no answer: {type(error).__name__} {error}")
    seconds, status, wrong = now() - due, answer.status_code, None
    if status == 200:
        if answer.content != expected:
            wrong = "another answer than the first time"
    elif status == 429:
        wrong = refusal(answer.headers.get("Retry-After"), answer.content)
    else:
        wrong = f"status {status}: {answer.text[:200]}"
    return Outcome(kind.name, status, due, seconds, late, wrong)


def refusal(retry_after: str | None, content: bytes) -> str | None:
    """What is wrong with a 429, if anything."""
    if retry_after is None or not retry_after.isdigit() or int(retry_after) < 1:
        return f"429 with `Retry-After` {retry_after}"
    return error_of(content)


def error_of(content: bytes) -> str | None:
    """What is wrong with the body of an error, if anything."""
    try:
        said = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        return f"an error without a sentence: {content[:100]!r}"
    return None if isinstance(said, str) and said else f"an error without a sentence: {content[:100]!r}"


PERCENTILES = (50, 90, 99, 99.9)


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    """By nearest rank, in seconds; the p99.9 of fewer than a thousand is their longest."""
    ordered = sorted(seconds)
    found = {f"p{p:g}": ordered[max(math.ceil(p / 100 * len(ordered)), 1) - 1] for p in PERCENTILES} if ordered else {}
    return {name: round(value, 4) for name, value in (found | {"max": ordered[-1]} if ordered else found).items()}


def machine(service_threads: int) -> dict:
    """The build, the processor, and how many threads the server was given."""
    import os
    import subprocess

    from place import binary

    command = [binary(), "bench", "--json", "--sizes=8", "--runs=1", f"--threads={service_threads}"]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    return {
        "processor": found["processor"],
        "cores": os.cpu_count(),
        "instruction_set": found["engine"].split(", ")[1],
        "threads": service_threads,
        "version": found["version"],
        "commit": found["commit"],
    }
