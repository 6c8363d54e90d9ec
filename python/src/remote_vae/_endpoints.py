"""The addresses of servers, what is known of each, and which of them gets a request."""

import asyncio
import ipaddress
import ssl
from dataclasses import dataclass, field

import httpx2 as httpx

from ._errors import EndpointError
from ._version import __version__


@dataclass(frozen=True)
class Connecting:
    """How to reach servers."""

    api_key: str | None
    connect_timeout: float
    verify: ssl.SSLContext | bool


class Endpoint:
    """One server. What changes is used on one event loop at a time."""

    def __init__(self, url: str, connecting: Connecting) -> None:
        self.public = without_secrets(url)
        """The URL without user, password and query: fit for a log."""
        try:
            self.url = httpx.URL(url)
        except (httpx.InvalidURL, TypeError) as error:
            raise EndpointError(f"the endpoint {self.public!r} cannot be used: {error}") from None
        if self.url.scheme not in ("http", "https") or not self.url.host:
            raise EndpointError(
                f"the endpoint {self.public!r} cannot be used: an endpoint is a URL such as http://127.0.0.1:8080/"
            )
        self._connecting = connecting
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.in_flight = 0
        """Requests under way."""
        self.given = 0
        """Requests so far: decides between endpoints that are equally busy."""
        self.reached = False
        """Whether it has ever answered."""
        self.failures = 0
        """How many times in a row it could not be reached."""
        self.out_since = self.out_until = 0.0
        """The time during which it gets no requests, by the loop's clock."""

    def client(self) -> httpx.AsyncClient:
        """The connections to it that are kept. They belong to an event loop; on another one they are made anew."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client, self._loop = self._connected(), loop
            self.in_flight, self.out_since, self.out_until = 0, 0.0, 0.0
        return self._client

    def _connected(self) -> httpx.AsyncClient:
        headers = {"user-agent": f"remote-vae-python/{__version__}", "accept-encoding": "identity"}
        key = self._connecting.api_key
        if key is not None and not self.url.userinfo:
            headers["authorization"] = f"Bearer {key}"
        return httpx.AsyncClient(
            headers=headers,
            # The time of a whole request is limited where it is sent.
            timeout=httpx.Timeout(None, connect=self._connecting.connect_timeout),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30.0),
            # Certificates take a while to load, and plain HTTP has no use for them.
            verify=self._connecting.verify if self.url.scheme == "https" else False,
            # Most redirects turn a POST into a GET without a body. The error names the new address instead.
            follow_redirects=False,
            # HTTP_PROXY is never meant for this machine.
            trust_env=not is_loopback(self.url.host),
        )

    async def close(self) -> None:
        """Closes the connections."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    def with_query(self, query: str) -> httpx.URL:
        """The URL with more parameters; those that it has stay."""
        own = self.url.query.decode()
        return self.url.copy_with(query="&".join(part for part in (own, query) if part).encode())

    def at(self, path: str) -> httpx.URL:
        """Another path on the same server, with the same user and parameters."""
        return self.url.copy_with(path=path)

    @property
    def model(self) -> str | None:
        """The name of the model in the path; None for the first model of the server."""
        parts = [part for part in self.url.path.split("/") if part]
        if parts and parts[-1] == "predict":
            parts.pop()
        return parts[0] if len(parts) == 1 else None


@dataclass
class Attempts:
    """What has happened to one request so far."""

    not_before: dict[int, float] = field(default_factory=dict)
    """When it may go again to each endpoint that refused it, by the endpoint's index."""
    since: tuple[bool, float] | None = None
    """Since when the endpoints are busy (True) or cannot be reached (False)."""
    tries: int = 0
    broken: int = 0

    def start(self, index: int, endpoint: Endpoint, now: float) -> float:
        """When it may go to this endpoint."""
        return max(now, self.not_before.get(index, now), endpoint.out_until)


def without_secrets(url: str) -> str:
    """A URL, or what was meant as one, without the parts that may hold keys."""
    text = url.partition("?")[0].partition("#")[0]
    scheme, separator, rest = text.rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def is_loopback(host: str) -> bool:
    """Whether it is this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
