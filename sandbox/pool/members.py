"""The members of a pool: what each is, through all its lives."""

from __future__ import annotations

import asyncio
import copy
import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ..base import Sandbox, Session
from .stats import MemberStats

MakeSandbox = Callable[[], Sandbox]


@dataclass(frozen=True)
class Care:
    """When members are looked after; see `Pool`. Times in seconds.

    Raises:
        ValueError: a value that is not positive.
    """

    check_every_s: float = 30.0
    check_s: float = 30.0
    start_s: float = 120.0
    recycle_sessions: int | None = None
    recycle_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")


@dataclass(eq=False)
class Life:
    """One life of a member: a sandbox, and what is open and running in it."""

    member: Member
    sandbox: Sandbox
    born: float = field(default_factory=time.monotonic)
    proven: float = field(default_factory=time.monotonic)  # when it last worked
    opened: int = 0
    running: int = 0
    sessions: weakref.WeakSet[Session] = field(default_factory=weakref.WeakSet)

    def kills(self) -> Counter[str]:
        """Interpreters that were killed in it, by cause, where its back end counts them."""
        stats = getattr(self.sandbox, "stats", None)
        return Counter() if stats is None else Counter(stats().kills)


@dataclass(eq=False)
class Member:
    """A place in the pool, through all its lives."""

    name: str
    make: MakeSandbox
    given: Sandbox | None = None  # the instance to begin with, until it is used
    life: Life | None = None
    state: str = "down"
    error: str = ""
    in_a_row: int = 0  # failures since it last worked
    failures: int = 0
    started: int = 0
    recycled: int = 0
    opened: int = 0
    retired: list[Life] = field(default_factory=list)
    buried: Counter[str] = field(default_factory=Counter)  # kills in lives that are over
    nudge: asyncio.Event = field(default_factory=asyncio.Event)

    def next_sandbox(self) -> Sandbox:
        """For the next life: the instance given, then copies with its configuration."""
        given, self.given = self.given, None
        return given or self.make()

    def failed(self, why: str) -> None:
        self.failures += 1
        self.in_a_row += 1
        self.error = why

    def lives(self) -> list[Life]:
        return [*self.retired, *([self.life] if self.life else [])]

    def stats(self) -> MemberStats:
        return MemberStats(
            name=self.name,
            state=self.state,
            running=sum(life.running for life in self.lives()),
            sessions=sum(len(life.sessions) for life in self.lives()),
            opened=self.opened,
            failures=self.failures,
            started=self.started,
            recycled=self.recycled,
            kills=dict(sum((life.kills() for life in self.lives()), self.buried)),
            error=self.error,
        )


def member_of(number: int, given: Sandbox | MakeSandbox) -> Member:
    if isinstance(given, Sandbox):
        return Member(f"{number} {type(given).__name__}", lambda: copy.copy(given), given)
    return Member(f"{number} {getattr(given, '__name__', type(given).__name__)}", given)
