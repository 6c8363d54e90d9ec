"""Decoding and encoding while the caller goes on."""

import asyncio
import concurrent.futures
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack

from . import _loop
from ._calls import Call, Decoded, DecodeOptions, Encodable, EncodeOptions, decode_call, encode_call
from ._client import RemoteVae
from ._errors import ClosedError, RemoteVaeError
from ._exchange import Answer
from ._tensors import Tensor

Tag = TypeVar("Tag")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Finished(Generic[Tag, Result]):
    """One item that a queue is done with: a result or an error."""

    tag: Tag
    """What was submitted beside the item."""
    value: Result | None
    error: RemoteVaeError | None

    def result(self) -> Result:
        """What `RemoteVae.decode` or `RemoteVae.encode` would have returned.

        Raises:
            RemoteVaeError: why there is none.
        """
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value


@dataclass(frozen=True)
class Counters:
    """How far a queue is. `submitted` is the sum of the others."""

    submitted: int = 0
    waiting: int = 0
    in_flight: int = 0
    succeeded: int = 0
    failed: int = 0


class Queue(Generic[Result]):
    """What `DecodeQueue` and `EncodeQueue` have in common.

    The simplest use has no thread of its own: `map` takes the next items while the last ones are worked on. Otherwise one
    thread calls `submit`, and another one iterates over the queue; `close` ends the iteration once all results are out.
    The queue is bounded: with `capacity` items that wait, are under way, or are done and were not yet read, `submit` waits.
    One failure is that item's failure and loses no other one.

    Leaving the `with` block waits for what is under way; leaving it by an exception cancels that.
    """

    def __init__(self, vae: RemoteVae | str | Sequence[str], in_flight: int, capacity: int) -> None:
        if in_flight < 1 or capacity < 1:
            raise ValueError("`in_flight` and `capacity` must be at least 1")
        self._owned = None if isinstance(vae, RemoteVae) else RemoteVae(vae)
        self._vae = vae if isinstance(vae, RemoteVae) else self._owned
        self._capacity = capacity
        self._turns = asyncio.Semaphore(in_flight)
        # Guards all that follows.
        self._changed = threading.Condition()
        self._pending: deque[tuple[Any, Call, concurrent.futures.Future[Answer]]] = deque()
        # In the order of submission.
        self._unfinished: dict[concurrent.futures.Future[Answer], None] = {}
        self._held = 0
        self._closed = False
        self._counts = {"submitted": 0, "in_flight": 0, "succeeded": 0, "failed": 0}

    def _submit(self, call: Call, tag: Any) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._held < self._capacity)
            if self._closed:
                raise ClosedError("the queue is closed: nothing more can be submitted")
            future = _loop.start(self._work(call))
            self._held += 1
            self._counts["submitted"] += 1
            self._pending.append((tag, call, future))
            self._unfinished[future] = None
            self._changed.notify_all()
        future.add_done_callback(self._done)

    def _map(self, calls: Iterable[Call]) -> Iterator[Finished[int, Result]]:
        for number, call in enumerate(calls):
            while self._pending and (self._held == self._capacity or self._pending[0][2].done()):
                yield next(self)
            self._submit(call, number)
        while self._pending:
            yield next(self)

    def close(self) -> None:
        """Says that no more will come: an iteration ends when all results are out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Closes the queue and drops what waits, is under way, or was not yet read. An iteration in another thread ends."""
        self.close()
        with self._changed:
            # Those that wait first, as each that is under way lets the next one go.
            dropped = [*reversed(self._unfinished)]
            self._held -= len(self._pending)
            self._pending.clear()
        for future in dropped:
            future.cancel()

    @property
    def counters(self) -> Counters:
        """How far it is."""
        with self._changed:
            counts = dict(self._counts)
        waiting = counts["submitted"] - counts["in_flight"] - counts["succeeded"] - counts["failed"]
        return Counters(waiting=waiting, **counts)

    def __iter__(self) -> Iterator[Finished[Any, Result]]:
        return self

    def __next__(self) -> Finished[Any, Result]:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closed)
            if not self._pending:
                raise StopIteration
            tag, call, future = self._pending.popleft()
        try:
            return Finished(tag, call.finish(future.result()), None)
        except RemoteVaeError as error:
            return Finished(tag, None, error)
        except concurrent.futures.CancelledError:
            raise StopIteration from None
        except BaseException:
            # Ctrl-C, or a warning that the caller made an error.
            future.cancel()
            raise
        finally:
            with self._changed:
                self._held -= 1
                self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self.cancel()
        self.close()
        with self._changed:
            self._changed.wait_for(lambda: not self._unfinished)
        if self._owned is not None:
            self._owned.close()

    async def _work(self, call: Call) -> Answer:
        assert self._vae is not None
        async with self._turns:
            with self._changed:
                self._counts["in_flight"] += 1
            try:
                return await self._vae._exchanger.exchange(call.request)
            finally:
                with self._changed:
                    self._counts["in_flight"] -= 1

    def _done(self, future: concurrent.futures.Future[Answer]) -> None:
        failed = future.cancelled() or future.exception() is not None
        with self._changed:
            self._unfinished.pop(future, None)
            self._changed.notify_all()
            self._counts["failed" if failed else "succeeded"] += 1


class DecodeQueue(Queue[Decoded]):
    """Decodes latents in the background, several at a time, and gives the results in the order of submission.

    The simplest use has no thread of its own: while the next latents are made, the last ones are decoded.

        with DecodeQueue("http://127.0.0.1:8080/") as queue:
            for finished in queue.map(generate(prompt) for prompt in prompts):
                finished.result().save(...)

    Otherwise one thread calls `submit`, and another one iterates over the queue; `close` ends the iteration once all
    results are out. The queue is bounded: with `capacity` items that wait, are under way, or are done and were not yet
    read, `submit` waits. One failure is that item's failure and loses no other one.

    Leaving the `with` block waits for what is under way; leaving it by an exception cancels that.
    """

    def __init__(
        self, vae: RemoteVae | str | Sequence[str], *, in_flight: int = 4, capacity: int = 16, **options: Unpack[DecodeOptions]
    ) -> None:
        """Nothing is sent yet.

        Args:
            vae: a client, or the URL (several URLs) of one with the default settings.
            in_flight: how many requests are under way at a time, at least 1. Two keep a server busy while an answer travels.
            capacity: how many items the queue holds, at least 1.
            options: for every item; see `DecodeOptions`.
        """
        super().__init__(vae, in_flight, capacity)
        self._options = options

    def submit(self, latents: Tensor, *, tag: Any = None, **options: Unpack[DecodeOptions]) -> None:
        """Takes a copy of latents as `RemoteVae.decode` takes them, and decodes it in the background. It waits while the
        queue is full, so another thread has to read results then.

        Args:
            latents: as for `RemoteVae.decode`. They may be overwritten afterwards.
            tag: comes back with the result.
            options: for this item, beside those of the queue.

        Raises:
            InputError: latents or options that cannot be sent.
            ClosedError: the queue is closed.
        """
        self._submit(decode_call(latents, {**self._options, **options}), tag)

    def map(self, latents: Iterable[Tensor], **options: Unpack[DecodeOptions]) -> Iterator[Finished[int, Decoded]]:
        """Submits all of these and gives the results in their order; the tag is the number from 0. It takes the next
        latents while earlier ones are decoded, and never holds more than `capacity`. It needs no other thread, and must be
        the only user of the queue meanwhile.

        Raises:
            InputError: as `submit`.
        """
        return self._map(decode_call(one, {**self._options, **options}) for one in latents)


class EncodeQueue(Queue[Tensor]):
    """Encodes pictures in the background, several at a time, and gives the latents in the order of submission. It is used
    as `DecodeQueue` is.

        with EncodeQueue("http://127.0.0.1:8080/", do_scaling=True, seed=0) as queue:
            for finished in queue.map(Path("pictures").glob("*.png")):
                numpy.save(f"{finished.tag}.npy", finished.result())
    """

    def __init__(
        self, vae: RemoteVae | str | Sequence[str], *, in_flight: int = 4, capacity: int = 16, **options: Unpack[EncodeOptions]
    ) -> None:
        """Nothing is sent yet. The arguments are those of `DecodeQueue`, with `EncodeOptions`."""
        super().__init__(vae, in_flight, capacity)
        self._options = options

    def submit(self, image: Encodable, *, tag: Any = None, **options: Unpack[EncodeOptions]) -> None:
        """Takes a copy of a picture as `RemoteVae.encode` takes it, of a file by its path too, and encodes it in the
        background. It waits while the queue is full, so another thread has to read results then.

        Args:
            image: as for `RemoteVae.encode`. It may be overwritten afterwards.
            tag: comes back with the result.
            options: for this item, beside those of the queue.

        Raises:
            InputError: a picture or options that cannot be sent.
            OSError: a file that cannot be read.
            ClosedError: the queue is closed.
        """
        self._submit(encode_call(image, {**self._options, **options}), tag)

    def map(self, images: Iterable[Encodable], **options: Unpack[EncodeOptions]) -> Iterator[Finished[int, Tensor]]:
        """As `DecodeQueue.map`: submits all of these and gives the latents in their order.

        Raises:
            InputError, OSError: as `submit`.
        """
        return self._map(encode_call(one, {**self._options, **options}) for one in images)
