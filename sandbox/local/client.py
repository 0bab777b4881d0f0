"""`LocalSandbox`: starts the fork server and opens sessions in it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..base import Sandbox, Session
from ..types import Limits, SandboxError, Stats
from . import cgroup, kernel, wire
from .config import PRELOAD, Config
from .counters import Counters
from .gate import Gate
from .keeper import GONE_S
from .process import START_S, Process
from .profiles import PROFILES
from .scratch import remove_tree
from .session import LocalSession
from .waiting import adrive, drive

END_S = 10.0  # for a server to end; it takes some 20 ms
# Only names of this folder are importable in the server, as a package with another name.
_BOOT = """
import sys, types
package = types.ModuleType("palestra_sandbox")
package.__path__ = [sys.argv[1]]
sys.modules["palestra_sandbox"] = package
from palestra_sandbox.boot import main
main(sys.argv[2])
"""
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")},
}


class _Server:
    """A running fork server: its process and the socket that commands go to."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.owner = os.getpid()
        self.control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setblocking(False)
        # Made by the server only where it cannot have a root of its own.
        token = secrets.token_hex(8)
        scratch, group = f"{tempfile.gettempdir()}/palestra-{token}", cgroup.own_name(token)
        own = {"host": self.owner, "scratch": scratch, "group": group}
        self.control.send(json.dumps({**config, **own}).encode())
        flags = ("-s", "-S", "-P", "-B", "-X", "utf8")
        here = str(Path(__file__).parent)
        with far:
            self.popen = subprocess.Popen(
                [sys.executable, *flags, "-c", _BOOT, here, str(far.fileno())],
                env=_ENVIRONMENT,
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        self._lock = threading.Lock()
        self._hello: dict[str, Any] = {}
        self._finalizer = weakref.finalize(
            self, _end, self.popen, self.control, self.owner, scratch, group
        )

    def hello(self, wait_s: float) -> dict[str, Any]:
        """The server's report on itself, empty if it has not come within `wait_s` seconds."""
        with self._lock:
            if not self._hello:
                poller = select.poll()
                poller.register(self.control, select.POLLIN)
                poller.poll(wait_s * 1000)
                # A reset comes first where it died with commands unread; its words follow.
                for _ in range(2):
                    with contextlib.suppress(OSError, ValueError):
                        self._hello = self._hello or wire.parse(self.control.recv(1 << 16))
            return self._hello

    def alive(self) -> bool:
        """Whether it still runs, as far as can be seen without waiting."""
        return self.popen.poll() is None

    def close(self) -> None:
        """Kill it, and every session with it."""
        self._finalizer()


def _end(
    popen: subprocess.Popen[bytes], control: socket.socket, owner: int, scratch: str, group: str
) -> None:
    control.close()
    if owner != os.getpid():
        return
    if popen.poll() is None:
        popen.terminate()  # to the keeper: it ends everything and cleans up
        _await(popen)
    popen.kill()
    popen.wait()
    # Nothing is left where the keeper could do so.
    remove_tree(scratch, wait_s=GONE_S)
    cgroup.remove(group, wait_s=GONE_S)


def _await(popen: subprocess.Popen[bytes]) -> None:
    """Until a process has ended, or it should have."""
    handle = kernel.pidfd_open(popen.pid)
    if handle < 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            popen.wait(END_S)
        return
    ended = select.poll()
    ended.register(handle, select.POLLIN)
    ended.poll(END_S * 1000)
    os.close(handle)


class LocalSandbox(Sandbox):
    """Sandboxes Python in processes forked from one warm server on this machine.

    Args:
        preload: modules imported before any session is made; those not installed are skipped.
        limits: what a session gets when `open` is given no limits.
        require: layers that must be there, any of `LAYERS`; without one of them no session
            opens (SandboxError). By default the strongest walls there are, see `tier`.
        max_running: programs running at once; further calls queue before their clock starts.
            Twice the number of usable cores by default.
        ready: sessions made before anybody asks, for the limits most recently asked for, so
            that opening one costs no fork; 0 for none. By default twice the number of usable
            cores, at most 16.
        total_memory_bytes: for all sessions of a server together, where there is the layer
            `cgroup`; a session that is killed for it ends with `Status.MEMORY`. By default three
            quarters of what this process may have.
        profile: `compute`, or `process`, where programs may make processes and run the Python
            interpreter (`sys.executable`); such sessions cannot be forked, and what processes
            they leave behind stands still between calls.
        extra_calls: names of system calls that programs may make beyond those of the profile.
    """

    def __init__(
        self,
        preload: tuple[str, ...] = PRELOAD,
        *,
        limits: Limits | None = None,
        require: tuple[str, ...] = (),
        max_running: int | None = None,
        ready: int | None = None,
        total_memory_bytes: int | None = None,
        profile: str = "compute",
        extra_calls: tuple[str, ...] = (),
    ) -> None:
        self.config = Config(
            preload=tuple(preload),
            limits=limits or Limits(),
            require=tuple(require),
            max_running=max_running,
            ready=ready,
            total_memory_bytes=total_memory_bytes,
            profile=profile,
            extra_calls=tuple(extra_calls),
        )
        self.gate = Gate(max_running or 2 * len(os.sched_getaffinity(0)))
        self.counters = Counters()
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._sids = itertools.count(1)
        self._closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.config,)

    async def aopen(
        self, limits: Limits | None = None, *, seed: int = 0, rollback: bool = False
    ) -> Session:
        return await adrive(self._new(limits, seed, rollback).start())

    def open(
        self, limits: Limits | None = None, *, seed: int = 0, rollback: bool = False
    ) -> Session:
        return drive(self._new(limits, seed, rollback).start())

    def _new(self, limits: Limits | None, seed: int, rollback: bool) -> LocalSession:
        return LocalSession(self, limits or self.config.limits, seed, rollback=rollback)

    def close(self) -> None:
        self._closed = True
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.close()

    def __del__(self) -> None:
        if hasattr(self, "_server"):
            self.close()

    @property
    def server_pid(self) -> int:
        """Process id of the fork server, started if need be. Killing it ends every session."""
        return self._running().popen.pid

    @property
    def missing(self) -> dict[str, str]:
        """Layers that this machine does not give, with the reason; empty at full strength.

        Starts the server if need be. Raises SandboxError when it cannot start.
        """
        report = self._running().hello(START_S)
        missing = report.get("missing")
        if not isinstance(missing, dict):
            raise SandboxError(f"the fork server did not start: {report.get('error', 'no answer')}")
        return {str(layer): str(why) for layer, why in missing.items()}

    @property
    def tier(self) -> str:
        """How strong the walls are here: native, landlock, seccomp or unsafe (see README)."""
        missing = self.missing
        if "seccomp" in missing:
            return "unsafe"
        if missing.keys() & {"user", "pid", "net", "fs"}:
            return "seccomp" if "landlock" in missing else "landlock"
        return "native"

    def stats(self) -> Stats:
        """What was done so far, in this process."""
        return self.counters.stats()

    def _running(self) -> _Server:
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox was closed")
            server = self._server
            if server is None or server.owner != os.getpid() or not server.alive():
                server = self._server = _Server(self.config.for_server())
            return server

    def new_process(self, limits: Limits) -> Process:
        """The host's end of a process that the server has yet to make."""
        processes = PROFILES[self.config.profile].processes
        return Process(next(self._sids), limits, self._running().control, processes=processes)

    def explain(self, error: SandboxError) -> SandboxError:
        """`error`, with the server's own account where it failed to start."""
        server = self._server
        if server is not None:
            report = server.hello(0)
            if "error" in report:
                return SandboxError(f"the fork server did not start: {report['error']}")
        return error


def _rebuild(config: Config) -> LocalSandbox:
    return LocalSandbox(**{one.name: getattr(config, one.name) for one in fields(config)})


_shared: weakref.ref[LocalSandbox] | None = None
_shared_lock = threading.Lock()


def shared_sandbox() -> LocalSandbox:
    """The process-wide default sandbox, kept while anybody holds it."""
    global _shared
    with _shared_lock:
        sandbox = _shared() if _shared is not None else None
        if sandbox is None or sandbox._closed:
            sandbox = LocalSandbox()
            _shared = weakref.ref(sandbox)
        return sandbox
