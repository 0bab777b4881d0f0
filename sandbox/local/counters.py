"""Counts of what a sandbox has done, kept as it goes."""

from __future__ import annotations

import threading
from collections import Counter

from ..types import Execution, Stats, Status


class Counters:
    """Plain counters behind one lock; any thread may count."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a collected session closes inside of it
        self._counts: Counter[str] = Counter()
        self._status: Counter[Status] = Counter()
        self._kills: Counter[str] = Counter()
        self._queue_s = self._run_s = 0.0

    def count(self, what: str) -> None:
        """One more of "opened", "forked", "closed" or "lost"."""
        with self._lock:
            self._counts[what] += 1

    def killed(self, cause: str) -> None:
        """An interpreter was killed."""
        with self._lock:
            self._kills[cause] += 1

    def returned(self, execution: Execution) -> None:
        """A call came to its end."""
        with self._lock:
            self._status[execution.status] += 1
            self._queue_s += execution.queue_s
            self._run_s += execution.duration_s

    def stats(self) -> Stats:
        """The figures up to now."""
        with self._lock:
            counts = self._counts
            return Stats(
                opened=counts["opened"],
                forked=counts["forked"],
                open=counts["opened"] + counts["forked"] - counts["closed"],
                calls=self._status.total(),
                queue_s=self._queue_s,
                run_s=self._run_s,
                by_status=dict(self._status),
                kills=dict(self._kills),
                lost=counts["lost"],
            )
