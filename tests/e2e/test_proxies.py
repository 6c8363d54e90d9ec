"""Reverse proxies in front of the server, as docs/deploying.md configures them: diffusers' client works through them, with bodies
and times that their defaults would not let pass."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
import trustme
from diffusers.utils.remote_utils import remote_decode
from place import CACHE, ROOT, binary, clean_environment
from requests.adapters import HTTPAdapter
from service import Service, serving

# What an hour becomes in the tests.
PATIENCE = 4.0


def executable(name: str) -> str:
    """As ./test finds it, or installs it."""
    return os.environ.get(name.upper()) or shutil.which(name) or str(CACHE / "proxies" / name)


def documented(language: str) -> str:
    """The configuration on the page."""
    page = (ROOT / "docs" / "deploying.md").read_text()
    (block,) = re.findall(rf"```{language}\n(.*?)```", page, re.S)
    return block


def replaced(text: str, changes: dict[str, str]) -> str:
    """`text` with other ports, paths and times. Each of them must be there."""
    for old, new in changes.items():
        assert old in text, f"the page does not say {old!r} any more:\n{text}"
        text = text.replace(old, new)
    return text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Certificate:
    """For localhost, signed by an authority of its own."""

    authority: Path
    chain: Path
    key: Path
    both: Path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Certificate:
    folder = tmp_path_factory.mktemp("certificate")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    made = Certificate(*(folder / name for name in ("authority.pem", "chain.pem", "key.pem", "both.pem")))
    authority.cert_pem.write_to_path(str(made.authority))
    issued.cert_chain_pems[0].write_to_path(str(made.chain))
    issued.private_key_pem.write_to_path(str(made.key))
    issued.private_key_and_cert_chain_pem.write_to_path(str(made.both))
    return made


@dataclass
class Ways:
    """Where things are in a test."""

    folder: Path
    port: int
    server: int
    certificate: Certificate


def nginx(ways: Ways, patience: str) -> list[str]:
    block = replaced(
        documented("nginx"),
        {
            "127.0.0.1:8080": f"127.0.0.1:{ways.server}",
            "listen 443 ssl": f"listen 127.0.0.1:{ways.port} ssl",
            "/etc/ssl/vae.example.org.pem": str(ways.certificate.chain),
            "/etc/ssl/vae.example.org.key": str(ways.certificate.key),
            "1h;": f"{patience};",
        },
    )
    # What is not about the server, as Debian's nginx.conf has it.
    temporary = "".join(
        f"{name}_temp_path {ways.folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = ways.folder / "nginx.conf"
    path.write_text(
        f"daemon off;\npid {ways.folder}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{block}}}\n"
    )
    return [executable("nginx"), "-p", str(ways.folder), "-c", str(path), "-e", "stderr"]


def haproxy(ways: Ways, patience: str) -> list[str]:
    text = replaced(
        documented("haproxy"),
        {
            "127.0.0.1:8080": f"127.0.0.1:{ways.server}",
            "bind :443": f"bind 127.0.0.1:{ways.port}",
            "/etc/haproxy/vae.example.org.pem": str(ways.certificate.both),
            "timeout client 1h": f"timeout client {patience}",
            "timeout server 1h": f"timeout server {patience}",
        },
    )
    path = ways.folder / "haproxy.cfg"
    path.write_text(text)
    return [executable("haproxy"), "-db", "-f", str(path)]


def caddy(ways: Ways, patience: str) -> list[str]:
    text = replaced(
        documented("caddyfile"),
        {
            "127.0.0.1:8080": f"127.0.0.1:{ways.server}",
            "vae.example.org {": f"localhost:{ways.port} {{\n    bind 127.0.0.1\n    "
            f"tls {ways.certificate.chain} {ways.certificate.key}",
            "1h": patience,
        },
    )
    path = ways.folder / "Caddyfile"
    path.write_text("{\n    admin off\n    auto_https disable_redirects\n    skip_install_trust\n}\n" + text)
    return [executable("caddy"), "run", "--adapter", "caddyfile", "--config", str(path)]


PROXIES = [nginx, haproxy, caddy]


@contextlib.contextmanager
def in_front(proxy, ways: Ways, patience: str) -> Iterator[str]:
    """Runs a proxy; gives the address of the model behind it."""
    log = ways.folder / "log"
    environment = clean_environment(XDG_DATA_HOME=str(ways.folder), XDG_CONFIG_HOME=str(ways.folder))
    with log.open("wb") as output:
        process = subprocess.Popen(
            proxy(ways, patience), cwd=ways.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
    try:
        url = f"https://localhost:{ways.port}"
        end = time.monotonic() + 30
        while True:
            assert process.poll() is None, f"{proxy.__name__} ended by itself:\n{log.read_text()}"
            with contextlib.suppress(requests.ConnectionError):
                # HAProxy asks the server first whether it is ready.
                if requests.get(f"{url}/ready", timeout=10, verify=str(ways.certificate.authority)).ok:
                    break
            assert time.monotonic() < end, f"{proxy.__name__} does not pass requests on:\n{log.read_text()}"
            time.sleep(0.05)
        yield f"{url}/demo"
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def behind(tmp_path_factory) -> Iterator[Service]:
    """A server as the page says to start it, with few requests for each client."""
    log = tmp_path_factory.mktemp("behind") / "log"
    with serving(["--model=demo=demo", "--trust-forwarded-for", "--rate-limit=20/h"], log) as service:
        yield service


@pytest.fixture(params=PROXIES, ids=lambda proxy: proxy.__name__)
def proxy(request):
    return request.param


@pytest.fixture
def ways(tmp_path, behind, certificate, monkeypatch) -> Ways:
    # What `requests` trusts, and so diffusers' client.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.authority))
    return Ways(tmp_path, free_port(), behind.port, certificate)


class From(HTTPAdapter):
    """Connects from another address of this machine."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__()

    def init_poolmanager(self, *arguments, **options) -> None:
        super().init_poolmanager(*arguments, **options, source_address=(self.address, 0))


def test_nginx_without_the_page_refuses_large_latents(ways, demo, monkeypatch):
    """Which our client explains; it is why the page says it."""
    monkeypatch.setattr(f"{__name__}.documented", lambda language, page=documented: page(language).replace("client_max_body_size 0;", ""))
    file, out = ways.folder / "latents.npy", ways.folder / "picture.png"
    np.save(file, demo.latents(1, 136, 136).float().numpy())
    environment = clean_environment(SSL_CERT_FILE=str(ways.certificate.authority))
    with in_front(nginx, ways, "1h") as url:
        command = [binary(), "decode", file, "-o", out, "--endpoint", url]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and not out.exists()
    assert "status 413: this is not the server's answer" in ran.stderr and "client_max_body_size" in ran.stderr


@pytest.fixture(scope="module")
def large(behind, demo) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of more than a mebibyte, which nginx does not take by default, and what the server makes of them."""
    latents = demo.latents(1, 136, 136).float()
    assert latents.nbytes > 1 << 20
    return latents, decoded(f"{behind.url}/demo", latents)


def decoded(url: str, latents: torch.Tensor) -> torch.Tensor:
    return remote_decode(url, latents, output_type="pt", return_type="pt", partial_postprocess=True)


def test_large_latents_pass(proxy, ways, large):
    latents, expected = large
    with in_front(proxy, ways, "1h") as url:
        picture = decoded(url, latents)
    assert picture.shape == (1, 1088, 1088, 3) and torch.equal(picture, expected)


def test_the_server_knows_who_asks(proxy, ways, demo):
    """Clients are counted by the address that the proxy saw, whatever they say themselves."""
    latents = demo.latents(1, 2, 2).numpy().tobytes()
    query = {"shape": [1, 16, 2, 2], "dtype": "float16"}

    def status(address: str, claim: str) -> int:
        session = requests.Session()
        session.mount("https://", From(address))
        headers = {"content-type": "tensor/binary", "x-forwarded-for": claim}
        return session.post(url, params=query, data=latents, headers=headers, timeout=60).status_code

    one, other = (f"127.0.{1 + PROXIES.index(proxy)}.{last}" for last in (1, 2))
    with in_front(proxy, ways, "1h") as url:
        statuses = [status(one, f"10.0.0.{number}") for number in range(21)]
        assert statuses == [200] * 20 + [429]
        assert status(other, "10.0.0.1") == 200


@contextlib.contextmanager
def asleep(service: Service, seconds: float) -> Iterator[None]:
    """Stops the server's process for a while: its answers are as slow as those of long work."""
    service.process.send_signal(signal.SIGSTOP)
    wake = threading.Timer(seconds, service.process.send_signal, [signal.SIGCONT])
    wake.start()
    try:
        yield
    finally:
        wake.join()


def test_slow_answers_pass_and_slower_ones_are_told(proxy, ways, behind, demo):
    """The time on the page is what counts: an hour there, four seconds here. What takes longer is answered by the proxy, and our
    client says so."""
    latents = demo.latents(1, 2, 2)
    file, out = ways.folder / "latents.npy", ways.folder / "picture.png"
    np.save(file, latents.numpy())
    environment = clean_environment(SSL_CERT_FILE=str(ways.certificate.authority))
    with in_front(proxy, ways, f"{PATIENCE:.0f}s") as url:
        with asleep(behind, PATIENCE / 4):
            assert remote_decode(url, latents, return_type="pil").size == (16, 16)
        command = [binary(), "decode", file, "-o", out, "--endpoint", url, "--retry-for", "1ms"]
        with asleep(behind, PATIENCE * 1.5):
            ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and not out.exists()
    assert "status 504: this is not the server's answer, but that of a proxy in front of it" in ran.stderr
    assert "raise its timeout" in ran.stderr
