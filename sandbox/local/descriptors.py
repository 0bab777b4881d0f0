"""What the host does with bare descriptors: socket pairs, hang-ups, process descriptors."""

from __future__ import annotations

import errno
import resource
import select
import socket
import time
from contextlib import suppress
from pathlib import Path

from ..types import SandboxError


def pair(kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
    """A unix socket pair. A session takes four descriptors of the host's: where they run out
    and the hard limit allows, the soft limit is raised to it."""
    try:
        return socket.socketpair(socket.AF_UNIX, kind)
    except OSError as error:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if error.errno != errno.EMFILE or soft == hard:
            raise SandboxError(f"no sockets for a session: {error} (see `ulimit -n`)") from error
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return pair(kind)


def hung_up(end: socket.socket) -> bool:
    """Whether nobody holds the other end any more."""
    if end.fileno() < 0:
        return True
    poller = select.poll()
    poller.register(end, 0)
    return bool(poller.poll(0))


def process_id(handle: int) -> int:
    """Of a process by its descriptor, as it is in our namespace; 0 where it has none there."""
    with suppress(OSError, ValueError):
        about = Path(f"/proc/self/fdinfo/{handle}").read_text()
        return max(0, int(about.partition("Pid:")[2].partition("\n")[0]))
    return 0


def cpu_seconds(pid: int) -> float:
    """CPU time of a living process; 0 where it cannot be told."""
    with suppress(OSError):
        if pid > 0:
            return time.clock_gettime((~pid << 3) | 2)  # its CPU clock, as the kernel names it
    return 0.0
