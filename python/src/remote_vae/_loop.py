"""An event loop in a thread of its own, on which the clients for code that is not asynchronous work."""

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_running: tuple[int, asyncio.AbstractEventLoop] | None = None


def loop() -> asyncio.AbstractEventLoop:
    """The one of this process. A process that was forked has no threads of its parent, so it gets its own."""
    global _running
    with _lock:
        if _running is None or _running[0] != os.getpid():
            new = asyncio.new_event_loop()
            threading.Thread(target=new.run_forever, name="remote-vae", daemon=True).start()
            _running = (os.getpid(), new)
        return _running[1]


def start(coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Starts it; to cancel the future cancels it."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop())


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Waits for its result. An interruption (Ctrl-C) cancels it."""
    future = start(coroutine)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
