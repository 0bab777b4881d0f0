"""What a sandbox is asked for and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may use. Times in seconds, sizes in bytes.

    `wall_s` and `cpu_s` hold per call; the rest for the life of the session. `output_bytes`
    is what is kept of stdout and stderr together (head and tail); a program that writes
    `output_kill_bytes` is stopped.
    """

    wall_s: float = 10.0
    cpu_s: float = 10.0
    memory_bytes: int = 2 << 30
    tasks: int = 64
    output_bytes: int = 64 << 10
    output_kill_bytes: int = 1 << 20
    file_bytes: int = 64 << 20
    tmp_bytes: int = 64 << 20
    tmp_inodes: int = 4096
    descriptors: int = 256

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"limit {name} must be positive, got {getattr(self, name)}")

    @classmethod
    def of(cls, given: Limits | Mapping[str, float] | None) -> Limits:
        """Limits as they are, or from a mapping (a recipe's table), or the defaults.

        Raises:
            ValueError: the mapping has another key than the limits' names; they are told.
        """
        if isinstance(given, Limits):
            return given
        values: dict[str, Any] = dict(given or {})
        if unknown := set(values) - set(cls.__slots__):
            raise ValueError(f"no limits {sorted(unknown)}; there are {', '.join(cls.__slots__)}")
        return cls(**values)


class Status(StrEnum):
    """How an execution ended, as seen from outside by the supervisor."""

    OK = "ok"  # ran to its end
    ERROR = "error"  # raised an exception (its traceback is in stderr)
    TIMEOUT = "timeout"  # stopped at the wall-clock or CPU limit
    MEMORY = "memory"  # stopped at the memory limit
    OUTPUT = "output"  # stopped at the output limit
    CRASHED = "crashed"  # exited or was killed by a signal of its own making


@dataclass(frozen=True, slots=True)
class Execution:
    """The result of one call.

    Attributes:
        stdout, stderr: what was written, decoded with replacement, cut to the limit.
        value: repr of the last expression, as notebooks echo it; None if there was none.
        status: decided by the supervisor, never by what the program says of itself.
        duration_s, cpu_s: wall clock as seen from outside; CPU time of the process.
        truncated: whether output was cut.
        queue_s: how long the call waited for its turn before its clock started.
    """

    stdout: str
    stderr: str
    value: str | None
    status: Status
    duration_s: float
    cpu_s: float = 0.0
    truncated: bool = False
    queue_s: float = 0.0

    @property
    def ok(self) -> bool:
        return self.status is Status.OK


@dataclass(frozen=True, slots=True)
class Stats:
    """What a sandbox has done so far.

    Attributes:
        opened, forked: sessions made by `open` and by `fork`.
        open: sessions not closed yet.
        calls: executions returned.
        queue_s, run_s: seconds that these waited for their turn, and ran.
        by_status: executions by `Status`.
        kills: interpreters killed, by cause: wall, cpu, output, memory, protocol, interrupted
            (a call that was cancelled).
        lost: sessions lost with their sandbox (`SandboxError`).
    """

    opened: int = 0
    forked: int = 0
    open: int = 0
    calls: int = 0
    queue_s: float = 0.0
    run_s: float = 0.0
    by_status: Mapping[Status, int] = field(default_factory=dict)
    kills: Mapping[str, int] = field(default_factory=dict)
    lost: int = 0


class SandboxError(RuntimeError):
    """The sandbox itself failed or was lost: infrastructure, never the program's fault.

    A rollout that meets it ends `invalid`.
    """


class ProgramFault(RuntimeError):
    """What was asked of a session failed by what its program had done: it works in a fresh one.

    No infrastructure failed, so that a program cannot void its episode in this way: a rollout
    that meets it ends with nothing.
    """
