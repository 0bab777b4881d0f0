"""Run graders that may hang in worker processes, under limits that always hold.

A worker is a clean interpreter started by exec, so it is safe beside threads, asyncio and
torch. Per request it arms a CPU timer on itself; the kernel ends it when the time is used
up, the pool reports a timeout and starts another. A wall-clock limit, far longer, tells a
starved or broken machine (infrastructure) from a hard expression (the answer's fault).
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_SCRIPT = Path(__file__).with_name("_verifier_worker.py")
START_S = 180.0  # starting an interpreter and importing sympy, on a very busy machine


class VerifierError(RuntimeError):
    """The verifier's process could not be started or was lost: infrastructure, no verdict."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a grader came to. `failed`: it raised on this input; `timeout`: it was cut off."""

    status: Literal["ok", "failed", "timeout"]
    value: Any = None
    message: str = ""


class _Lost(Exception):
    """The worker's pipe closed; `timed_out` when its own CPU timer ended it."""

    def __init__(self, message: str, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class _Worker:
    """One process. Used by one thread at a time."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._loaded: set[str] = set()
        self._buffer = b""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise VerifierError(f"cannot start a verifier process: {error}") from error
        path = [str(Path(entry).absolute()) for entry in sys.path if entry]
        self._write({"path": path})

    def load(self, kind: str) -> None:
        """Import what `kind` needs, before any clock runs."""
        if kind in self._loaded:
            return
        reply = self._exchange({"kind": kind, "load": True}, START_S)
        if "broken" in reply:
            raise VerifierError(f"the verifier {kind!r} cannot be loaded: {reply['broken']}")
        self._loaded.add(kind)

    def ask(self, kind: str, payload: Mapping[str, Any], cpu_s: float, wall_s: float) -> Verdict:
        reply = self._exchange({**payload, "kind": kind, "cpu_s": cpu_s}, wall_s)
        if "failed" in reply:
            return Verdict("failed", message=reply["failed"])
        return Verdict("ok", reply["value"])

    def _exchange(self, request: Mapping[str, Any], wall_s: float) -> dict[str, Any]:
        self._write(request)
        reply: dict[str, Any] = json.loads(self._read_line(time.monotonic() + wall_s))
        return reply

    def _write(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        view = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while view:
                view = view[self._process.stdin.write(view) :]
        except OSError as error:
            raise self._lost() from error

    def _read_line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise _Lost("no answer within the wall-clock limit: the machine is overloaded")
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise self._lost()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _lost(self) -> _Lost:
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return _Lost("the verifier process closed its pipe")
        return _Lost(f"the verifier process ended with code {code}", code == -signal.SIGPROF)

    def close(self) -> None:
        if os.getpid() != self._owner:
            return  # a fork's inherited copy: the process belongs to the parent
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class VerifierPool:
    """`workers` processes, started on first use; any thread may ask.

    `cpu_s` is what one request may use; `wall_s` is when the pool gives a worker up.
    """

    def __init__(self, workers: int = 1, *, cpu_s: float = 3.0, wall_s: float = 120.0) -> None:
        if workers < 1:
            raise ValueError(f"a verifier pool needs at least one worker, got {workers}")
        if not 0 < cpu_s < wall_s:
            raise ValueError(f"need 0 < cpu_s < wall_s, got cpu_s={cpu_s} and wall_s={wall_s}")
        self.workers, self.cpu_s, self.wall_s = workers, cpu_s, wall_s
        self._guard = threading.Lock()
        self._open()

    def _open(self) -> None:
        self._owner = os.getpid()
        self._slots: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._slots.put(None)
        self._threads: ThreadPoolExecutor | None = None
        weakref.finalize(self, _close_idle, self._slots)  # also runs at interpreter exit

    def __getstate__(self) -> dict[str, Any]:
        return {"workers": self.workers, "cpu_s": self.cpu_s, "wall_s": self.wall_s}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def ask(self, kind: str, payload: Mapping[str, Any], *, cpu_s: float | None = None) -> Verdict:
        """Put one request (JSON values) to a worker and wait for its verdict.

        Raises:
            VerifierError: no worker could be started, or two in a row were lost.
        """
        limit = self.cpu_s if cpu_s is None else cpu_s
        if os.getpid() != self._owner:
            self._open()  # a forked copy must not talk over its parent's pipes
        slots = self._slots
        worker = slots.get()
        try:
            for last_try in (False, True):
                try:
                    worker = worker or _Worker()
                    worker.load(kind)
                    return worker.ask(kind, payload, limit, self.wall_s)
                except _Lost as lost:
                    assert worker is not None
                    worker.close()
                    worker = None
                    if lost.timed_out:
                        return Verdict("timeout", message=f"used up {limit} s of CPU time")
                    if last_try:
                        raise VerifierError(f"verifier {kind!r}: {lost}") from lost
        except BaseException:
            if worker is not None:  # interrupted: its late answer must not meet a later question
                worker.close()
                worker = None
            raise
        finally:
            slots.put(worker)
        raise AssertionError("unreachable: the second try returns or raises")

    async def aask(
        self, kind: str, payload: Mapping[str, Any], *, cpu_s: float | None = None
    ) -> Verdict:
        """`ask` without blocking the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self.threads, lambda: self.ask(kind, payload, cpu_s=cpu_s)
        )

    @property
    def threads(self) -> ThreadPoolExecutor:
        """One thread per worker: own threads, so that others' blocking calls never queue us."""
        with self._guard:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.workers, "palestra-verifier")
            return self._threads

    def close(self) -> None:
        """End the processes that are idle. Idempotent; a later `ask` starts new ones."""
        for _ in range(_close_idle(self._slots)):
            self._slots.put(None)


def _close_idle(slots: queue.LifoQueue[_Worker | None]) -> int:
    """Take every free slot, ending its worker; the number of slots taken."""
    taken = 0
    while True:
        try:
            worker = slots.get_nowait()
        except queue.Empty:
            return taken
        taken += 1
        if worker is not None:
            worker.close()


_default: VerifierPool | None = None
_default_guard = threading.Lock()


def default_pool() -> VerifierPool:
    """The pool that graders share when none is given: two workers at most."""
    global _default
    with _default_guard:
        if _default is None:
            _default = VerifierPool(workers=min(2, os.cpu_count() or 1))
        return _default
