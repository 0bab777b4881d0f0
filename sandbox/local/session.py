"""`LocalSession`: a `Session` whose interpreter is a forked, locked-in process."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from ..base import Session
from ..types import Execution, Limits, SandboxError, Status
from . import wire
from .process import Process, Reply
from .waiting import Conversation, adrive, drive

if TYPE_CHECKING:
    from .client import LocalSandbox

GRACE_S = 5.0  # that the server has the first word on a copy that takes too long


class LocalSession(Session):
    """Made by `LocalSandbox.open` and `fork`. One call at a time."""

    def __init__(
        self, sandbox: LocalSandbox, limits: Limits, seed: int, process: Process | None = None
    ) -> None:
        self._sandbox = sandbox
        self._limits = limits
        self._seed = seed
        self._process = process
        self._lost = ""
        self._ended = ""
        self._busy = False

    async def arun(self, code: str, *, wall_s: float | None = None) -> Execution:
        wall_s = _clock(self._limits.wall_s if wall_s is None else wall_s)
        gate = self._sandbox.gate
        await gate.aacquire()
        try:
            return await adrive(self._call(code, wall_s))
        finally:
            gate.release()

    def run(self, code: str, *, wall_s: float | None = None) -> Execution:
        wall_s = _clock(self._limits.wall_s if wall_s is None else wall_s)
        gate = self._sandbox.gate
        gate.acquire()
        try:
            return drive(self._call(code, wall_s))
        finally:
            gate.release()

    def start(self) -> Conversation[LocalSession]:
        """Have the first interpreter made; the session itself."""
        yield from self._fresh()
        return self

    async def afork(self) -> Session:
        return await adrive(self._fork())

    def fork(self) -> Session:
        return drive(self._fork())

    def close(self) -> None:
        self._lost = self._lost or "the session was closed"
        if self._process is not None:
            self._process.close()
            self._process = None

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()

    def _fresh(self) -> Conversation[Process]:
        process = self._sandbox.new_process(self._limits)
        try:
            yield from process.launch(self._seed)
        except SandboxError as error:
            process.close()
            raise self._sandbox.explain(error) from error.__cause__
        except BaseException:
            process.close()
            raise
        self._process = process
        return process

    def _usable(self) -> None:
        if self._lost:
            raise SandboxError(self._lost)
        if self._busy:
            raise RuntimeError("the session is running another call; open or fork one for each")
        if self._process is not None and self._process.owner != os.getpid():
            raise SandboxError("the session belongs to the process that this one was forked from")

    def _fork(self) -> Conversation[Session]:
        self._usable()
        self._busy = True
        try:
            process = self._process
            if process is None:  # nothing to copy: the next call of either starts afresh
                copy = LocalSession(self._sandbox, self._limits, self._seed)
                copy._ended = self._ended
                return copy
            twin = yield from self._copy(process)
            return LocalSession(self._sandbox, self._limits, self._seed, twin)
        finally:
            self._busy = False

    def _copy(self, process: Process) -> Conversation[Process]:
        """Announce the copy to the server, ask the interpreter to fork, await the twin."""
        twin = self._sandbox.new_process(self._limits)
        try:
            yield from twin.announce({"op": "fork", "of": process.sid})
            reply = yield from process.exchange([wire.FORK], 0, wire.FORK_S)
            if reply.answer is None or reply.answer.get("error"):
                raise SandboxError(f"the session could not be copied: {_refusal(reply)}")
            yield from twin.await_ready(wire.FORK_S + GRACE_S)
            twin.stop()
        except SandboxError as error:
            twin.close()
            if process.gone:
                self._abandon(error)
            raise
        except BaseException:
            twin.close()
            self._abandon(None)
            raise
        return twin

    def _call(self, code: str, wall_s: float) -> Conversation[Execution]:
        self._usable()
        self._busy = True
        process, notice = self._process, ""
        try:
            if process is not None and process.died():
                self._ended = _ending(Reply(), process)[1] + " between two calls"
                process.close()
                process = self._process = None
            if process is None:
                process = yield from self._fresh()
                notice = f"[sandbox] a fresh interpreter: the last one {self._ended}\n"
            yield from process.renew_cpu()
            process.calls += 1
            request = wire.packets({"id": process.calls, "code": code})
            reply = yield from process.exchange(request, process.calls, wall_s)
        except SandboxError as error:
            self._abandon(error)
            raise
        except BaseException:
            self._abandon(None)
            raise
        finally:
            self._busy = False
        return self._judge(process, reply, notice)

    def _abandon(self, error: SandboxError | None) -> None:
        """A call that did not come back leaves an interpreter in an unknown state."""
        self._ended = "was in a call that was interrupted"
        if error is not None:
            self._lost = self._lost or f"the sandbox was lost: {error}"
        if self._process is not None:
            self._process.close()
            self._process = None

    def _judge(self, process: Process, reply: Reply, notice: str) -> Execution:
        """The verdict, from how the process ended as seen by host and server."""
        answer = reply.answer or {}
        used = _number(answer.get("cpu"))
        if process.gone or reply.killed:
            status, why = _ending(reply, process)
            self._ended = why
            notice += f"[sandbox] the interpreter {why}\n"
            used = max(used, _number((process.exit or {}).get("cpu")))
            process.close()
            self._process = None
        else:
            failed = answer.get("error")
            status = Status.ERROR if failed else Status.OK
            status = Status.MEMORY if failed == "MemoryError" else status
        cpu, process.cpu_used = max(0.0, used - process.cpu_used), used
        limit = process.limits.output_bytes
        half = limit // 2
        out, cut_out = _keep(reply.out, max(half, limit - len(reply.err)))
        err, cut_err = _keep(reply.err, max(half, limit - len(reply.out)))
        value = answer.get("value")
        return Execution(
            stdout=out,
            stderr=err + notice if not err or err.endswith("\n") else f"{err}\n{notice}".rstrip(),
            value=_text(value[: 2 * limit]) if isinstance(value, str) else None,
            status=status,
            duration_s=reply.seconds,
            cpu_s=cpu,
            truncated=cut_out or cut_err,
        )


def _refusal(reply: Reply) -> str:
    if reply.answer is not None:
        return _text(str(reply.answer.get("error")))
    return f"it did not answer within {wire.FORK_S:g} s" if reply.killed else "it ended"


def _clock(wall_s: float) -> float:
    if not 0 < wall_s < float("inf"):
        raise ValueError(f"wall_s must be positive and finite seconds, got {wall_s}")
    return wall_s


def _text(text: str) -> str:
    """Text that can be encoded: a lone surrogate, which JSON can carry, becomes '?'."""
    return text.encode("utf-8", "replace").decode()


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e9 else 0.0


def _keep(data: bytearray, limit: int) -> tuple[str, bool]:
    """Head and tail of raw output as text, and whether anything was cut."""
    if len(data) <= limit:
        return data.decode("utf-8", "replace"), False
    head, tail = data[: limit // 2], data[-(limit // 2) :]
    mark = f"\n... [{len(data) - len(head) - len(tail)} bytes cut] ...\n"
    return head.decode("utf-8", "replace") + mark + tail.decode("utf-8", "replace"), True


def _ending(reply: Reply, process: Process) -> tuple[Status, str]:
    """Status and a phrase for a process that is no more."""
    end, limits = process.exit or {}, process.limits
    if reply.killed == "output":
        return Status.OUTPUT, f"was killed after writing {limits.output_kill_bytes} bytes"
    if reply.killed == "timeout":
        return Status.TIMEOUT, "was killed at the wall-clock limit"
    if end.get("reason") == "cpu":
        return Status.TIMEOUT, f"was killed at its CPU limit of {limits.cpu_s:g} s"
    if reply.killed:
        return Status.CRASHED, "was killed because it broke the protocol"
    code = end.get("status")
    if not isinstance(code, int):
        return Status.CRASHED, "ended"
    if code >= 0:
        return Status.CRASHED, f"exited with code {code}"
    if -code == signal.SIGKILL and _number(end.get("rss")) > 0.9 * limits.memory_bytes:
        return Status.MEMORY, "was killed for its memory"
    return Status.CRASHED, f"was killed by signal {signal.Signals(-code).name}"
