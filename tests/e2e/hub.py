"""A stand-in for the Hugging Face hub: its routes, its headers, and the ways in which it fails.

It speaks what `huggingface_hub` and `remote-vae` ask of the real one: the description of a repository, `resolve` URLs that
answer with the headers `X-Repo-Commit`, `ETag`, `X-Linked-Etag` and `X-Linked-Size`, a redirection to another host for
large files, and ranges. Python's own client works with it, which is what makes it a stand-in.
"""

import contextlib
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

# From this size on, files are large ones: named by their SHA-256 and kept on another host.
LARGE = 10_000


@dataclass
class Request:
    method: str
    path: str
    authorization: str | None
    range: str | None


@dataclass
class Hub:
    """`repos` maps an id to its files. What a test sets here decides how the hub behaves."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    # Old names of repositories -> new ones.
    renamed: dict[str, str] = field(default_factory=dict)
    # Repositories that want this token.
    private: dict[str, str] = field(default_factory=dict)
    # Repositories whose conditions nobody has accepted.
    gated: set[str] = field(default_factory=set)
    # How many bytes of a large file each connection gives before it is cut; once the list is empty, all.
    cuts: list[int] = field(default_factory=list)
    # How many of the next answers are 503.
    unwell: int = 0
    ranges: bool = True
    # After how many bytes a large file comes to a halt until `go_on` is set.
    halt: int | None = None
    go_on: threading.Event = field(default_factory=threading.Event)
    # Flips a bit of large files on their way, this many times.
    damage: int = 0
    # As a mirror does: HEAD for files is sent on to this hub.
    sends_heads_to: str | None = None
    # How tags are written; "" leaves them out.
    etag_form: str = '"{}"'
    # Whether a part says which one it is.
    content_range: bool = True
    url: str = ""
    storage_url: str = ""

    def commit(self, repo: str) -> str:
        content = json.dumps({name: hashlib.sha1(data).hexdigest() for name, data in self.repos[repo].items()})
        return hashlib.sha1(content.encode()).hexdigest()

    def add(self, repo: str, folder: Path, prefix: str = "") -> None:
        files = {prefix + path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.repos.setdefault(repo, {}).update(files)

    def asked(self, method: str, part: str = "") -> list[Request]:
        return [request for request in self.requests if request.method == method and part in request.path]


def etag(data: bytes) -> str:
    if len(data) >= LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def refuse(self, status: int, code: str = "", **headers: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        authorization = self.headers.get("Authorization")
        hub.requests.append(Request(self.command, path, authorization, self.headers.get("Range")))
        if hub.unwell > 0:
            hub.unwell -= 1
            return self.refuse(503)
        if path.startswith("/storage/"):
            return self.send_large(path)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and "revision" in parts:
            repo, revision, file = "/".join(parts[2:4]), "/".join(parts[5:]), None
        elif len(parts) > 4 and parts[2] == "resolve":
            repo, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        else:
            return self.refuse(404)
        if repo in hub.renamed:
            return self.refuse(307, Location=self.path.replace(repo, hub.renamed[repo]))
        if repo in hub.gated:
            return self.refuse(401, "GatedRepo")
        wanted = hub.private.get(repo)
        if repo not in hub.repos or (wanted and authorization != f"Bearer {wanted}"):
            return self.refuse(404 if authorization else 401, "RepoNotFound")
        if revision not in ("main", hub.commit(repo)):
            return self.refuse(404, "RevisionNotFound")
        if file is None:
            siblings = [{"rfilename": name} for name in hub.repos[repo]]
            body = json.dumps({"id": repo, "sha": hub.commit(repo), "siblings": siblings}).encode()
            return self.send(body, {"Content-Type": "application/json"})
        if file not in hub.repos[repo]:
            return self.refuse(404, "EntryNotFound", **{"X-Repo-Commit": hub.commit(repo)})
        if hub.sends_heads_to and self.command == "HEAD":
            return self.refuse(308, Location=hub.sends_heads_to + self.path)
        data = hub.repos[repo][file]
        headers = {"X-Repo-Commit": hub.commit(repo)}
        tag = hub.etag_form.format(etag(data))
        if len(data) < LARGE or not tag:
            return self.send(data, headers | ({"ETag": tag} if tag else {}))
        linked = {
            "X-Linked-Etag": tag,
            "X-Linked-Size": str(len(data)),
            "ETag": '"of-the-redirection"',
            "Location": f"{hub.storage_url}/storage/{repo}/{file}?signature=secret",
        }
        return self.refuse(302, **headers | linked)

    def send(self, body: bytes, headers: dict[str, str], status: int = 200, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            if cut is None and self.hub.halt is not None and len(body) > self.hub.halt:
                self.wfile.write(body[: self.hub.halt])
                self.hub.go_on.wait()
                self.close_connection = True
                return
            self.wfile.write(body[:cut])
        if cut is not None and cut < len(body):
            self.wfile.flush()
            self.close_connection = True

    def send_large(self, path: str) -> None:
        hub = self.hub
        _, _, owner, name, file = path.split("/", 4)
        data = hub.repos[f"{owner}/{name}"][file]
        if hub.damage > 0:
            hub.damage -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        cut = hub.cuts.pop(0) if hub.cuts else None
        wanted = self.headers.get("Range")
        if not (wanted and hub.ranges):
            return self.send(data, {"ETag": '"of-the-storage"'}, cut=cut)
        first, last = wanted.removeprefix("bytes=").split("-")
        start, end = int(first), int(last or len(data) - 1)
        if start >= len(data):
            return self.refuse(416)
        headers = {"Content-Range": f"bytes {start}-{end}/{len(data)}"} if hub.content_range else {}
        return self.send(data[start : end + 1], headers, 206, cut)


@contextlib.contextmanager
def standing_in():
    """A running hub, whose storage is another host as far as HTTP knows: another port."""
    hub = Hub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url, hub.storage_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        hub.go_on.set()
        for server in servers:
            server.shutdown()
            server.server_close()
