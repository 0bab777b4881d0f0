"""The event loop behind connections that outlive a step.

A connection belongs to the loop that opened it, and episodes are stepped from many; so those of
a process live in one loop of their own, in a thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def submit(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Start a coroutine in the background loop."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop())


def loop() -> asyncio.AbstractEventLoop:
    """The background loop of this process; one that was forked has its own."""
    return _loop(os.getpid())


@cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    made = asyncio.new_event_loop()
    threading.Thread(target=made.run_forever, name="palestra-interop", daemon=True).start()
    return made
