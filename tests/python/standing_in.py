"""A server that answers as it is told."""

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Received:
    """A request that a stand-in got."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class StandIn:
    """A server that answers as it is told, one answer after the other; the last one again and again."""

    answers: list[tuple[int, dict[str, str], bytes]]
    url: str = ""
    received: list[Received] = field(default_factory=list)
    # Called before each answer.
    wait: Callable[[], object] = lambda: None


PIXEL = (200, {"shape": "[1, 1]", "dtype": "float16"}, b"\x00\x3c")


def refusal(status: int, message: str = "no", **headers: str) -> tuple[int, dict[str, str], bytes]:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, headers, json.dumps({"error": message}).encode()


@contextlib.contextmanager
def standing_in(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[StandIn]:
    """A server that gives these answers."""
    this = StandIn(list(answers))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            this.received.append(Received(self.command, self.path, headers, body))
            status, headers, body = this.answers.pop(0) if len(this.answers) > 1 else this.answers[0]
            this.wait()
            if status == 0:  # breaks the connection
                self.close_connection = True
                return
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        do_GET = do_POST = respond

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    this.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield this
    finally:
        server.shutdown()
