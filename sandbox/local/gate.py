"""A fair limit on how many programs run at once.

Queueing outside keeps a program's clock from running while it waits for a core: with a
thousand calls in flight, wall-clock limits would otherwise measure the load and not the
program. Over any mix of threads and event loops; clients that wait take turns, and within
one client it is first come, first served.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable

from ..types import SandboxError


class QueueFull(SandboxError):
    """A client has as many callers waiting as it may have."""


class _Waiter:
    """One caller in the queue. `wake` says whether it can still be reached."""

    __slots__ = ("client", "holds", "refusal", "wake")

    def __init__(self, client: str, wake: Callable[[], bool]) -> None:
        self.client = client
        self.wake = wake
        self.holds = False
        self.refusal = ""


class Gate:
    """`places` holders at once; `acquire`/`aacquire` wait, `release` hands over.

    With `max_waiting` a client that has this many callers waiting is refused (QueueFull).
    """

    def __init__(self, places: int, *, max_waiting: int | None = None) -> None:
        self._free = places
        self._places = places
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        # Clients with callers in the queue, the one whose turn is next first.
        self._queues: OrderedDict[str, OrderedDict[_Waiter, None]] = OrderedDict()
        self._waiting = 0
        self._closed = ""

    @property
    def held(self) -> int:
        """Places taken."""
        return self._places - self._free

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return self._waiting

    def _enter_or_queue(self, client: str, wake: Callable[[], bool]) -> _Waiter | None:
        """None for a place, else where the caller stands in the queue."""
        with self._lock:
            if self._closed:
                raise SandboxError(self._closed)
            if self._free > 0:
                self._free -= 1
                return None
            queued = len(self._queues.get(client, ()))
            if self._max_waiting is not None and queued >= self._max_waiting:
                raise QueueFull(
                    f"client {client!r} has {queued} runs waiting, of at most "
                    f"{self._max_waiting}; wait for some of them, or raise the limit"
                )
            waiter = _Waiter(client, wake)
            self._queues.setdefault(client, OrderedDict())[waiter] = None
            self._waiting += 1
            return waiter

    def _next(self) -> _Waiter:
        """The first waiter of the client whose turn it is, which then stands last."""
        client, queue = self._queues.popitem(last=False)
        waiter, _ = queue.popitem(last=False)
        self._waiting -= 1
        if queue:
            self._queues[client] = queue
        return waiter

    def _take_back(self, waiter: _Waiter) -> bool:
        """Have `waiter` out of the queue; whether it held a place, which is now the caller's."""
        with self._lock:
            held, waiter.holds = waiter.holds, False
            queue = self._queues.get(waiter.client, OrderedDict())
            if waiter in queue:
                del queue[waiter]
                self._waiting -= 1
                if not queue:
                    del self._queues[waiter.client]
            return held

    def release(self) -> None:
        """Give the place to the next waiter still there, or back."""
        while True:
            with self._lock:
                if self._free < 0 or not self._queues:
                    self._free += 1
                    return
                waiter = self._next()
                waiter.holds = True
            if waiter.wake() or not self._take_back(waiter):
                return

    def close(self, why: str) -> None:
        """Raise SandboxError in every waiting and every later caller; `release` still works."""
        with self._lock:
            self._closed = why
            waiters = [self._next() for _ in range(self._waiting)]
        for waiter in waiters:
            waiter.refusal = why
            waiter.wake()

    def acquire(self, client: str = "") -> None:
        """Wait for a place, blocking this thread.

        In a thread that runs an event loop it enters at once, over the limit if need be: the
        holders to wait for may need that loop to go on.

        Raises:
            QueueFull: `client` has `max_waiting` callers in the queue.
            SandboxError: the gate was closed.
        """
        if asyncio._get_running_loop() is not None:
            with self._lock:
                if self._closed:
                    raise SandboxError(self._closed)
                self._free -= 1
            return
        woken = threading.Event()

        def wake() -> bool:
            woken.set()
            return True

        waiter = self._enter_or_queue(client, wake)
        if waiter is None:
            return
        try:
            woken.wait()
        except BaseException:  # Ctrl-C in the main thread
            if self._take_back(waiter):
                self.release()
            raise
        if waiter.refusal:
            raise SandboxError(waiter.refusal)

    async def aacquire(self, client: str = "") -> None:
        """Wait for a place without blocking the loop; cancellable. Raises as `acquire`."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()

        def take() -> None:
            if not turn.done():
                turn.set_result(None)

        def wake() -> bool:
            try:
                loop.call_soon_threadsafe(take)
            except RuntimeError:  # that loop was closed with the waiter in it
                return False
            return True

        waiter = self._enter_or_queue(client, wake)
        if waiter is None:
            return
        try:
            await turn
        except asyncio.CancelledError:
            if self._take_back(waiter):
                self.release()
            raise
        if waiter.refusal:
            raise SandboxError(waiter.refusal)
