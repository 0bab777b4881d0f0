"""System calls that Python does not wrap, through ctypes. x86-64 and aarch64 Linux."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
syscall = libc.syscall
syscall.restype = ctypes.c_long
_python = ctypes.PyDLL(None, use_errno=True)  # its calls keep the interpreter's lock
_python.syscall.restype = ctypes.c_long
libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]

_X86 = platform.machine() == "x86_64"
SYS_PIVOT_ROOT = 155 if _X86 else 41
SYS_CAPSET = 126 if _X86 else 91
SYS_CLOSE_RANGE = 436
SYS_CLONE = 56 if _X86 else 220

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_PARENT, CLONE_IDS = 0x8000, 0x01200000  # IDS: keep the thread id at an address

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 1, 4, 38, 36
PR_GET_TID_ADDRESS = 40
CAP_SYS_ADMIN = 21


def check(result: int, what: str) -> int:
    """`result`, or OSError with the thread's errno when it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def pidfd_open(pid: int) -> int:
    """A process descriptor, or -1 on a kernel without them (gVisor); raises OSError."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return -1


def prctl(option: int, value: int = 0) -> int:
    """prctl(2) with one argument; raises OSError."""
    return check(libc.prctl(option, value, 0, 0, 0), f"prctl({option})")


def unshare(flags: int) -> None:
    """unshare(2); raises OSError."""
    check(libc.unshare(flags), f"unshare({flags:#x})")


def setns(descriptor: int, kind: int) -> None:
    """setns(2); raises OSError."""
    check(libc.setns(descriptor, kind), f"setns({kind:#x})")


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2); raises OSError."""
    data: Any = options.encode() if options else None
    code = libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data)
    check(code, f"mount {kind or 'bind'} {source} on {target}")


def umount(target: str) -> None:
    """Detach a mount (MNT_DETACH); raises OSError."""
    check(libc.umount2(target.encode(), 2), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2); raises OSError."""
    check(syscall(SYS_PIVOT_ROOT, new.encode(), old.encode()), "pivot_root")


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [(f, ctypes.c_uint32) for f in ("effective", "permitted", "inheritable")]


def capabilities(*, effective: int, permitted: int) -> Callable[[], None]:
    """What gives a thread these capability sets, two 64-bit masks, when called; raises OSError.

    Made before a process is forked that will call it: making it takes ten times as much.
    """
    halves = [((effective >> s) & 0xFFFFFFFF, (permitted >> s) & 0xFFFFFFFF, 0) for s in (0, 32)]
    header = _CapHeader(0x20080522, 0)
    data = (_CapData * 2)(*(_CapData(*half) for half in halves))
    where = ctypes.byref(header)

    def give() -> None:
        check(syscall(SYS_CAPSET, where, data), "capset")

    return give


def thread_id_address() -> int:
    """Where glibc keeps this thread's id, for `fork_beside`; 0 where that cannot be told."""
    found = ctypes.c_void_p()
    with suppress(OSError, ValueError):  # ValueError: another C library
        if os.confstr("CS_GNU_LIBC_VERSION"):
            prctl(PR_GET_TID_ADDRESS, ctypes.addressof(found))
    return found.value or 0


def fork() -> int:
    """fork(2) of a process with one thread, without Python's part in it; raises OSError.

    Python's part (`os.fork`) puts right what other threads held or did and seeds `random`. Here
    are no other threads, and a session's seed comes from the host. It would touch 150 pages, each
    of which the kernel had to copy for every session.
    """
    return check(_python.fork(), "fork")


def fork_beside(id_address: int) -> int:
    """fork(2) into a child of our own parent's, without Python's part in it (see `fork`).

    The C library takes no part either. The caller must be the process' only thread.

    Raises:
        OSError: the kernel refuses, or there is no `id_address` (see `thread_id_address`).
    """
    if not id_address:
        raise OSError(errno.ENOSYS, "where the C library keeps thread ids is not known")
    where, zero = ctypes.c_void_p(id_address), ctypes.c_long(0)
    last = (where, zero) if _X86 else (zero, where)  # the two machines' orders
    flags = ctypes.c_long(CLONE_PARENT | CLONE_IDS | signal.SIGCHLD)
    return check(int(_python.syscall(SYS_CLONE, flags, zero, zero, *last)), "clone")


def tee(source: int, target: int, size: int) -> int:
    """Copy what waits in one pipe to another, leaving it there; how much. Raises OSError."""
    nonblock = 2
    return check(libc.tee(source, target, ctypes.c_size_t(size), nonblock), "tee")


def close_from(first: int) -> None:
    """Close every descriptor from `first` up."""
    if syscall(SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), 0) < 0:
        os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def only_deaths() -> None:
    """Have SIGCHLD come when a child ends, and not when one is stopped or goes on."""
    # struct sigaction of glibc and musl: handler, 128 bytes of mask, flags, restorer.
    action = ctypes.create_string_buffer(152)
    check(libc.sigaction(signal.SIGCHLD, None, action), "sigaction")
    flags = ctypes.c_int.from_buffer(action, 136)
    flags.value |= 1  # SA_NOCLDSTOP
    check(libc.sigaction(signal.SIGCHLD, action, None), "sigaction")


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used so far, read from its kernel clock; raises OSError."""
    return time.clock_gettime((~pid << 3) | 2)
