"""The sandboxes of a pool: one thread of its own looks after them.

It starts every member, checks it by a real run when it has been idle for long or has failed,
replaces what does not answer, with growing pauses, and gives a member a fresh life after much
use. Sessions of a retired life go on; it is closed with the last of them.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from ..base import Sandbox, Session
from ..types import SandboxError
from .members import Care, Life, MakeSandbox, Member, member_of
from .stats import MemberStats

CHECK, CHECKED = "print(6 * 7)", "42\n"
HOPELESS = 3  # failures in a row of every member, after which callers no longer wait
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 30.0
TICK_S = 1.0  # between looks at what is due


class Roster:
    """The members, and the thread that looks after them. Safe from any thread."""

    def __init__(self, given: Iterable[Sandbox | MakeSandbox], care: Care) -> None:
        self.members = [member_of(i, one) for i, one in enumerate(given)]
        self.care = care
        self.owner = os.getpid()
        self.closed = False
        # The collector may end the pool, and so call `close`, in any thread at any time.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def pick(self) -> Life | None:
        """The life with the least to do, counted as running; None while there is none ready.

        Raises:
            SandboxError: every member has failed again and again, or the pool was closed.
        """
        self.start()
        with self._lock:
            if self.closed:
                raise SandboxError("the pool was closed")
            ready = [m.life for m in self.members if m.life and m.state == "ready"]
            if ready:
                life = min(ready, key=lambda life: (life.running, len(life.sessions)))
                life.running += 1
                return life
            if all(member.in_a_row >= HOPELESS for member in self.members):
                errors = "; ".join(f"{m.name}: {m.error}" for m in self.members)
                raise SandboxError(f"no member of the pool starts ({errors})")
            return None

    def ready(self) -> list[Sandbox]:
        """The sandboxes that take sessions now, waiting for a first one."""
        while (life := self.pick()) is None:
            self.pause()
        self.leave(life, worked=False)
        with self._lock:
            return [m.life.sandbox for m in self.members if m.life and m.state == "ready"]

    def enter(self, life: Life) -> None:
        """One more call runs in `life`."""
        with self._lock:
            life.running += 1

    def leave(self, life: Life, *, worked: bool, opened: Session | None = None) -> None:
        """A call that `pick` or `enter` counted has ended, and may have opened a session."""
        with self._lock:
            life.running -= 1
            if worked:
                life.proven = time.monotonic()
            if opened is not None:
                life.sessions.add(opened)
                life.opened += 1
                life.member.opened += 1

    def doubt(self, life: Life, error: SandboxError) -> None:
        """`life` failed somebody: no new session goes to it until it has passed a check."""
        with self._lock:
            member = life.member
            if self.closed or member.life is not life or member.state != "ready":
                return
            member.failed(str(error))
            member.state = "checking"
        self._nudge(member)

    def _nudge(self, member: Member) -> None:
        with suppress(SandboxError, RuntimeError):  # it was closed meanwhile
            self.start().call_soon_threadsafe(member.nudge.set)

    def pause(self) -> None:
        """Wait a little for a member to be ready."""
        time.sleep(0.01)

    async def apause(self) -> None:
        """`pause`, awaited."""
        await asyncio.sleep(0.01)

    def stats(self) -> list[MemberStats]:
        with self._lock:
            return [member.stats() for member in self.members]

    def start(self) -> asyncio.AbstractEventLoop:
        """Have the thread running; its loop.

        Raises:
            SandboxError: the pool was closed, or made by the process this one was forked from.
        """
        if self.owner != os.getpid():
            raise SandboxError("the pool belongs to the process that this one was forked from")
        with self._lock:
            if self.closed:
                raise SandboxError("the pool was closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._keep, args=(self._loop,), name="palestra-pool", daemon=True
                )
                self._thread.start()
            return self._loop

    def close(self) -> None:
        """End the thread and every sandbox. Idempotent."""
        if self.owner != os.getpid():  # nor is the lock to be trusted then
            return
        with self._lock:
            if self.closed:
                return
            self.closed = True
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            with suppress(RuntimeError):  # it has come to its end by itself
                loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join()
        for member in self.members:
            for sandbox in (member.given, *(life.sandbox for life in member.lives())):
                if sandbox is not None:
                    sandbox.close()

    def _keep(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread: until `close` stops the loop."""
        asyncio.set_event_loop(loop)
        tasks = {loop.create_task(self._tend(member)) for member in self.members}
        loop.run_forever()
        tasks |= asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()

    async def _tend(self, member: Member) -> None:
        while True:
            member.nudge.clear()
            life = member.life
            if life is None or self._worn(life):
                await self._renew(member)
            elif member.state != "ready" or self._idle(life):
                await self._examine(member, life)
            await self._bury(member)
            with suppress(TimeoutError):
                await asyncio.wait_for(member.nudge.wait(), TICK_S)

    def _idle(self, life: Life) -> bool:
        # Calls under way need no check: a server that hangs fails them at their own limits.
        return not life.running and time.monotonic() > life.proven + self.care.check_every_s

    def _worn(self, life: Life) -> bool:
        if life.member.state != "ready" or not life.opened:
            return False
        most, age_s = self.care.recycle_sessions, self.care.recycle_s
        if most is not None and life.opened >= most:
            return True
        # By age in a quiet moment, or at twice the age in any.
        old = math.inf if age_s is None else age_s * (2 if life.running else 1)
        return time.monotonic() > life.born + old

    async def _examine(self, member: Member, life: Life) -> None:
        why = await _check(life.sandbox, self.care.check_s)
        with self._lock:
            if not why:
                member.state, member.in_a_row, life.proven = "ready", 0, time.monotonic()
                return
            if member.state == "ready":  # else the failure that led here was counted
                member.failed(why)
            member.state = "down"
        await self._renew(member)

    async def _renew(self, member: Member) -> None:
        """A fresh life in place of the present one, which goes on for the sessions it has."""
        recycling = member.state == "ready"
        while True:
            sandbox: Sandbox | None = None
            try:
                sandbox = member.next_sandbox()
                why = await _check(sandbox, self.care.start_s)
            except Exception as error:  # noqa: BLE001 - a factory of the user's
                why = f"{type(error).__name__}: {error}"
            except BaseException:
                if sandbox is not None:
                    sandbox.close()
                raise
            with self._lock:
                if sandbox is not None and not why:
                    member.retired += [member.life] if member.life else []
                    member.life = Life(member, sandbox)
                    member.state, member.in_a_row = "ready", 0
                    member.started += 1
                    member.recycled += recycling
                    return
                member.failed(why)
                pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(member.in_a_row - 1, 16))
            if sandbox is not None:
                await _close(sandbox)
            await asyncio.sleep(pause)

    async def _bury(self, member: Member) -> None:
        with self._lock:
            over = [life for life in member.retired if not life.running and not life.sessions]
            member.retired = [life for life in member.retired if life not in over]
            for life in over:
                member.buried += life.kills()
        for life in over:
            await _close(life.sandbox)


async def _check(sandbox: Sandbox, limit_s: float) -> str:
    """Run a small program for real; what is wrong with `sandbox`, empty for nothing."""
    try:
        async with asyncio.timeout(limit_s):
            execution = await sandbox.arun(CHECK)
    except TimeoutError:
        return f"a check took more than {limit_s:g} s"
    except Exception as error:  # noqa: BLE001 - whatever a back end raises
        return f"{type(error).__name__}: {error}"
    said = execution.stdout
    return "" if said == CHECKED else f"a check printed {said!r} ({execution.status})"


async def _close(sandbox: Sandbox) -> None:
    with suppress(Exception):  # it is of no use any more, whatever it says
        await sandbox.aclose()
