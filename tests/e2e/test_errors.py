"""Whatever goes wrong, the answer is JSON with one sentence, because clients call `response.json()` on any failure."""

import json
import math
import re

import pytest
import requests
import torch

BINARY = {"Content-Type": "tensor/binary", "Accept": "tensor/binary"}
GOOD = {"shape": [1, 16, 2, 2], "dtype": "float16", "output_type": "pt"}
BODY = bytes(1 * 16 * 2 * 2 * 2)


def assert_error(answer: requests.Response, status: int | set[int], *words: str) -> None:
    statuses = {status} if isinstance(status, int) else status
    assert answer.status_code in statuses, f"{answer.status_code} {answer.text}"
    assert answer.headers["Content-Type"].split(";")[0] == "application/json"
    error = answer.json()
    assert error.keys() == {"error"}
    sentence = error["error"]
    assert isinstance(sentence, str)
    assert len(sentence) >= 15, sentence
    assert "\n" not in sentence
    for word in words:
        assert word in sentence, f"{word!r} is not in {sentence!r}"


def assert_healthy(server) -> None:
    """No error may leave the server worse than before."""
    answer = requests.post(f"{server.url}/demo", params=GOOD, headers=BINARY, data=BODY, timeout=60)
    assert answer.status_code == 200, answer.text


def post(server, path="/demo", body=BODY, headers=BINARY, **changes) -> requests.Response:
    query = {key: value for key, value in (GOOD | changes).items() if value is not None}
    return requests.post(server.url + path, params=query, headers=headers, data=body, timeout=60)


# What is wrong -> (status, words that the sentence must hold so that its reader can mend it).
PARAMETERS = {
    "no shape": ({"shape": None}, 400, ["shape"]),
    "no dtype": ({"dtype": None}, 400, ["dtype"]),
    "words for numbers": ({"shape": ["one", "two"]}, 400, ["shape"]),
    "negative axis": ({"shape": [1, -16, 2, 2]}, 400, ["shape"]),
    "empty axis": ({"shape": [1, 16, 0, 2]}, 400, []),
    "shape overflows": ({"shape": [2**32, 2**32, 2**32, 2**32]}, {400, 413}, []),
    "shape is broken JSON": ({"shape": "[1,16,2"}, 400, ["shape"]),
    "many axes": ({"shape": [1] * 4000}, 400, []),
    "unknown dtype": ({"dtype": "float8"}, 400, ["dtype", "float8", "float16"]),
    "too many bytes": ({"dtype": "uint8"}, 400, ["64", "128"]),
    "too few bytes": ({"dtype": "float32"}, 400, ["256", "128"]),
    "wrong channels": ({"shape": [1, 4, 4, 4]}, 422, ["16", "4"]),
    "two axes": ({"shape": [8, 8]}, 422, ["[B, 16, h, w]"]),
    "five axes": ({"shape": [1, 16, 2, 1, 2]}, 422, ["[B, 16, h, w]"]),
    "packed without size": ({"shape": [1, 1, 64]}, 422, ["height", "width"]),
    "packed in another size": ({"shape": [1, 1, 64], "height": 32, "width": 32}, 422, ["height", "width"]),
    "unknown output_type": ({"output_type": "gif"}, 400, ["output_type", "gif"]),
    "unknown image_format": (
        {"output_type": "pil", "image_format": "bmp", "headers": {"Content-Type": "tensor/binary"}},
        400,
        ["image_format", "bmp"],
    ),
    "no boolean": ({"partial_postprocess": "perhaps"}, 400, ["partial_postprocess", "perhaps"]),
    "scaled by nothing": ({"scaling_factor": 0}, 400, ["scaling_factor"]),
    "scaled by no number": ({"scaling_factor": "nan"}, 400, ["scaling_factor"]),
    "video of an image model": ({"output_type": "mp4"}, 422, ["mp4"]),
    "unknown task": ({"task": "guess"}, 400, ["task"]),
    "unknown model in the query": ({"model": "nobody", "path": "/"}, 404, ["nobody", "demo"]),
    "unknown model in the path": ({"path": "/nobody"}, 404, ["nobody", "demo"]),
    "content type of a web form": (
        {"headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        415,
        ["Content-Type", "tensor/binary"],
    ),
}


@pytest.mark.parametrize(("changes", "status", "words"), PARAMETERS.values(), ids=PARAMETERS)
def test_what_a_request_says(server, changes, status, words):
    assert_error(post(server, **changes), status, *words)
    assert_healthy(server)


def test_a_picture_of_a_batch(server):
    body = bytes(2 * len(BODY))
    answer = post(server, shape=[2, 16, 2, 2], body=body, output_type="pil", headers=BINARY | {"Accept": "image/png"})
    assert_error(answer, 422, "pt")


def test_an_empty_body(server):
    assert_error(post(server, body=b""), 400)


def test_too_large(server):
    """A tensor above the limit is refused by its shape alone; so are pictures too many or too large."""
    assert_error(post(server, shape=[1, 16, 4000, 4000], body=b""), 413)
    for shape in ([17, 16, 2, 2], [1, 16, 257, 257]):
        assert_error(post(server, shape=shape, body=bytes(2 * math.prod(shape))), 413)
    assert_healthy(server)


def test_a_body_longer_than_it_says(server):
    """A body of 256 MiB behind a small shape is cut off, whether its length is announced or not."""

    def pieces():
        for _ in range(256):
            yield bytes(1 << 20)

    for body in (bytes(256 << 20), pieces()):
        try:
            answer = post(server, body=body)
        except requests.ConnectionError:
            continue  # the server hung up in the middle: it may
        assert_error(answer, {400, 413})
    assert_healthy(server)


@pytest.mark.parametrize("path", ["/demo/unknown", "/a/b/c", "/demo/predict/more", "/%00", "/..%2f..%2fetc%2fpasswd"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_unknown_routes(server, method, path):
    answer = requests.request(method, server.url + path, params=GOOD, headers=BINARY, data=BODY, timeout=60)
    assert_error(answer, 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/"), ("PUT", "/demo"), ("PATCH", "/predict"), ("GET", "/predict"), ("POST", "/health"), ("PUT", "/models")],
)
def test_wrong_methods(server, method, path):
    answer = requests.request(method, server.url + path, params=GOOD, headers=BINARY, data=BODY, timeout=60)
    assert_error(answer, 405, method)
    assert answer.headers["Allow"]


def test_values_that_are_no_numbers(server):
    """NaN and infinite latents are refused whatever is asked for: a picture of them is black or grey."""
    for value in (b"\x00\x7e", b"\x00\x7c"):  # NaN, infinity in float16
        assert_error(post(server, body=value * 64), 422, "64 of the 64", "[0, 0, 0, 0]", "latents.cpu().contiguous()")
        for accept in ("image/png", "image/jpeg"):
            headers = BINARY | {"Accept": accept}
            assert_error(post(server, body=value * 64, output_type="pil", headers=headers), 422, "NaN")
    assert_healthy(server)


def test_a_start_that_is_most_likely_freed_memory(server):
    """What diffusers 0.39.0 to 0.42.1 can send: latents whose first bytes have been overwritten. They are decoded, and the
    header and the log say what to do."""
    torch.manual_seed(0)
    latents = torch.randn(1, 16, 4, 4, dtype=torch.float16)
    latents.view(-1)[:4] = torch.tensor([6e4, -3e-5, 0, 5e4], dtype=torch.float16)
    answer = post(server, shape=list(latents.shape), body=latents.numpy().tobytes())
    assert answer.status_code == 200, answer.text
    assert "latents.cpu().contiguous()" in answer.headers["x-warning"]
    identifier = answer.headers["x-request-id"]
    lines = [line for line in server.log.read_text().splitlines() if identifier in line and "WARN" in line]
    assert any("latents.cpu().contiguous()" in line for line in lines), lines
    answer = post(server, shape=list(latents.shape), body=torch.randn_like(latents).numpy().tobytes())
    assert answer.status_code == 200 and "x-warning" not in answer.headers


def test_what_the_client_shows(server, demo):
    """diffusers raises the JSON as it came, so the sentence reaches its user."""
    from diffusers.utils.remote_utils import remote_decode

    with pytest.raises(RuntimeError) as caught:
        remote_decode(f"{server.url}/nobody", demo.latents(1, 2, 2), scaling_factor=1.0)
    assert re.search(r"\{'error': '.*nobody.*'\}", str(caught.value)), caught.value
    json.dumps(caught.value.args[0])
