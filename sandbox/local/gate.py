"""A fair limit on how many programs run at once.

Queueing outside keeps a program's clock from running while it waits for a core: with a
thousand calls in flight, wall-clock limits would otherwise measure the load and not the
program. First come, first served, over any mix of threads and event loops.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable


class Gate:
    """`places` holders at once; `acquire`/`aacquire` wait, `release` hands over."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._lock = threading.Lock()
        self._queue: deque[Callable[[], bool]] = deque()

    def _enter_or_queue(self, wake: Callable[[], bool]) -> bool:
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return True
            self._queue.append(wake)
            return False

    def release(self) -> None:
        """Give the place to the longest waiter still there, or back."""
        while True:
            with self._lock:
                if self._free < 0 or not self._queue:
                    self._free += 1
                    return
                wake = self._queue.popleft()
            if wake():
                return

    def acquire(self) -> None:
        """Wait for a place, blocking this thread.

        In a thread that runs an event loop it enters at once, over the limit if need be: the
        holders to wait for may need that loop to go on.
        """
        if asyncio._get_running_loop() is not None:
            with self._lock:
                self._free -= 1
            return
        entered = threading.Event()
        given_up = False

        def wake() -> bool:
            entered.set()
            return not given_up

        if self._enter_or_queue(wake):
            return
        try:
            entered.wait()
        except BaseException:  # Ctrl-C in the main thread
            given_up = True
            if entered.is_set():
                self.release()
            raise

    async def aacquire(self) -> None:
        """Wait for a place without blocking the loop; cancellable."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()

        def take() -> None:
            if turn.cancelled():
                self.release()  # the waiter gave up between the hand-over and now
            else:
                turn.set_result(None)

        def wake() -> bool:
            if turn.cancelled():
                return False
            try:
                loop.call_soon_threadsafe(take)
            except RuntimeError:  # that loop was closed with the waiter in it
                return False
            return True

        if self._enter_or_queue(wake):
            return
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            raise
