"""One request and its answer, with as many tries as that needs."""

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx2 as httpx

from ._endpoints import Attempts, Connecting, Endpoint
from ._errors import (
    AnswerError,
    BusyError,
    ConnectError,
    ConnectionBrokenError,
    EndpointError,
    RefusedError,
    RemoteVaeError,
    RequestTimeoutError,
)
from ._retry import Retry, retry_after

MAX_BROKEN = 4
"""How many answers in a row may break off before a request is given up: it may be what brings the server down."""
MAX_REFUSAL = 64 << 10
"""Bytes of a refusal that are read: it is one sentence."""

OnRetry = Callable[[RemoteVaeError, float], object]


@dataclass(frozen=True)
class Request:
    """What is sent, whichever endpoint gets it. It must be safe to send it twice."""

    query: str
    headers: dict[str, str]
    body: bytes
    max_answer: int
    """Bytes of an answer at most, so that no server can fill the memory of this machine."""
    path: str | None = None
    """Another path than that of the endpoint, with the method GET."""


@dataclass(frozen=True)
class Answer:
    """What a server answered with status 200."""

    headers: httpx.Headers
    body: bytes


class Exchanger:
    """Sends requests to the least busy of some servers with the same model."""

    def __init__(
        self, urls: Sequence[str], connecting: Connecting, timeout: float, retry: Retry, on_retry: OnRetry | None
    ) -> None:
        if not urls:
            raise EndpointError("there is no endpoint: name one, such as http://127.0.0.1:8080/")
        self.endpoints = [Endpoint(url, connecting) for url in urls]
        self._timeout = timeout
        self._retry = retry
        self._on_retry = on_retry

    async def exchange(self, request: Request) -> Answer:
        """Sends a request until an endpoint answers, or patience is at its end."""
        attempts = Attempts()
        while True:
            index, endpoint = await self._free(attempts)
            endpoint.in_flight += 1
            endpoint.given += 1
            begun = _now()
            try:
                answer = await self._send(endpoint, request)
            except RemoteVaeError as error:
                self._note(endpoint, error, begun)
                pause = self._pause(attempts, index, error)
                if pause is None:
                    raise
                if self._on_retry is not None:
                    self._on_retry(error, pause)
            else:
                self._note(endpoint, None, begun)
                return answer
            finally:
                endpoint.in_flight -= 1

    async def close(self) -> None:
        """Closes all connections."""
        for endpoint in self.endpoints:
            await endpoint.close()

    async def _free(self, attempts: Attempts) -> tuple[int, Endpoint]:
        """The least busy endpoint that this request may go to, once there is one."""
        while True:
            now = _now()
            for endpoint in self.endpoints:
                endpoint.client()
            starts = [attempts.start(index, endpoint, now) for index, endpoint in enumerate(self.endpoints)]
            free = [(index, self.endpoints[index]) for index, start in enumerate(starts) if start <= now]
            if free:
                return min(free, key=lambda one: (one[1].in_flight, one[1].given))
            await asyncio.sleep(min(starts) - now)

    async def _send(self, endpoint: Endpoint, request: Request) -> Answer:
        """Sends it once and reads the answer to its end."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._send_and_read(endpoint, request)
        except httpx.ConnectTimeout:
            raise ConnectError(f"cannot connect to {endpoint.public}: it does not answer in time") from None
        except (TimeoutError, httpx.TimeoutException):
            raise RequestTimeoutError(
                f"{endpoint.public} did not answer within {self._timeout:g} s: `timeout` sets how long to wait"
            ) from None
        except (httpx.ConnectError, httpx.ProxyError) as error:
            raise ConnectError(f"cannot connect to {endpoint.public}: {innermost(error)}") from None
        except httpx.HTTPError as error:
            raise ConnectionBrokenError(f"the connection to {endpoint.public} broke: {innermost(error)}") from None

    async def _send_and_read(self, endpoint: Endpoint, request: Request) -> Answer:
        client = endpoint.client()
        if request.path is None:
            method, url = "POST", endpoint.with_query(request.query)
        else:
            method, url = "GET", endpoint.at(request.path)
        async with client.stream(method, url, headers=request.headers, content=request.body) as response:
            if response.status_code == 200:
                body, is_whole = await _read(response, request.max_answer)
                if not is_whole:
                    raise AnswerError(
                        f"the server's answer has more than {request.max_answer >> 20} MiB, which is more than "
                        "what was requested can have"
                    )
                return Answer(response.headers, body)
            body, _ = await _read(response, MAX_REFUSAL)
        headers = response.headers
        if response.is_redirect:
            message = f"the endpoint has moved to {headers.get('location')}; use that address"
        else:
            message = proxy_reason(response.status_code, headers.get("content-type", ""), body) or sentence(body)
        kind = BusyError if response.status_code in (429, 503) else RefusedError
        pause = retry_after(headers.get("retry-after"), headers.get("date"))
        raise kind(response.status_code, message, pause, headers.get("x-request-id"))

    def _note(self, endpoint: Endpoint, error: RemoteVaeError | None, begun: float) -> None:
        """Keeps what a try says of an endpoint, for the requests that come after."""
        if not _is_outage(error):
            endpoint.reached, endpoint.failures, endpoint.out_until = True, 0, 0.0
        elif endpoint.out_until == 0.0 or begun > endpoint.out_since:
            # Requests that were under way when it failed say nothing new of it.
            endpoint.reached |= isinstance(error, ConnectionBrokenError)
            endpoint.failures += 1
            endpoint.out_since = _now()
            endpoint.out_until = endpoint.out_since + self._retry.pause(endpoint.failures)

    def _pause(self, attempts: Attempts, index: int, error: RemoteVaeError) -> float | None:
        """The seconds to wait after a failure; None to give up."""
        now = _now()
        is_busy = isinstance(error, BusyError)
        if is_busy:
            patience = self._retry.busy_patience
        elif not _is_outage(error) or (isinstance(error, RequestTimeoutError) and len(self.endpoints) == 1):
            return None
        elif any(endpoint.reached for endpoint in self.endpoints):
            patience = self._retry.patience
        else:
            patience = self._retry.first_contact
        attempts.tries += 1
        if isinstance(error, (ConnectionBrokenError, RequestTimeoutError)):
            attempts.broken += 1
            if attempts.broken > MAX_BROKEN:
                return None
        if isinstance(error, BusyError):
            # A server that says "at once" is not asked without end.
            requested = error.retry_after
            pause = self._retry.pause(attempts.tries if requested is None else 1)
            attempts.not_before[index] = now + max(pause, 0.0 if requested is None else self._retry.requested(requested))
        if attempts.since is None or attempts.since[0] != is_busy:
            attempts.since = (is_busy, now)
        again = min(attempts.start(at, endpoint, now) for at, endpoint in enumerate(self.endpoints))
        return again - now if patience > 0 and again <= attempts.since[1] + patience else None


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_outage(error: RemoteVaeError | None) -> bool:
    """Whether it says that the endpoint cannot be reached, or does not answer."""
    if isinstance(error, RefusedError):
        return error.status in (502, 504)
    return isinstance(error, (ConnectError, ConnectionBrokenError, RequestTimeoutError))


async def _read(response: httpx.Response, limit: int) -> tuple[bytes, bool]:
    """At most `limit` bytes of an answer, and whether that is all of it."""
    announced = response.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit and response.status_code == 200:
        return b"", False
    parts: list[bytes] = []
    length = 0
    async for part in response.aiter_bytes():
        length += len(part)
        if length > limit:
            return b"".join(parts), False
        parts.append(part)
    return b"".join(parts), True


def innermost(error: BaseException) -> str:
    """The first cause of an error: the outer ones only say that there was one."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "nothing listens there; is a server running?"
    return next((str(cause) for cause in reversed(causes) if str(cause)), type(error).__name__)


def sentence(body: bytes) -> str:
    """What a server said in a refusal: the `error` of a JSON object, else the beginning of the text."""
    try:
        said = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        said = body.decode(errors="replace").strip()[:200]
    return str(said) or "the server gave no reason"


def proxy_reason(status: int, content_type: str, body: bytes) -> str | None:
    """What an answer means that is not the server's but that of a proxy in front of it; None when it is the server's."""
    text = body.decode(errors="replace").strip()
    is_page = content_type.startswith("text/html") or text.startswith("<")
    if not is_page and (text or status not in (408, 413, 502, 503, 504)):
        return None
    found = re.search(r"<(title|h1)>(.+?)</\1>", text, re.I | re.S)
    title = "".join(c for c in " ".join(found[2].split()) if c.isprintable())[:60] if found else ""
    what = {
        408: "which gave up waiting: raise its timeout (nginx: proxy_read_timeout)",
        413: "which takes no body as large as this one: raise its limit (nginx: client_max_body_size)",
        502: "which does not reach the server: is it running?",
        503: "which does not reach the server: is it running?",
        504: "which gave up waiting: raise its timeout (nginx: proxy_read_timeout)",
    }.get(status, "which is configured for other things: look at its log")
    return f"this is not the server's answer, but that of a proxy in front of it{title and f' ({title})'}, {what}"
