"""The gateway: in the container, between the stream from the host and a `LocalSandbox`.

Any number of sessions share one stream, standard input and output. No program runs in this
process; those that it starts are locked in by the walls of the local back end, and know of no
descriptor of it. When the stream ends, so does this process, and with it the container.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..base import Session
from ..local import kernel
from ..local.client import LocalSandbox
from ..types import Limits, ProgramFault, SandboxError, Status
from .frames import Frame, Reader, Room, pack

# The host is believed: whoever has the stream has the container.
_ROOM = Room(fields=(1 << 32) - 1, body=(1 << 32) - 1)
# What the control group counts of kills for memory, in its second and its first version.
_KILLS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_ERRORS = (SandboxError, ProgramFault, FileNotFoundError, OSError, ValueError, RuntimeError)

Answer = tuple[dict[str, Any], bytes]


class Gateway(asyncio.Protocol):
    """Carries out requests, each in a task of its own."""

    def __init__(self, sandbox: LocalSandbox) -> None:
        self.ended = asyncio.Event()
        self._sandbox = sandbox
        self._reader = Reader()
        self._out: asyncio.WriteTransport | None = None
        self._sessions: dict[int, Session] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by the request's number
        self._tasks_of: dict[int, asyncio.Task[None]] = {}  # by the session
        self._memory_kills = _memory_kills()
        self._kills: dict[str, int] = {}

    def begin(self, out: asyncio.WriteTransport) -> None:
        """Say the first word."""
        self._out = out
        missing = dict(self._sandbox.missing)
        missing.pop("cgroup", None)  # the container is in one
        out.write(pack(0, {"tier": self._sandbox.tier, "missing": missing}))

    def data_received(self, data: bytes) -> None:
        for frame in self._reader.feed(data, lambda _: _ROOM):
            self._take(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()

    def _take(self, frame: Frame) -> None:
        number, sid = frame.number, frame.fields.get("sid", 0)
        match frame.fields["op"]:
            case "close":
                self._close(sid)
            case "cancel":
                if task := self._tasks.get(frame.fields["of"]):
                    task.cancel()
            case _:
                task = asyncio.create_task(self._carry_out(frame))
                self._tasks[number] = self._tasks_of[sid] = task
                task.add_done_callback(lambda done: self._forget(number, sid, done))

    def _forget(self, number: int, sid: int, task: asyncio.Task[None]) -> None:
        self._tasks.pop(number, None)
        if self._tasks_of.get(sid) is task:
            del self._tasks_of[sid]

    def _close(self, sid: int) -> None:
        session, task = self._sessions.pop(sid, None), self._tasks_of.get(sid)
        if task is not None:
            task.cancel()
            if session is not None:
                task.add_done_callback(lambda _: session.close())
        elif session is not None:
            session.close()

    async def _carry_out(self, frame: Frame) -> None:
        try:
            fields, body = await _REQUESTS[frame.fields["op"]](self, frame)
        except asyncio.CancelledError:
            fields, body = {"error": "SandboxError", "message": "the call was cancelled"}, b""
        except Exception as error:  # noqa: BLE001 - raised by the host in the caller
            fields, body = _failure(error), b""
        if self._out is not None:
            self._out.write(pack(frame.number, fields, body))

    def _session(self, frame: Frame) -> Session:
        session = self._sessions.get(frame.fields["sid"])
        if session is None:
            raise SandboxError("the session was closed")
        return session

    async def _open(self, frame: Frame) -> Answer:
        limits = Limits(**frame.fields["limits"])
        seed, rollback = frame.fields["seed"], frame.fields["rollback"]
        session = await self._sandbox.aopen(limits, seed=seed, rollback=rollback)
        self._sessions[frame.fields["sid"]] = session
        return {}, b""

    async def _fork(self, frame: Frame) -> Answer:
        self._sessions[frame.fields["new"]] = await self._session(frame).afork()
        return {}, b""

    async def _run(self, frame: Frame) -> Answer:
        session, wall_s = self._session(frame), frame.fields["wall_s"]
        execution = await session.arun(frame.fields["code"], wall_s=wall_s, stdin=frame.body)
        killed = self._newly_killed()
        if execution.status is Status.CRASHED and _memory_kills() > self._memory_kills:
            self._memory_kills += 1
            why = f"{execution.stderr}[sandbox] the container was out of memory\n"
            execution, killed = replace(execution, status=Status.MEMORY, stderr=why), "memory"
        return asdict(execution) | {"killed": killed}, b""

    def _newly_killed(self) -> str:
        """Why the call that just ended was killed, if it was: the one count that has risen.

        A call counts and returns here in one step, so that no other call comes between.
        """
        before, self._kills = self._kills, dict(self._sandbox.stats().kills)
        return next((why for why, n in self._kills.items() if n > before.get(why, 0)), "")

    async def _write(self, frame: Frame) -> Answer:
        await self._session(frame).awrite_file(frame.fields["path"], frame.body)
        return {}, b""

    async def _read(self, frame: Frame) -> Answer:
        path, max_bytes = frame.fields["path"], frame.fields["max_bytes"]
        return {}, await self._session(frame).aread_file(path, max_bytes=max_bytes)

    async def _list(self, frame: Frame) -> Answer:
        return {}, "\0".join(await self._session(frame).alist_files()).encode(*_NAMES)


_NAMES = ("utf-8", "surrogateescape")  # file names need not be text
_REQUESTS: dict[str, Callable[[Gateway, Frame], Coroutine[Any, Any, Answer]]] = {
    "open": Gateway._open,
    "fork": Gateway._fork,
    "run": Gateway._run,
    "write": Gateway._write,
    "read": Gateway._read,
    "list": Gateway._list,
}


def _failure(error: Exception) -> dict[str, Any]:
    kind = next((kind for kind in _ERRORS if isinstance(error, kind)), SandboxError)
    number = error.errno if isinstance(error, OSError) else None
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if kind is SandboxError and not isinstance(error, SandboxError):
        said = f"the gateway failed: {type(error).__name__}: {said}"
    return {"error": kind.__name__, "errno": number, "message": said[:8000]}


def _memory_kills() -> int:
    """Processes of this container that the kernel has killed for its memory limit."""
    for path in _KILLS:
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:  # the other version, or gVisor, which has neither
            continue
        counts = dict(line.split() for line in lines if len(line.split()) == 2)
        return int(counts.get("oom_kill", 0))
    return 0


async def _serve(sandbox: LocalSandbox) -> None:
    loop = asyncio.get_running_loop()
    gateway = Gateway(sandbox)
    out, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(1, "wb", buffering=0))
    gateway.begin(out)
    await loop.connect_read_pipe(lambda: gateway, os.fdopen(0, "rb", buffering=0))
    await gateway.ended.wait()


def main(config: str) -> None:
    """Entry point of the container; `config` is JSON: `preload`, `require` and `ready`."""
    # Programs run as the same user: none may open this process' memory or descriptors.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    asked = json.loads(config)
    # Calls queue at the host, before they are sent: here each one runs at once.
    with LocalSandbox(**asked, max_running=1 << 20) as sandbox:
        try:
            asyncio.run(_serve(sandbox))
        except SandboxError as error:
            sys.exit(str(error))  # the host shows what was said last on standard error
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
