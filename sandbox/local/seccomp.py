"""The system-call filter: classic BPF bytes built from a profile.

Calls that the profile does not list answer EPERM; calls with a dangerous corner are filtered by
argument. Two programs are installed: the first routes a few calls to the server for a decision
(seccomp user notification), the second is the allow-list. The stricter verdict of the two wins.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import signal
import struct
from dataclasses import dataclass

from . import calls
from .kernel import check, syscall
from .profiles import Profile

ALLOW, KILL = 0x7FFF0000, 0x80000000
NOTIFY = 0x7FC00000


def ERRNO(number: int) -> int:
    """The verdict 'answer with this error number'."""
    return 0x00050000 | number


@dataclass(frozen=True)
class Machine:
    """One architecture: its audit number and its table of calls."""

    audit: int
    calls: dict[str, int]
    x32: bool = False


MACHINES = {
    "x86_64": Machine(0xC000003E, calls.X86_64, x32=True),
    "aarch64": Machine(0xC00000B7, calls.AARCH64),
}

CLONE_FILES, CLONE_THREAD = 0x00000400, 0x00010000
_MAP_SHARED = 1
# Every CLONE_NEW flag, and CLONE_PARENT, by which a process would have a sibling.
_CLONE_REFUSED = 0x7E028000
# fcntl: duplicates, descriptor flags, status flags. Not F_SETOWN or F_SETSIG: with O_ASYNC they
# send a signal of choice to a process of choice. Not F_GETPIPE_SZ: a user's pipes get smaller
# when there are many of them.
_FCNTL = (0, 1, 2, 3, 4, 1030)
# F_SETLK and F_SETLKW are answered with success and nothing is done: a record lock on a device or
# a file that all sessions see would be a message, and all of them memory that no limit counts.
# A session is the only one to use its files. Not F_GETLK, which would tell of the others.
_RECORD_LOCKS = (6, 7)
# Of negative clocks (the CPU clocks of a process or thread by its id) those of id 0, the caller.
_OTHERS_CLOCKS, _OWN_CLOCKS = 0x80000000, 0xFFFFFFF8
_CLOCKS = ("clock_gettime", "clock_getres", "clock_nanosleep")
# futex, with FUTEX_PRIVATE_FLAG (128) and FUTEX_CLOCK_REALTIME (256): to wait, and to wake (1, 3,
# 4, 5, 10) one's own threads. To wake whoever waits on a page of a file would be a message; the
# operations with priority (6, 7, 8, 11, 12, 13) tell which threads there are.
_FUTEX = (128, 129, 137, 393, 0, 9, 265, 131, 132, 133, 138, 256, 384)
# ioctl: TCGETS and TIOCGWINSZ (isatty, terminal size), FIONREAD, FIONBIO, FIOCLEX, FIONCLEX.
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_RENAME = (0, 1, 2)  # renameat2: not to replace, to exchange; not RENAME_WHITEOUT, a device
# Landlock does not know of them, and a descriptor to read from is enough for the last two.
_ATTRIBUTES = ("chmod", "fchmodat", "fchmod", "utimensat")
_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH, _ARG0 = 0, 4, 16


def _op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, k)


def _arg(index: int, high: bool = False) -> bytes:
    return _op(_LD, _ARG0 + 8 * index + 4 * high)


def _on_call(number: int, body: list[bytes]) -> list[bytes]:
    """`body`, which ends in a verdict on every path, for one call number."""
    return [_op(_JEQ, number, 0, len(body)), *body]


def _one_of(index: int, values: tuple[int, ...], otherwise: int) -> list[bytes]:
    """Allow when the low half of an argument (an unsigned int) is in `values`."""
    tests = [_op(_JEQ, v, len(values) - i, 0) for i, v in enumerate(values)]
    return [_arg(index), *tests, _op(_RET, otherwise), _op(_RET, ALLOW)]


def _prologue(machine: Machine) -> list[bytes]:
    """Kill foreign architectures, and x32 calls where they exist; then load the call."""
    code = [_op(_LD, _ARCH), _op(_JEQ, machine.audit, 1, 0), _op(_RET, KILL), _op(_LD, _NR)]
    if machine.x32:
        code += [_op(_JGE, 0x40000000, 0, 1), _op(_RET, KILL)]
    return code


def allow_list(machine: Machine, profile: Profile, *, supervised: bool) -> bytes:
    """The strict program. Without supervision, what would be supervised is refused outright; so
    are modes and times of files, since then there may be no root of its own either."""
    perm, allow = [_op(_RET, ERRNO(errno.EPERM))], [_op(_RET, ALLOW)]
    rules = _rules(profile)
    if not supervised:
        thread = [_arg(0), _op(_JSET, CLONE_THREAD, 1, 0), *perm, *_whole_thread(), *allow]
        rules |= dict.fromkeys((*profile.supervised, *_ATTRIBUTES), perm)
        rules |= {"clone": thread, "pipe2": allow}
    code = _prologue(machine)
    for name in sorted(profile.calls & machine.calls.keys()):
        code += _on_call(machine.calls[name], rules.get(name, allow))
    return b"".join([*code, *perm])


def _whole_thread() -> list[bytes]:
    """With the flags of a clone at hand: refuse a thread that has not its process' descriptors.

    Each table of descriptors is held to the limit by itself.
    """
    refused = _op(_RET, ERRNO(errno.EPERM))
    return [_op(_JSET, CLONE_THREAD, 0, 2), _op(_JSET, CLONE_FILES, 1, 0), refused]


def _rules(profile: Profile) -> dict[str, list[bytes]]:
    """Calls that are decided by their arguments, or answered in another way."""
    perm = ERRNO(errno.EPERM)
    zero = [_op(_JEQ, 0, 1, 0), _op(_RET, perm)]
    rules = {
        "clone3": [_op(_RET, ERRNO(errno.ENOSYS))],  # flags lie in memory: libc falls back
        "close_range": _one_of(2, (0, 4), perm),  # not CLOSE_RANGE_UNSHARE: a table of its own
        "fcntl": [
            *(_arg(1), _op(_JEQ, _RECORD_LOCKS[0], 1, 0), _op(_JEQ, _RECORD_LOCKS[1], 0, 1)),
            *(_op(_RET, ERRNO(0)), *_one_of(1, _FCNTL, perm)),
        ],
        "ioctl": _one_of(1, _IOCTL, ERRNO(errno.ENOTTY)),
        "renameat2": _one_of(4, _RENAME, perm),
        # prlimit64 may read the own limits and set none.
        "prlimit64": [_arg(0), *zero, _arg(2), *zero, _arg(2, True), *zero, _op(_RET, ALLOW)],
    }
    if profile.processes:
        refused = [_op(_JSET, _CLONE_REFUSED, 0, 1), _op(_RET, perm)]
        rules["clone"] = [_arg(0), *refused, *_whole_thread(), _op(_RET, ALLOW)]
        # Not to set what SIGCHLD does: the CPU seconds of a child that nobody need wait for would
        # count nowhere.
        own = [_arg(0), _op(_JEQ, signal.SIGCHLD, 1, 0), _op(_RET, ALLOW)]
        asked = [_arg(1), *zero, _arg(1, True), *zero, _op(_RET, ALLOW)]
        rules["rt_sigaction"] = [*own, *asked]
        return rules  # its process namespace is its own, and semaphores are shared in it
    # All sessions are in one process namespace: what takes the id of another would tell of it.
    clocks = [_op(_JGE, _OWN_CLOCKS, 2, 0), _op(_JGE, _OTHERS_CLOCKS, 0, 1)]
    invalid = _op(_RET, ERRNO(errno.EINVAL))
    rules |= {name: [_arg(0), *clocks, invalid, _op(_RET, ALLOW)] for name in _CLOCKS}
    nowhere = [_op(_JEQ, 0, 1, 0), _op(_RET, ERRNO(errno.ENOSYS))]  # libc then does without
    rules["sched_getaffinity"] = [_arg(0), *nowhere, _op(_RET, ALLOW)]
    rules["futex"] = _one_of(1, _FUTEX, ERRNO(errno.ENOSYS))
    return rules


def notifier(machine: Machine, profile: Profile) -> bytes:
    """The program that asks the supervisor about the calls that the profile says; where it may
    copy sessions, about shared memory as well."""
    code = _prologue(machine)
    for name in profile.supervised:
        code += _on_call(machine.calls[name], [_op(_RET, NOTIFY)])
    if not profile.processes:
        shared = [_arg(3), _op(_JSET, _MAP_SHARED, 0, 1), _op(_RET, NOTIFY), _op(_RET, ALLOW)]
        code += _on_call(machine.calls["mmap"], shared)
    return b"".join([*code, _op(_RET, ALLOW)])


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install(machine: Machine, code: bytes, *, listen: bool = False) -> int:
    """Install one program for this process, for good; the listener's descriptor if asked for.

    Needs `no_new_privs`. Raises OSError where the kernel refuses.
    """
    program = _Program(len(code) // 8, code)
    mode_filter, new_listener = 1, 8
    flags = new_listener if listen else 0
    return check(
        syscall(machine.calls["seccomp"], mode_filter, flags, ctypes.byref(program)), "seccomp"
    )


def machine() -> Machine | None:
    """The table of this machine, or None where there is none."""
    return MACHINES.get(platform.machine())


def usable() -> bool:
    """Whether this kernel takes filters."""
    own, mode_filter = machine(), 1
    if own is None or syscall(own.calls["seccomp"], mode_filter, 0, None) == 0:
        return False
    return ctypes.get_errno() == errno.EFAULT  # it would have read the filter


def supervises() -> bool:
    """Whether a filter can have calls decided by another process (not so in gVisor)."""
    own, get_notif_sizes = machine(), 3
    if own is None:
        return False
    sizes = (ctypes.c_uint16 * 3)()
    return int(syscall(own.calls["seccomp"], get_notif_sizes, 0, ctypes.byref(sizes))) == 0
