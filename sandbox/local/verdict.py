"""From what host and server saw of a call to its `Execution`. No word of the program decides."""

from __future__ import annotations

import signal
from typing import NamedTuple

from ..types import Execution, Status
from .process import Process, Reply


class Ending(NamedTuple):
    """How an interpreter ended. `cause` says who killed it, '' when it ended by itself."""

    status: Status
    cause: str
    phrase: str


def judge(process: Process, reply: Reply, ended: Ending | None, notice: str) -> Execution:
    """The result of one call; `notice` is said at the end of stderr."""
    answer = reply.answer or {}
    if ended is not None:
        status = ended.status
    else:
        failed = answer.get("error")
        status = Status.ERROR if failed else Status.OK
        status = Status.MEMORY if failed == "MemoryError" else status
    used = cpu_used(process, reply)
    cpu, process.cpu_used = max(0.0, used - process.cpu_used), used
    limit = process.limits.output_bytes
    half = limit // 2
    out, cut_out = _keep(reply.out, max(half, limit - len(reply.err)))
    err, cut_err = _keep(reply.err, max(half, limit - len(reply.out)))
    value = answer.get("value")
    return Execution(
        stdout=out,
        stderr=err + notice if not err or err.endswith("\n") else f"{err}\n{notice}".rstrip(),
        value=text(value[: 2 * limit]) if isinstance(value, str) else None,
        status=status,
        duration_s=reply.seconds,
        cpu_s=cpu,
        truncated=cut_out or cut_err,
    )


def cpu_used(process: Process, reply: Reply) -> float:
    """CPU seconds of a process up to the end of an exchange: from outside, where they are known
    there, else the program's word."""
    seen = max(reply.cpu, number((process.exit or {}).get("cpu")))
    return seen or number((reply.answer or {}).get("cpu"))


def ending(reply: Reply, process: Process) -> Ending:
    """What a process that is no more died of."""
    end, limits = process.exit or {}, process.limits
    if reply.killed == "output":
        phrase = f"was killed after writing {limits.output_kill_bytes} bytes"
        return Ending(Status.OUTPUT, "output", phrase)
    if reply.killed == "timeout":
        return Ending(Status.TIMEOUT, "wall", "was killed at the wall-clock limit")
    if end.get("reason") == "cpu":
        phrase = f"was killed at its CPU limit of {limits.cpu_s:g} s"
        return Ending(Status.TIMEOUT, "cpu", phrase)
    if end.get("reason") == "memory":
        phrase = "was killed for memory: all sessions together had reached their limit"
        return Ending(Status.MEMORY, "memory", phrase)
    if end.get("reason") == "restless":
        phrase = "was killed because its processes would not stand still after a call"
        return Ending(Status.CRASHED, "restless", phrase)
    if reply.killed:
        return Ending(Status.CRASHED, "protocol", "was killed because it broke the protocol")
    code = end.get("status")
    if not isinstance(code, int):
        return Ending(Status.CRASHED, "", "ended")
    if code >= 0:
        return Ending(Status.CRASHED, "", f"exited with code {code}")
    if -code == signal.SIGKILL and number(end.get("rss")) > 0.9 * limits.memory_bytes:
        return Ending(Status.MEMORY, "memory", "was killed for its memory")
    return Ending(Status.CRASHED, "", f"was killed by signal {_signal_name(-code)}")


def text(value: str) -> str:
    """Text that can be encoded: a lone surrogate, which JSON can carry, becomes '?'."""
    return value.encode("utf-8", "replace").decode()


def number(value: object) -> float:
    """A figure of sane size, else 0."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e9 else 0.0


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(code).name
    except ValueError:  # real-time signals have numbers only
        return str(code)


def _keep(data: bytearray, limit: int) -> tuple[str, bool]:
    """Head and tail of raw output as text, and whether anything was cut."""
    if len(data) <= limit:
        return data.decode("utf-8", "replace"), False
    head, tail = data[: limit // 2], data[-(limit // 2) :]
    mark = f"\n... [{len(data) - len(head) - len(tail)} bytes cut] ...\n"
    return head.decode("utf-8", "replace") + mark + tail.decode("utf-8", "replace"), True
