"""`LocalSession`: a `Session` whose interpreter is a forked, locked-in process.

What a method does is written once, as a conversation; the two twins only wait differently.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from ..arguments import clock, standard_input
from ..base import Session
from ..paths import plain_path
from ..types import Execution, Limits, ProgramFault, SandboxError
from . import transfer, wire
from .process import Process, Reply
from .twin import NotCopiedError, copy, settle
from .verdict import Ending, ending, judge
from .waiting import Conversation, Wait, adrive, drive

if TYPE_CHECKING:
    from .client import LocalSandbox

T = TypeVar("T")
# What is tried of a session, in so many seconds where the time is its program's.
Attempt = Callable[["LocalSession", float], Conversation[T]]

SAVE_S = 2.0  # that saving the state before a call may take, however short the call's own clock
FILES_S = 120.0  # opening a file takes microseconds, once the server comes to it
DYING_S = 1.0  # from the end of a process' first thread to its own, where it has left others
CLOSED = "the session was closed"
# Failures of the host's own making, whatever a fresh session does a moment later.
OF_THE_HOST = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}


class LocalSession(Session):
    """Made by `LocalSandbox.open` and `fork`. One call at a time."""

    def __init__(
        self, sandbox: LocalSandbox, limits: Limits, seed: int, *, rollback: bool = False
    ) -> None:
        self._sandbox = sandbox
        self._limits = limits
        self._seed = seed
        self._rollback = rollback
        self._process: Process | None = None
        self._calls = 0
        self._lost = ""
        self._ended = ""
        self._notice = ""  # what the next call says of those before it
        self._busy = False
        self._counted = False

    async def arun(
        self, code: str, *, wall_s: float | None = None, stdin: str | bytes = b""
    ) -> Execution:
        return await adrive(self._run(code, wall_s, stdin))

    def run(self, code: str, *, wall_s: float | None = None, stdin: str | bytes = b"") -> Execution:
        return drive(self._run(code, wall_s, stdin))

    async def awrite_file(self, path: str, data: bytes) -> None:
        await adrive(self._write_file(path, data))

    def write_file(self, path: str, data: bytes) -> None:
        drive(self._write_file(path, data))

    async def aread_file(self, path: str, *, max_bytes: int | None = None) -> bytes:
        return await adrive(self._read_file(path, max_bytes))

    def read_file(self, path: str, *, max_bytes: int | None = None) -> bytes:
        return drive(self._read_file(path, max_bytes))

    async def alist_files(self) -> list[str]:
        return await adrive(self._list_files())

    def list_files(self) -> list[str]:
        return drive(self._list_files())

    async def afork(self) -> Session:
        return await adrive(self._fork())

    def fork(self) -> Session:
        return drive(self._fork())

    def close(self) -> None:
        self._lost = self._lost or CLOSED
        process = self._process
        if self._busy and process is not None:
            # The descriptors' numbers stay taken while a thread or a loop waits on them.
            process.end()
        elif not self._busy:
            self._go_on_with(None)
        if self._counted:
            self._counted = False
            self._sandbox.counters.count("closed")

    def __del__(self) -> None:
        if hasattr(self, "_counted"):
            self.close()

    def start(self) -> Conversation[LocalSession]:
        """Have the first interpreter made; the session itself."""
        yield from self._fresh()
        if self._rollback and "fork" in self._sandbox.missing:
            self.close()
            why = self._sandbox.missing["fork"]
            raise SandboxError(f"rollback needs sessions that fork; here they cannot: {why}")
        self._count("opened")
        return self

    def _let_go_if_lost(self) -> None:
        if self._lost:
            self._go_on_with(None)

    def _count(self, what: str) -> None:
        self._counted = True
        self._sandbox.counters.count(what)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """For the time of one call."""
        if self._lost:
            raise SandboxError(self._lost)
        if self._busy:
            raise RuntimeError("the session is running another call; open or fork one for each")
        if self._process is not None and self._process.owner != os.getpid():
            raise SandboxError("the session belongs to the process that this one was forked from")
        self._busy = True
        try:
            yield
        except SandboxError as error:
            if self._lost == CLOSED:
                raise SandboxError(CLOSED) from error
            raise
        finally:
            self._busy = False
            self._let_go_if_lost()  # it may have been closed meanwhile

    def _fresh(self) -> Conversation[Process]:
        process = self._sandbox.new_process(self._limits)
        try:
            yield from process.launch(_seed(self._seed, self._calls))
        except SandboxError as error:
            process.close()
            raise self._sandbox.explain(error) from error.__cause__
        except BaseException:
            process.close()
            raise
        if self._lost:  # closed meanwhile
            process.close()
            raise SandboxError(self._lost)
        self._process = process
        return process

    def _still(self) -> Conversation[Process | None]:
        """The interpreter, unless it has ended."""
        process = self._process
        if process is None:
            return None
        try:
            late = yield from settle(process)
            if late.killed:
                self._interrupted(None)
            elif process.died():
                self._ended = ending(late, process).phrase + " between two calls"
                self._go_on_with(None)
        except SandboxError as error:
            self._failed(error)
            raise
        return self._process

    def _living(self) -> Conversation[Process]:
        """The interpreter, or a fresh one where the last has ended; the next call says so."""
        process = yield from self._still()
        if process is not None:
            return process
        process = yield from self._fresh()
        self._notice = f"[sandbox] a fresh interpreter: the last one {self._ended}\n"
        return process

    def _go_on_with(self, process: Process | None) -> None:
        """Let the interpreter go; `process`, or a fresh one at the next call, comes after it."""
        if self._process is not None:
            self._process.close()
        self._process = process

    def _failed(self, error: SandboxError) -> None:
        """The session is lost for good, unless its interpreter is still there."""
        if not self._lost and (self._process is None or self._process.lost()):
            self._lost = f"the sandbox was lost: {error}"
            self._sandbox.counters.count("lost")
            self._go_on_with(None)

    def _run(self, code: str, wall_s: float | None, stdin: str | bytes) -> Conversation[Execution]:
        wall_s = clock(self._limits.wall_s if wall_s is None else wall_s)
        data = standard_input(stdin, wire.MAX_INPUT)
        asked = time.monotonic()
        yield self._sandbox.gate
        try:
            queue_s = time.monotonic() - asked
            with self._alone():
                execution = yield from self._call(code, wall_s, data)
                if self._lost == CLOSED:  # meanwhile: that it was killed is no result
                    raise SandboxError(CLOSED)
        finally:
            self._sandbox.gate.release()
        execution = replace(execution, queue_s=queue_s)
        self._sandbox.counters.returned(execution)
        return execution

    def _call(self, code: str, wall_s: float, stdin: bytes) -> Conversation[Execution]:
        saved: Process | None = None
        started = False
        number = self._calls + 1
        frame = list(wire.packets({"id": number, "code": code}))  # ValueError before all else
        try:
            process = yield from self._living()
            if self._rollback:
                try:
                    twin = self._sandbox.new_process(self._limits)
                    saved = yield from copy(process, twin, max(SAVE_S, wall_s / 2))
                except NotCopiedError as error:
                    self._notice += f"[sandbox] no going back to before this call: {error}\n"
                    if process.gone or error.reply.killed:
                        return self._conclude(process, error.reply, None)
            yield from process.renew_cpu()
            self._calls, started = number, True
            request = itertools.chain(wire.input_packets(stdin), frame)
            reply = yield from process.exchange(request, number, wall_s)
        except SandboxError as error:
            self._failed(error)
            if saved is not None:
                saved.close()
            raise
        except BaseException:
            if started:
                self._interrupted(saved)
            elif saved is not None:
                saved.close()
            raise
        return self._conclude(process, reply, saved)

    def _interrupted(self, saved: Process | None) -> None:
        """A call was cancelled: its interpreter is in an unknown state."""
        self._ended = "was in a call that was interrupted"
        self._sandbox.counters.killed("interrupted")
        self._go_on_with(saved)
        if saved is not None:
            self._notice = "[sandbox] an interrupted call was undone\n"

    def _conclude(self, process: Process, reply: Reply, saved: Process | None) -> Execution:
        """The verdict; after the end of the interpreter `saved` stands in for it."""
        ended: Ending | None = None
        notice, self._notice = self._notice, ""
        if process.gone or reply.killed:
            ended = ending(reply, process)
            self._ended = ended.phrase
            self._go_on_with(saved)
            notice += f"[sandbox] the interpreter {ended.phrase}\n"
            if saved is not None:
                notice += "[sandbox] the session goes on from the state before this call\n"
            if ended.cause:
                self._sandbox.counters.killed(ended.cause)
        elif saved is not None:
            saved.close()
        return judge(process, reply, ended, notice)

    def _fork(self) -> Conversation[Session]:
        with self._alone():
            return (yield from self._or_blame(LocalSession._copied))

    def _copied(self, wait_s: float) -> Conversation[LocalSession]:
        twin: Process | None = None
        try:
            process = yield from self._still()
            if process is not None:
                twin = self._sandbox.new_process(self._limits)
                yield from copy(process, twin, wait_s)
        except NotCopiedError as error:
            if process is not None and (process.gone or error.reply.killed):
                self._ended = ending(error.reply, process).phrase
                self._go_on_with(None)
            raise
        except SandboxError as error:
            self._failed(error)
            raise
        made = LocalSession(self._sandbox, self._limits, self._seed, rollback=self._rollback)
        # Without a twin there was nothing to copy: the next call of either starts afresh.
        made._process = twin
        made._calls, made._ended, made._notice = self._calls, self._ended, self._notice
        made._count("forked")
        return made

    def _or_blame(self, attempt: Attempt[T]) -> Conversation[T]:
        """What `attempt` gives; ProgramFault where a fresh session can do it and this one cannot.

        What the failing session says of the reason is its program's word. Where the fresh one
        could, this one tries once more, in what the first attempt has left of the time: it may
        have been the machine that could not, a moment ago.
        """
        start = time.monotonic()
        try:
            return (yield from attempt(self, wire.FORK_S))
        except (OSError, NotCopiedError) as error:
            spent = time.monotonic() - start
            if _of_the_host(error) or not (yield from self._works_afresh(attempt)):
                raise
            fault = error
        if self._lost:  # it was closed meanwhile
            raise SandboxError(self._lost)
        if self._process is not None and spent < wire.FORK_S:  # it has outlived the attempt
            try:
                return (yield from attempt(self, wire.FORK_S - spent))
            except (OSError, NotCopiedError) as error:
                if _of_the_host(error):
                    raise
                fault = error
        raise ProgramFault(f"by what the session's program did: {fault}") from fault

    def _works_afresh(self, attempt: Attempt[object]) -> Conversation[bool]:
        """Whether a program has run here, and what failed here works where none has."""
        if not self._calls:
            return False
        fresh = LocalSession(self._sandbox, self._limits, self._seed)
        try:
            yield from fresh._fresh()
            made = yield from attempt(fresh, wire.FORK_S)
        except (OSError, SandboxError):
            return False
        finally:
            fresh.close()
        if isinstance(made, LocalSession):
            made.close()
        return True

    def _write_file(self, path: str, data: bytes) -> Conversation[None]:
        parts = plain_path(path)
        if len(data) > self._limits.file_bytes:
            why = f"{len(data)} bytes, where a file may have {self._limits.file_bytes}"
            raise OSError(errno.EFBIG, why, path)

        def attempt(session: LocalSession, _: float) -> Conversation[None]:
            transfer.write((yield from session._opened("write", parts, len(data))), data, path)

        with self._alone():
            yield from self._or_blame(attempt)

    def _read_file(self, path: str, max_bytes: int | None) -> Conversation[bytes]:
        parts = plain_path(path)
        limit = self._limits.file_bytes if max_bytes is None else max_bytes
        with self._alone():
            return transfer.read((yield from self._opened("read", parts)), limit, path)

    def _list_files(self) -> Conversation[list[str]]:
        def attempt(session: LocalSession, _: float) -> Conversation[list[str]]:
            return transfer.names((yield from session._opened("list", [])))

        with self._alone():
            return (yield from self._or_blame(attempt))

    def _opened(self, do: str, parts: list[str], size: int = 0) -> Conversation[int]:
        """A descriptor from the server; see `workfiles`."""
        dying = 0.0
        while True:
            process = yield from self._living()
            try:
                return (yield from process.open_file(do, parts, size, time.monotonic() + FILES_S))
            except SandboxError as error:
                self._failed(error)
                raise
            except ProcessLookupError:  # it is dying; soon it is known to have died
                now = time.monotonic()
                dying = dying or now
                if now > dying + DYING_S:  # its first thread has ended, others have not
                    process.kill()
                yield Wait((), now + 0.01)


def _of_the_host(error: Exception) -> bool:
    """Whether it says what the machine is short of, and nothing of the session."""
    if isinstance(error, NotCopiedError):
        return error.shortage
    return isinstance(error, OSError) and error.errno in OF_THE_HOST


def _seed(seed: int, calls: int) -> int:
    """The first interpreter's seed is the session's own; each after it has another."""
    if calls == 0 and 0 <= seed < 1 << 64:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed:x} {calls}".encode(), digest_size=8).digest())
