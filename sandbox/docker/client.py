"""`DockerSandbox`: keeps containers warm and opens sessions in them."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from typing import Any

from ..base import Sandbox, Session
from ..local.config import PRELOAD
from ..local.counters import Counters
from ..local.gate import Gate
from ..local.waiting import Conversation, Wait, adrive, drive
from ..types import Limits, SandboxError, Stats
from .config import DockerConfig
from .container import Container
from .image import DEFAULT
from .session import DockerSession

START_S = 120.0  # the image may have to be built first
ERRANDS = 16  # opens, forks and files under way at once, so that each is soon done


class DockerSandbox(Sandbox):
    """Sandboxes Python in hardened containers of a Docker daemon.

    In each container runs the server of `LocalSandbox`, so that a session costs a fork there and
    not a container. Containers start at the first use of the sandbox, in the background, and
    one that is lost is replaced. They have no network, a read-only root, no capability, no
    way to gain one, an unprivileged user, nothing of this machine's files, and limits.

    With `namespaces` the containers' own system-call profile lets the server inside make
    namespaces: sessions can fork, have a quota on files and a limit on threads, and see no
    other process. What it costs: a program that broke out of the walls of its session *and* took
    over the server could reach the kernel's code for namespaces. Without it containers have
    Docker's own profile (and AppArmor's, where there is one), the walls inside are those of the
    landlock tier, sessions do not fork, and one session's files and threads can use up the
    container's. The program itself is under the same strict filter in both cases.

    Args:
        image: a local image: one made by `python -m palestra.sandbox.docker build`, or any with
            Python 3.11 or newer, onto which the server is put at the first start.
        limits: what a session gets when `open` is given no limits.
        preload: modules imported before any session is made; those not installed are skipped.
        require: layers inside that must be there, as for `LocalSandbox`.
        max_running: programs running at once; further calls queue here before their clock
            starts. Twice the number of this machine's cores by default.
        ready: sessions that each container makes ahead, as for `LocalSandbox`.
        containers: how many are kept; sessions go to the one that has the fewest.
        runtime: the daemon's name of another runtime, such as "runsc" for gVisor.
        namespaces: see above.
        memory_bytes, pids, tmp_bytes: of one container: all its sessions, processes and threads,
            and its own /tmp together.
        cpus: cores that a container may use, such as 1.5; all by default.
        patience_s: seconds beyond a call's own limit after which a container that does not
            answer is killed.

    Raises:
        ValueError: a limit that is not positive, a layer that is none.
    """

    def __init__(
        self,
        image: str = DEFAULT,
        *,
        limits: Limits | None = None,
        preload: tuple[str, ...] = PRELOAD,
        require: tuple[str, ...] = (),
        max_running: int | None = None,
        ready: int | None = None,
        containers: int = 2,
        runtime: str | None = None,
        namespaces: bool = True,
        memory_bytes: int = 4 << 30,
        cpus: float | None = None,
        pids: int = 4096,
        tmp_bytes: int = 1 << 30,
        patience_s: float = 10.0,
    ) -> None:
        self.config = DockerConfig(
            image=image,
            limits=limits or Limits(),
            preload=tuple(preload),
            require=tuple(require),
            max_running=max_running,
            ready=ready,
            containers=containers,
            runtime=runtime,
            namespaces=namespaces,
            memory_bytes=memory_bytes,
            cpus=cpus,
            pids=pids,
            tmp_bytes=tmp_bytes,
            patience_s=patience_s,
        )
        self.gate = Gate(max_running or 2 * len(os.sched_getaffinity(0)))
        self.errands = Gate(ERRANDS)
        self.counters = Counters()
        self.sids = itertools.count(1)
        self._lock = threading.Lock()
        self._containers: list[Container] = []
        self._closed = False
        self._finalizer = weakref.finalize(self, _end, self._containers)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.config,)

    async def aopen(
        self, limits: Limits | None = None, *, seed: int = 0, rollback: bool = False
    ) -> Session:
        return await adrive(self._open(limits or self.config.limits, seed, rollback))

    def open(
        self, limits: Limits | None = None, *, seed: int = 0, rollback: bool = False
    ) -> Session:
        return drive(self._open(limits or self.config.limits, seed, rollback))

    def close(self) -> None:
        self._closed = True
        self._finalizer()

    async def aclose(self) -> None:
        """`close` in a thread of its own: the daemon takes some tenths of a second."""
        await asyncio.to_thread(self.close)

    @property
    def tier(self) -> str:
        """`docker`, or `docker+runsc` and the like; starts the containers if need be.

        What holds inside a container is told by `missing`.
        """
        drive(self._ready())
        runtime = self.config.runtime
        return "docker" if runtime in (None, "runc") else f"docker+{runtime}"

    @property
    def missing(self) -> dict[str, str]:
        """Layers that sessions do not have inside the container, with the reason."""
        return drive(self._ready()).missing

    @property
    def container_ids(self) -> list[str]:
        """Of the containers that answer. Killing one ends its sessions; another takes its place."""
        return [one.id for one in self._running() if one.ready]

    def stats(self) -> Stats:
        """What was done so far, in this process."""
        return self.counters.stats()

    def _open(self, limits: Limits, seed: int, rollback: bool) -> Conversation[DockerSession]:
        container = yield from self._ready()
        session = DockerSession(self, container, limits, rollback=rollback)
        try:
            yield from session.start(seed)
        except SandboxError:
            if not container.link.lost:
                raise
            # Nobody has heard of the session yet: another container will do as well, once.
            session = DockerSession(self, (yield from self._ready()), limits, rollback=rollback)
            yield from session.start(seed)
        return session

    def _ready(self) -> Conversation[Container]:
        """The container that answers and has the fewest sessions."""
        until = time.monotonic() + START_S
        containers = self._running()
        while True:
            ready = [container for container in containers if container.ready]
            if ready:
                return min(ready, key=lambda container: container.sessions)
            hopeful = [c for c in containers if not c.link.lost]
            if not hopeful:
                raise SandboxError(f"no container: {containers[0].link.lost}")
            if time.monotonic() >= until:
                raise SandboxError(f"no container answered within {START_S:g} s")
            # By the clock: a loop tells one waiter of a descriptor only, and here many may wait.
            yield Wait((), min(until, time.monotonic() + 0.02))

    def _running(self) -> list[Container]:
        """The containers of this process; those that are lost or were never there are started."""
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox was closed")
            own = [c for c in self._containers if c.here and not c.link.lost]
            replace = _replacer(self)
            while len(own) < self.config.containers:
                own.append(Container(self.config, replace))
            self._containers[:] = own
            return own


def _replacer(sandbox: DockerSandbox) -> Callable[[Container], None]:
    """What to do when a container has ended, without keeping its sandbox alive."""
    reference = weakref.ref(sandbox)

    def replace(container: Container) -> None:
        sandbox = reference()
        # One that never did any work would only fail again; the next `open` tries that.
        if sandbox is not None and container.used:
            with suppress(SandboxError):  # it was closed
                sandbox._running()

    return replace


def _end(containers: list[Container]) -> None:
    own = [container for container in containers if container.here]
    containers.clear()
    for container in own:
        container.link.fail("the sandbox was closed")
    for container in own:
        container.end("the sandbox was closed")


def _rebuild(config: DockerConfig) -> DockerSandbox:
    return DockerSandbox(**{one.name: getattr(config, one.name) for one in fields(config)})
