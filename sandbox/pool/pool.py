"""`Pool`: many callers, a few sandboxes, every caller's turn in fair order."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any

from ..base import Sandbox, Session
from ..local.gate import Gate
from ..types import Execution, Limits, SandboxError
from .client import PoolClient
from .members import Care, MakeSandbox
from .roster import Roster
from .session import PoolSession
from .stats import PoolStats, Tally
from .steps import Steps, atake, step, take

ATTEMPTS = 3  # to open a session, each after a check of the member that refused
AHEAD = 4  # runs that `map` has under way or waiting, for each place


class Pool(Sandbox):
    """A sandbox over several, with a fair queue in front.

    At most `max_running` calls run at once over all members; the others wait without a thread
    and without their clock running. Clients that wait take turns, and within one client it is
    first come, first served. A member that fails is taken out, replaced and comes back; a run
    that it takes with it raises SandboxError and is never repeated.

    Args:
        members: sandboxes, or functions that make one; one `LocalSandbox` by default. They
            belong to the pool, which closes them. A later life of one given as an instance is
            a copy with its configuration.
        max_running: calls running at once; twice the number of usable cores by default.
        max_queued: callers of one client that may wait; one more raises `QueueFull`. By
            default nobody is refused, and waiting is the back-pressure.
        check_every_s: an idle member is checked by a real run this often.
        check_s: what such a run may take.
        start_s: what the first one may take, with starting the member.
        recycle_sessions, recycle_s: a member gets a fresh life (other addresses in memory)
            after so many sessions, or in a quiet moment after so many seconds of use. Sessions
            that are open go on in the old one.

    Raises:
        ValueError: no members, the same one twice, or a number that is not positive.
    """

    def __init__(
        self,
        members: Sequence[Sandbox | MakeSandbox] | None = None,
        *,
        max_running: int | None = None,
        max_queued: int | None = None,
        check_every_s: float = 30.0,
        check_s: float = 30.0,
        start_s: float = 120.0,
        recycle_sessions: int | None = None,
        recycle_s: float | None = None,
    ) -> None:
        given = _members(members)
        if max_running is not None and max_running < 1:
            raise ValueError(f"max_running must be at least 1 (or None), got {max_running}")
        if max_queued is not None and max_queued < 0:
            raise ValueError(f"max_queued must be at least 0 (or None), got {max_queued}")
        self._care = Care(check_every_s, check_s, start_s, recycle_sessions, recycle_s)
        self._given = given
        self._bounds = {"max_running": max_running, "max_queued": max_queued}
        places = max_running or 2 * len(os.sched_getaffinity(0))
        self._ahead = AHEAD * places if max_queued is None else max(1, max_queued)
        self.gate = Gate(places, max_waiting=max_queued)
        self.roster = Roster(given, self._care)
        self.tally = Tally()
        # Where nobody closes the pool, its thread and its members end with it.
        self._finalizer = weakref.finalize(self, self.roster.close)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._given, {**self._bounds, **vars(self._care)})

    def client(self, name: str) -> PoolClient:
        """A view of the pool whose calls stand in the queue of client `name`."""
        return PoolClient(self, name)

    async def aopen(
        self,
        limits: Limits | None = None,
        *,
        seed: int = 0,
        rollback: bool = False,
        client: str = "",
    ) -> PoolSession:
        return await atake(self._open(limits, seed, rollback, client))

    def open(
        self,
        limits: Limits | None = None,
        *,
        seed: int = 0,
        rollback: bool = False,
        client: str = "",
    ) -> PoolSession:
        return take(self._open(limits, seed, rollback, client))

    async def arun(
        self,
        code: str,
        *,
        limits: Limits | None = None,
        seed: int = 0,
        wall_s: float | None = None,
        stdin: str | bytes = b"",
        client: str = "",
    ) -> Execution:
        """Run `code` once, in a session of its own, when it is `client`'s turn.

        Raises:
            QueueFull: `client` has `max_queued` runs waiting.
            SandboxError: the pool was closed, no member starts, or the one it ran in was lost.
        """
        how = {"wall_s": wall_s, "stdin": stdin}
        return await atake(self._once(client, code, limits, seed, how))

    def run(
        self,
        code: str,
        *,
        limits: Limits | None = None,
        seed: int = 0,
        wall_s: float | None = None,
        stdin: str | bytes = b"",
        client: str = "",
    ) -> Execution:
        """`arun`, blocking."""
        return take(self._once(client, code, limits, seed, {"wall_s": wall_s, "stdin": stdin}))

    async def amap(self, programs: Iterable[str], **how: Any) -> AsyncIterator[Execution]:
        """Run every program once; results in their order. `how` is as for `arun`.

        Programs are drawn as places come free, a few ahead, so that there may be any number.
        """
        tasks: deque[asyncio.Task[Execution]] = deque()
        try:
            for program in programs:
                tasks.append(asyncio.create_task(self.arun(program, **how)))
                if len(tasks) >= self._ahead:
                    yield await tasks.popleft()
            while tasks:
                yield await tasks.popleft()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def map(self, programs: Iterable[str], **how: Any) -> Iterator[Execution]:
        """`amap`, blocking, with no thread for each run."""
        loop = self.roster.start()
        futures: deque[Future[Execution]] = deque()
        try:
            for program in programs:
                futures.append(asyncio.run_coroutine_threadsafe(self.arun(program, **how), loop))
                if len(futures) >= self._ahead:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        except CancelledError as error:  # with the pool's thread
            raise SandboxError("the pool was closed") from error
        finally:
            for future in futures:
                future.cancel()

    def stats(self) -> PoolStats:
        """Counts and times so far."""
        return self.tally.read(self.gate.held, self.gate.waiting, self.roster.stats())

    @property
    def tier(self) -> str:
        """The members' tiers, the same one named once."""
        return ", ".join(sorted({sandbox.tier for sandbox in self.roster.ready()}))

    @property
    def missing(self) -> dict[str, str]:
        """What is absent in any member."""
        return {k: why for sandbox in self.roster.ready() for k, why in sandbox.missing.items()}

    def close(self) -> None:
        """End every member. Callers that wait or run get SandboxError. Idempotent."""
        self.gate.close("the pool was closed")
        self._finalizer()

    async def aclose(self) -> None:
        """`close` in a thread of its own: a member may take a while."""
        await asyncio.to_thread(self.close)

    def _open(
        self, limits: Limits | None, seed: int, rollback: bool, client: str
    ) -> Steps[PoolSession]:
        yield step(self.gate, "acquire", client)
        try:
            return (yield from self._opened(client, limits, seed, rollback))
        finally:
            self.gate.release()

    def _opened(
        self, client: str, limits: Limits | None, seed: int, rollback: bool = False
    ) -> Steps[PoolSession]:
        """A session in the member with the least to do.

        Nothing has run in it when it fails: so another try is made, in whatever member is
        ready then. The one that failed is checked first.
        """
        for left in reversed(range(ATTEMPTS)):
            while (life := self.roster.pick()) is None:
                yield step(self.roster, "pause")
            inner: Session | None = None
            try:
                inner = yield step(life.sandbox, "open", limits, seed=seed, rollback=rollback)
            except SandboxError as error:
                self.roster.doubt(life, error)
                if not left:
                    raise
            finally:
                self.roster.leave(life, worked=inner is not None, opened=inner)
            if inner is not None:
                return PoolSession(self, client, life, inner)
        raise AssertionError("the last attempt returns or raises")

    def _once(
        self, client: str, code: str, limits: Limits | None, seed: int, how: dict[str, Any]
    ) -> Steps[Execution]:
        def work() -> Steps[Execution]:
            session = yield from self._opened(client, limits, seed)
            try:
                execution: Execution = yield from session.call("run", code, **how)
                return execution
            finally:
                session.close()

        return self.counted(client, work)

    def counted(self, client: str, work: Callable[[], Steps[Execution]]) -> Steps[Execution]:
        """Do `work` when it is `client`'s turn, and count how it ends."""
        asked = time.monotonic()
        try:
            yield step(self.gate, "acquire", client)
        except BaseException as error:
            self.tally.count("refused" if isinstance(error, SandboxError) else "cancelled")
            raise
        start = time.monotonic()
        try:
            execution = yield from work()
        except SandboxError as error:
            self.tally.count("interrupted")
            if self.roster.closed:
                raise SandboxError("the pool was closed") from error
            raise
        except (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
            self.tally.count("cancelled")
            raise
        finally:
            self.gate.release()
        self.tally.executed(execution, start - asked, time.monotonic() - start)
        return replace(execution, queue_s=execution.queue_s + start - asked)


def _members(
    given: Sequence[Sandbox | MakeSandbox] | None,
) -> tuple[Sandbox | MakeSandbox, ...]:
    if given is None:
        from ..local import LocalSandbox

        return (LocalSandbox,)
    instances = [id(one) for one in given if isinstance(one, Sandbox)]
    if not given or len(set(instances)) < len(instances):
        raise ValueError(
            "a pool needs one member or more, and each sandbox once; got "
            f"{', '.join(type(one).__name__ for one in given) or 'none'}"
        )
    return tuple(given)


def _rebuild(members: Sequence[Sandbox | MakeSandbox], options: dict[str, Any]) -> Pool:
    return Pool(members, **options)
