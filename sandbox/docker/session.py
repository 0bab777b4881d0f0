"""`DockerSession`: a session that lives in a container, behind its gateway."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..arguments import clock, standard_input
from ..base import Session
from ..local import wire
from ..local.session import SAVE_S
from ..local.verdict import number, text
from ..local.waiting import Conversation, adrive, drive
from ..paths import plain_path
from ..types import Execution, Limits, ProgramFault, SandboxError, Status
from .frames import PLAIN, SMALL, Frame, Room

if TYPE_CHECKING:
    from .client import DockerSandbox
    from .container import Container

# What the gateway may take, beyond the sandbox's own patience, before its container is killed.
OPEN_S = 60.0  # the server inside may have died and preload again
FORK_S = 2 * wire.FORK_S + 5.0  # it has deadlines of its own for the two steps of a copy
FILES_S = 15.0
MAX_NAMES = 2 << 20


class DockerSession(Session):
    """Made by `DockerSandbox.open` and `fork`. One call at a time."""

    def __init__(
        self,
        sandbox: DockerSandbox,
        container: Container,
        limits: Limits,
        *,
        rollback: bool = False,
    ) -> None:
        self._sandbox = sandbox
        self._container = container
        self._limits = limits
        self._rollback = rollback
        self._sid = next(sandbox.sids)
        self._lost = ""
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
        self._lost = self._lost or "the session was closed"
        if self._counted:
            self._counted = False
            self._container.sessions -= 1
            if self._container.here:
                self._container.link.tell({"op": "close", "sid": self._sid})
            self._sandbox.counters.count("closed")

    def __del__(self) -> None:
        if hasattr(self, "_counted"):
            self.close()

    def start(self, seed: int) -> Conversation[None]:
        """Have the interpreter made."""
        asked = {"op": "open", "seed": seed, "rollback": self._rollback}
        self._container.used = True
        try:
            yield from self._errand(asked | {"limits": asdict(self._limits)}, OPEN_S)
        except BaseException:
            self._container.link.tell({"op": "close", "sid": self._sid})
            raise
        self._count("opened")

    def _count(self, what: str) -> None:
        self._counted = True
        self._container.sessions += 1
        self._sandbox.counters.count(what)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """For the time of one call."""
        if self._lost:
            raise SandboxError(self._lost)
        if self._busy:
            raise RuntimeError("the session is running another call; open or fork one for each")
        if not self._container.here:
            raise SandboxError("the session belongs to the process that this one was forked from")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _ask(
        self, fields: dict[str, Any], wait_s: float, body: bytes = b"", room: Room = PLAIN
    ) -> Conversation[Frame]:
        """One request to the gateway; its answer, or what it says went wrong, raised."""
        link = self._container.link
        wait_s += self._sandbox.config.patience_s
        try:
            frame = yield from link.ask(fields | {"sid": self._sid}, body, wait_s=wait_s, room=room)
        except SandboxError as error:
            if not self._lost:
                self._lost = f"the sandbox was lost: {error}"
                self._sandbox.counters.count("lost")
            raise
        if "error" in frame.fields:
            raise _raised(frame.fields, fields.get("path"))
        return frame

    def _errand(
        self, fields: dict[str, Any], wait_s: float, body: bytes = b"", room: Room = PLAIN
    ) -> Conversation[Frame]:
        """`_ask`, for what runs no program."""
        yield self._sandbox.errands
        try:
            return (yield from self._ask(fields, wait_s, body, room))
        finally:
            self._sandbox.errands.release()

    def _run(self, code: str, wall_s: float | None, stdin: str | bytes) -> Conversation[Execution]:
        wall_s = clock(self._limits.wall_s if wall_s is None else wall_s)
        data = standard_input(stdin, wire.MAX_INPUT)
        # A frame's worth of escaped output, and of a value: at worst twelve bytes a character.
        room = Room(48 * self._limits.output_bytes + 4 * SMALL)
        # Saving the state before a call and going back to it take time of their own.
        spare = 2 * max(SAVE_S, wall_s) if self._rollback else 0.0
        asked = time.monotonic()
        yield self._sandbox.gate
        try:
            start = time.monotonic()
            with self._alone():
                fields = {"op": "run", "code": code, "wall_s": wall_s}
                try:
                    frame = yield from self._ask(fields, wall_s + spare, data, room)
                except GeneratorExit:
                    self._sandbox.counters.killed("interrupted")
                    raise
            seconds = time.monotonic() - start
        finally:
            self._sandbox.gate.release()
        execution = self._execution(frame.fields, seconds, start - asked)
        self._sandbox.counters.returned(execution)
        return execution

    def _execution(self, said: dict[str, Any], seconds: float, queue_s: float) -> Execution:
        """The gateway's account of a call, with every type looked at."""
        value, cut, killed = said.get("value"), said.get("truncated"), said.get("killed")
        try:
            status = Status(str(said.get("status")))
        except ValueError:
            self._container.link.fail("it broke the protocol: a status that is none")
            raise SandboxError("the container was lost: it broke the protocol") from None
        if killed in ("wall", "cpu", "output", "memory", "protocol"):
            self._sandbox.counters.killed(killed)
        return Execution(
            stdout=text(str(said.get("stdout", ""))),
            stderr=text(str(said.get("stderr", ""))),
            value=text(value) if isinstance(value, str) else None,
            status=status,
            duration_s=min(seconds, number(said.get("duration_s"))),
            cpu_s=number(said.get("cpu_s")),
            truncated=cut is True,
            queue_s=queue_s,
        )

    def _fork(self) -> Conversation[Session]:
        with self._alone():
            sandbox, container = self._sandbox, self._container
            if why := container.missing.get("fork"):
                raise SandboxError(f"the session cannot be copied: no fork in its container: {why}")
            copy = DockerSession(sandbox, container, self._limits, rollback=self._rollback)
            try:
                yield from self._errand({"op": "fork", "new": copy._sid}, FORK_S)
            except BaseException:
                container.link.tell({"op": "close", "sid": copy._sid})
                raise
            copy._count("forked")
            return copy

    def _write_file(self, path: str, data: bytes) -> Conversation[None]:
        plain_path(path)
        if len(data) > self._limits.file_bytes:
            why = f"{len(data)} bytes, where a file may have {self._limits.file_bytes}"
            raise OSError(errno.EFBIG, why, path)
        with self._alone():
            yield from self._errand({"op": "write", "path": path}, FILES_S, data)

    def _read_file(self, path: str, max_bytes: int | None) -> Conversation[bytes]:
        plain_path(path)
        limit = self._limits.file_bytes if max_bytes is None else max_bytes
        fields = {"op": "read", "path": path, "max_bytes": max_bytes}
        with self._alone():
            frame = yield from self._errand(fields, FILES_S, room=Room(SMALL, max(0, limit)))
        return frame.body

    def _list_files(self) -> Conversation[list[str]]:
        with self._alone():
            frame = yield from self._errand({"op": "list"}, FILES_S, room=Room(SMALL, MAX_NAMES))
        names = frame.body.decode("utf-8", "surrogateescape").split("\0")
        return [name for name in names if name]


_KINDS = {"ProgramFault": ProgramFault, "ValueError": ValueError, "RuntimeError": RuntimeError}


def _raised(said: dict[str, Any], path: str | None) -> Exception:
    """An error that the gateway tells of, as the exception that it was there."""
    kind, why, code = said.get("error"), text(str(said.get("message"))), said.get("errno")
    if kind in ("OSError", "FileNotFoundError"):
        code = code if isinstance(code, int) else errno.EIO
        made = FileNotFoundError if kind == "FileNotFoundError" else OSError
        return made(code, why, path)
    return _KINDS.get(str(kind), SandboxError)(why)
