"""Clients that no server wants, but every server has: slow ones, and those that hang up."""

import asyncio
import contextlib
import json
import random
import re
import socket

import bad
from traffic import error_of

# The server's patience with slow clients, and how much longer than that they try it.
TIMEOUTS = ("--header-timeout=4s", "--body-timeout=4s", "--write-timeout=4s")
OVER_BY = 30
# Nothing that is worked on may take longer, however bad the others are: the queue's 16 places and what runs, with much room for
# a machine that does other things too.
LONGEST = 120


class Strangers:
    """They call at this port of this machine, with these keys by name."""

    def __init__(self, port: int, keys: dict[str, str]) -> None:
        self.port, self.keys = port, keys

    def acts(self) -> list:
        """What they do, over and over. Each says what was wrong with the server's answer, if anything."""
        return [
            self.a_head_that_trickles,
            self.a_body_that_trickles,
            self.a_connection_that_says_nothing,
            self.an_answer_that_nobody_reads,
            self.an_answer_that_is_read_slowly,
            self.one_in_a_hurry,
            self.one_that_breaks_off_its_body,
            self.one_that_leaves,
            self.a_crowd_that_leaves,
            self.bodies_that_are_held_and_given_up,
            self.heads_of_many_without_a_key,
            self.one_that_leaves_a_byte_behind_its_request,
            self.one_that_only_sends_no_more,
            self.one_whose_time_is_over_in_its_body,
        ]

    @contextlib.asynccontextmanager
    async def connection(self):
        """A socket, and a task that reads from it until the other side ends or resets the connection. It keeps what came before
        a reset, which asyncio's streams do not: a server that refuses early may close before it has read everything."""
        loop = asyncio.get_running_loop()

        async def read() -> bytes:
            answer = b""
            with contextlib.suppress(ConnectionError):
                while part := await loop.sock_recv(plain, 1 << 16):
                    answer += part
            return answer

        with socket.socket() as plain:
            plain.setblocking(False)
            await loop.sock_connect(plain, ("127.0.0.1", self.port))
            reading = asyncio.create_task(read())
            try:
                yield plain, reading
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Sends bytes and reads until the server closes; status 0 when it says nothing."""
        try:
            async with asyncio.timeout(LONGEST), self.connection() as (plain, reading):
                with contextlib.suppress(ConnectionError):
                    await asyncio.get_running_loop().sock_sendall(plain, request)
                answer = await reading
        except TimeoutError:
            return -1, {}, b"the server neither answered nor closed the connection"
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        match = re.match(r"HTTP/1\.1 (\d{3})", first)
        return int(match[1]) if match else 0, {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}, body

    def request(self, side: int, key: str = "slow", query: dict | None = None, **headers: str) -> bytes:
        """A decode to a square of this side that is in order."""
        shape = [1, 16, side // 8, side // 8]
        body = bytes(2 * 16 * (side // 8) ** 2)
        text = f"shape={json.dumps(shape, separators=(',', ':'))}&dtype=float16"
        text += "".join(f"&{name}={value}" for name, value in (query or {}).items())
        head = {"Authorization": f"Bearer {self.keys[key]}", "Content-Type": "tensor/binary"} | headers
        return bad.http("POST", f"/?{text}", head, body)

    async def trickle(self, head: bytes, rest: bytes) -> tuple[int, bytes]:
        """Sends the head at once and then a byte every tenth of a second, until the server has enough."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(OVER_BY), self.connection() as (plain, reading):
            with contextlib.suppress(ConnectionError):
                await loop.sock_sendall(plain, head)
                for byte in rest:
                    if reading.done():
                        break
                    await loop.sock_sendall(plain, bytes([byte]))
                    await asyncio.sleep(0.1)
            answer = await reading
        return int(answer[9:12] or 0), answer.partition(b"\r\n\r\n")[2]

    async def a_head_that_trickles(self, chance: random.Random) -> str | None:
        status, _ = await self.trickle(b"GET /health HTTP/1.1\r\n", b"X: " + b"y" * 400)
        return None if status in (0, 408) else f"status {status}"

    async def a_body_that_trickles(self, chance: random.Random) -> str | None:
        request = self.request(256)
        cut = request.index(b"\r\n\r\n") + 4
        status, body = await self.trickle(request[: cut + 7], request[cut + 7 :][:400])
        return error_of(body) if status in (408, 429) else f"status {status}"

    async def a_connection_that_says_nothing(self, chance: random.Random) -> str | None:
        status, _ = await self.trickle(b"", b"")
        return None if status in (0, 408) else f"status {status}"

    async def an_answer_that_nobody_reads(self, chance: random.Random) -> str | None:
        """12 MiB, which no socket keeps for the server."""
        request = self.request(1024, query={"output_type": "pt", "out_dtype": "float32"}, Accept="tensor/binary")
        with socket.socket() as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(plain, ("127.0.0.1", self.port))
            await loop.sock_sendall(plain, request)
            size = len(await asyncio.wait_for(loop.sock_recv(plain, 1), LONGEST))
            await asyncio.sleep(OVER_BY / 3)
            with contextlib.suppress(ConnectionError):
                while part := await asyncio.wait_for(loop.sock_recv(plain, 1 << 16), OVER_BY):
                    size += len(part)
            return None if size < 12 << 20 else "the server waited for it"

    async def an_answer_that_is_read_slowly(self, chance: random.Random) -> str | None:
        """Slowly, but steadily: it must come whole."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 12)
        try:
            writer.write(self.request(512, query={"output_type": "pt", "partial_postprocess": "True"}, Accept="tensor/binary"))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LONGEST)
            size = 0
            while part := await reader.read(1 << 14):
                size += len(part)
                await asyncio.sleep(0.05)
        finally:
            writer.close()
        if int(head[9:12]) == 429:
            return None
        return None if (int(head[9:12]), size) == (200, 3 * 512 * 512) else f"{head[:15]!r} and {size} bytes"

    async def one_in_a_hurry(self, chance: random.Random) -> str | None:
        """Its deadline is over before the work, or in the middle of it."""
        hurry = {"x-request-timeout": f"{chance.uniform(0.001, 0.3):.3f}"}
        status, _, body = await self.ask(self.request(1024, **hurry))
        return None if status == 200 else error_of(body) if status in (429, 503) else f"status {status} {body[:200]!r}"

    async def one_that_breaks_off_its_body(self, chance: random.Random) -> str | None:
        request = self.request(512)
        await self.leave(request[: chance.randrange(1, len(request))], 0.05)

    async def one_that_leaves(self, chance: random.Random) -> str | None:
        await self.leave(self.request(chance.choice((64, 512, 1024))), chance.uniform(0, 1))

    async def a_crowd_that_leaves(self, chance: random.Random) -> str | None:
        await asyncio.gather(*(self.leave(self.request(256, key="crowd"), chance.uniform(0, 0.5)) for _ in range(24)))
        await asyncio.sleep(5)

    async def bodies_that_are_held_and_given_up(self, chance: random.Random) -> str | None:
        """As much as may be held together, nearly whole, for nearly as long as the server waits."""
        length = 7 << 20
        kind = chance.choice(("image/png", "application/json"))
        head = bad.http("POST", "/", {"Authorization": f"Bearer {self.keys['slow']}", "Content-Type": kind}, length=length)
        await asyncio.gather(*(self.leave(head + bytes(length - 1), chance.uniform(1, 3)) for _ in range(5)))

    async def heads_of_many_without_a_key(self, chance: random.Random) -> str | None:
        head = b"GET /health HTTP/1.1\r\nX-Long: " + b"x" * chance.randrange(1 << 10, 100 << 10)
        await asyncio.gather(*(self.leave(head, chance.uniform(0.5, 2)) for _ in range(30)))

    async def one_that_leaves_a_byte_behind_its_request(self, chance: random.Random) -> str | None:
        """Several, so that they would fill the queue; each closes its connection as programs do that end."""

        async def one() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            with contextlib.suppress(ConnectionError):
                writer.write(self.request(512, key="crowd", Connection="keep-alive") + b"x")
                await writer.drain()
                await asyncio.sleep(chance.uniform(0, 1))
            writer.close()

        await asyncio.gather(*(one() for _ in range(8)))
        await asyncio.sleep(3)

    async def one_that_only_sends_no_more(self, chance: random.Random) -> str | None:
        """Its answer must come whole, whatever the server says before it."""
        request = self.request(256, query={"output_type": "pt", "partial_postprocess": "True"}, Accept="tensor/binary")
        async with asyncio.timeout(LONGEST), self.connection() as (plain, reading):
            await asyncio.get_running_loop().sock_sendall(plain, request)
            plain.shutdown(socket.SHUT_WR)
            answer = (await reading).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        if head[9:12] == b"429":
            return error_of(body)
        return None if (head[9:12], len(body)) == (b"200", 3 * 256 * 256) else f"{head[:15]!r} and {len(body)} bytes"

    async def one_whose_time_is_over_in_its_body(self, chance: random.Random) -> str | None:
        """It is told at that time, and not only when the body's is over."""
        request = self.request(256, **{"x-request-timeout": "1"})
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with socket.socket() as plain:
            plain.setblocking(False)
            await loop.sock_connect(plain, ("127.0.0.1", self.port))
            await loop.sock_sendall(plain, request[:-1])
            first = await asyncio.wait_for(loop.sock_recv(plain, 1 << 12), OVER_BY)
        took = loop.time() - begun
        if first[9:12] not in (b"429", b"503"):
            return f"{first[:15]!r}"
        # The rest of the second is for a busy machine.
        return None if took < 6 else f"told after {took:.1f} s"

    async def leave(self, request: bytes, after: float) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        with contextlib.suppress(ConnectionError):
            writer.write(request)
            await writer.drain()
            await asyncio.sleep(after)
        writer.transport.abort()
