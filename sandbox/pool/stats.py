"""What a pool has done so far, counted while it works and read as one `PoolStats`."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..measure import quantile
from ..types import Execution

KEPT = 10_000  # times that the quantiles are taken over: the latest


@dataclass(frozen=True, slots=True)
class MemberStats:
    """One member of a pool.

    Attributes:
        name: its place in the pool and its kind.
        state: `ready`, `checking` (after a failure) or `down` (being started).
        running, sessions: calls under way and sessions open, those of retired lives included.
        opened: sessions opened in all its lives.
        failures: how often it was taken out; `error` is the last reason.
        started: lives begun, the first one included; `recycled` of them by age or use.
        kills: interpreters killed, by cause, as far as its back end tells; see `Stats`.
    """

    name: str
    state: str
    running: int
    sessions: int
    opened: int
    failures: int
    started: int
    recycled: int
    kills: dict[str, int]
    error: str = ""

    def __str__(self) -> str:
        text = (
            f"{self.name}: {self.state}, {self.running} running, {self.sessions} sessions, "
            f"{self.opened} opened, {self.failures} failures, {self.recycled} times recycled"
        )
        return f"{text}; last failure: {self.error}" if self.error else text


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Counts since the pool was made, and times of the latest 10,000 runs.

    Attributes:
        running, queued: calls that have a place now, and those that wait for one.
        executions: finished runs by status.
        interrupted: runs that had a place and ended in SandboxError.
        sessions_lost: sessions that their sandbox took with it.
        cancelled: runs given up by their caller, waiting or running.
        refused: runs that never had a place: their client's queue was full, or the pool closed.
        queue_p50_s, queue_p99_s: wait for a place, in seconds; nan before the first run.
        run_p50_s, run_p99_s: from the place to the result, in seconds, with opening a session.
    """

    running: int
    queued: int
    executions: dict[str, int]
    interrupted: int
    sessions_lost: int
    cancelled: int
    refused: int
    queue_p50_s: float
    queue_p99_s: float
    run_p50_s: float
    run_p99_s: float
    members: tuple[MemberStats, ...]

    @property
    def finished(self) -> int:
        """Runs that have a status."""
        return sum(self.executions.values())

    @property
    def kills(self) -> dict[str, int]:
        """Interpreters that were killed in all members, by cause; see `Stats`."""
        return dict(sum((Counter(member.kills) for member in self.members), Counter[str]()))

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON can hold it: times that there are none of are None."""
        plain = asdict(self) | {"finished": self.finished, "kills": self.kills}
        return {key: None if value != value else value for key, value in plain.items()}

    def __str__(self) -> str:
        by_status = ", ".join(f"{count} {name}" for name, count in self.executions.items())
        kills = ", ".join(f"{count} {name}" for name, count in self.kills.items())
        return "\n".join(
            (
                f"{self.running} running, {self.queued} queued, {self.finished} finished"
                + (f" ({by_status})" if by_status else ""),
                f"kills: {kills or 'none'}; {self.interrupted} interrupted, "
                f"{self.sessions_lost} sessions lost, {self.cancelled} cancelled, "
                f"{self.refused} refused",
                f"queue p50 {1e3 * self.queue_p50_s:.1f} ms, p99 {1e3 * self.queue_p99_s:.1f} ms; "
                f"run p50 {1e3 * self.run_p50_s:.1f} ms, p99 {1e3 * self.run_p99_s:.1f} ms",
                *map(str, self.members),
            )
        )


class Tally:
    """The counters behind `PoolStats`; any thread may count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executions: Counter[str] = Counter()
        self._ends: Counter[str] = Counter()
        self._queued: deque[float] = deque(maxlen=KEPT)
        self._ran: deque[float] = deque(maxlen=KEPT)

    def executed(self, execution: Execution, queue_s: float, run_s: float) -> None:
        """A run has a status."""
        with self._lock:
            self._executions[execution.status.value] += 1
            self._queued.append(queue_s)
            self._ran.append(run_s)

    def count(self, end: str) -> None:
        """A run ended without one: `interrupted`, `cancelled` or `refused`; or `sessions_lost`."""
        with self._lock:
            self._ends[end] += 1

    def read(self, running: int, queued: int, members: Iterable[MemberStats]) -> PoolStats:
        """All of it, now."""
        with self._lock:
            waits, runs = list(self._queued), list(self._ran)
            executions, ends = dict(self._executions), dict(self._ends)
        return PoolStats(
            running=running,
            queued=queued,
            executions=executions,
            interrupted=ends.get("interrupted", 0),
            sessions_lost=ends.get("sessions_lost", 0),
            cancelled=ends.get("cancelled", 0),
            refused=ends.get("refused", 0),
            queue_p50_s=quantile(waits, 0.5),
            queue_p99_s=quantile(waits, 0.99),
            run_p50_s=quantile(runs, 0.5),
            run_p99_s=quantile(runs, 0.99),
            members=tuple(members),
        )
