"""What a forked process does to become a session."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import fcntl
import gc
import os
import signal
import socket
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from . import child, kernel
from .lockin import LockIn

# What `signal` wraps, and plain numbers: its enumerations touch 80 pages, copied for each session.
_SIGCHLD, _SIGKILL = int(signal.SIGCHLD), int(signal.SIGKILL)
UPLINK = 4  # where the listener is sent from, closed by `LockIn.confine`


def become_session(
    lock_in: LockIn, limits: dict[str, Any], uplink: int, handles: Sequence[int]
) -> NoReturn:
    """Lock in the calling process and serve as a session.

    `handles` are its socket, stdout and stderr; without them it is a spare, which waits in a
    suspended call until the server has put them in place.
    """
    try:
        ruleset = _settle_in(uplink, handles, lock_in.ruleset)
        # Nobody waits for what a program cannot make; where it can, it does so itself.
        _signal.signal(_SIGCHLD, _signal.SIG_DFL if lock_in.processes else _signal.SIG_IGN)
        lock_in.confine(limits, socket.socket(fileno=UPLINK), ruleset)
        if not handles:
            child.rehearse(limits["output_bytes"])
            kernel.unshare(0)
        gc.enable()
    except BaseException:  # noqa: BLE001 - reported through the exit code and stderr
        os.write(2, traceback.format_exc().encode())
        os._exit(child.EXIT_SETUP)
    child.serve(limits["output_bytes"])


def _settle_in(uplink: int, handles: Sequence[int], ruleset: int) -> int:
    """Signals as a program expects them, descriptors 0 to 4 and the ruleset, which is returned."""
    _signal.set_wakeup_fd(-1)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, _SIGKILL)
    # Only spares write there, and gVisor has none: its devices in the private root are read-only.
    own, out, err = handles or [os.open("/dev/null", os.O_RDWR)] * 3
    null = os.open("/dev/null", os.O_RDONLY)
    wanted = [null, out, err, own, uplink, *([ruleset] if ruleset >= 0 else [])]
    # Move everything out of the way before putting it in its place.
    for target, source in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD, 16) for fd in wanted]):
        os.dup2(source, target)
    kernel.close_from(len(wanted))
    return UPLINK + 1 if ruleset >= 0 else -1
