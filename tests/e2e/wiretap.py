"""Requests as bytes: what a client really puts on the wire, and how a server answers those very bytes."""

import contextlib
import http.client
import io
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch

# The port that stands in a captured request; the server does not look at it.
HOST = b"127.0.0.1"


def capture(call: Callable[[str], object]) -> bytes:
    """The bytes that `call(url)` sends. It is answered with a refusal, so whatever it raises is of no interest."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        received = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                stream = connection.makefile("rb")
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = stream.readline()
                    assert line, "the client closed the connection inside its request"
                    head += line
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                received.append(head + stream.read(length))
                refusal = b'{"error": "captured"}'
                connection.sendall(
                    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(refusal), refusal)
                )

        thread = threading.Thread(target=serve)
        thread.start()
        with contextlib.suppress(Exception):
            call(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(30)
    assert received, "nothing was sent"
    return received[0]


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def replay(port: int, request: bytes) -> Answer:
    """Sends these bytes to the server and reads its answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=300) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return Answer(response.status, response.headers, response.read())


def written(target: str, headers: dict[str, str], body: bytes) -> bytes:
    """A request written by hand: its path with the query, its headers, its body."""
    lines = [f"POST {target} HTTP/1.1", "Host: 127.0.0.1:8080", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def with_path(request: bytes, path: str) -> bytes:
    """The same request for another path: the one that a client would be given as its URL."""
    method, target, rest = request.split(b" ", 2)
    query = target.split(b"?", 1)[1:] or [b""]
    return b" ".join([method, path.encode() + (b"?" + query[0] if query[0] else b""), rest])


def tensor(answer: Answer) -> torch.Tensor:
    """The tensor of an answer, as its headers say."""
    assert answer.status == 200, answer.body
    dtypes = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "uint8": torch.uint8}
    values = torch.frombuffer(bytearray(answer.body), dtype=dtypes[answer.headers["dtype"]])
    return values.reshape(json.loads(answer.headers["shape"]))


def picture(answer: Answer):
    from PIL import Image

    return Image.open(io.BytesIO(answer.body))
