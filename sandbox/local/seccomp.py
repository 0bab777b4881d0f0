"""The system-call filter: classic BPF bytes built from a table.

The `compute` profile lists the calls that numpy, sympy, threads and file work need; every
other call answers EPERM. Calls with a dangerous corner are filtered by argument. There is
no fork, exec, socket, kill, mount or ptrace. Two programs are installed: the first routes a
few calls to the fork server for a decision (seccomp user notification), the second is the
allow-list. The stricter verdict of the two wins.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from dataclasses import dataclass

from .kernel import check, syscall

ALLOW, KILL = 0x7FFF0000, 0x80000000
NOTIFY = 0x7FC00000


def ERRNO(number: int) -> int:
    """The verdict 'answer with this error number'."""
    return 0x00050000 | number


# asm/unistd_64.h of x86-64, then the generic table that aarch64 uses.
_X86 = """read 0 write 1 close 3 stat 4 fstat 5 lstat 6 poll 7 lseek 8 mmap 9 mprotect 10 munmap 11
brk 12 rt_sigaction 13 rt_sigprocmask 14 rt_sigreturn 15 ioctl 16 pread64 17 pwrite64 18 readv 19
writev 20 access 21 select 23 sched_yield 24 mremap 25 madvise 28 dup 32 dup2 33 nanosleep 35
getpid 39 clone 56 exit 60 uname 63 fcntl 72 fsync 74 fdatasync 75 ftruncate 77 getdents 78
getcwd 79 chdir 80 rename 82 mkdir 83 rmdir 84 unlink 87 readlink 89 chmod 90 fchmod 91 umask 95
gettimeofday 96 getrlimit 97 getrusage 98 sysinfo 99 times 100 getuid 102 getgid 104 geteuid 107
getegid 108 getppid 110 setsid 112 capset 126 sigaltstack 131 arch_prctl 158 gettid 186 futex 202
sched_getaffinity 204 getdents64 217 restart_syscall 219 clock_gettime 228 clock_getres 229
clock_nanosleep 230 exit_group 231 tgkill 234 openat 257 mkdirat 258 newfstatat 262 unlinkat 263
renameat 264 readlinkat 267 fchmodat 268 faccessat 269 pselect6 270 ppoll 271 unshare 272
set_robust_list 273 utimensat 280 dup3 292 pipe2 293 prlimit64 302 renameat2 316 getrandom 318
statx 332 rseq 334 clone3 435 faccessat2 439"""
_ARM = """getcwd 17 dup 23 dup3 24 fcntl 25 ioctl 29 mkdirat 34 unlinkat 35 renameat 38
ftruncate 46 faccessat 48 chdir 49 fchmod 52 fchmodat 53 openat 56 close 57 pipe2 59 getdents64 61
lseek 62 read 63 write 64 readv 65 writev 66 pread64 67 pwrite64 68 pselect6 72 ppoll 73
readlinkat 78 newfstatat 79 fstat 80 fsync 82 fdatasync 83 utimensat 88 capset 91 exit 93
exit_group 94 unshare 97 futex 98 set_robust_list 99 nanosleep 101 clock_gettime 113
clock_getres 114 clock_nanosleep 115 sched_getaffinity 123 sched_yield 124 restart_syscall 128
tgkill 131 sigaltstack 132 rt_sigaction 134 rt_sigprocmask 135 rt_sigreturn 139 times 153 setsid 157
uname 160 getrlimit 163 getrusage 165 umask 166 gettimeofday 169 getpid 172 getppid 173 getuid 174
geteuid 175 getgid 176 getegid 177 gettid 178 sysinfo 179 brk 214 munmap 215 mremap 216 clone 220
mmap 222 mprotect 226 madvise 233 prlimit64 261 renameat2 276 getrandom 278 statx 291 rseq 293
clone3 435 faccessat2 439"""


def _table(text: str) -> dict[str, int]:
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


@dataclass(frozen=True)
class Machine:
    """One architecture: its audit number, call table and the number of `seccomp` itself."""

    audit: int
    calls: dict[str, int]
    seccomp: int
    x32: bool = False


MACHINES = {
    "x86_64": Machine(0xC000003E, _table(_X86), 317, x32=True),
    "aarch64": Machine(0xC00000B7, _table(_ARM), 277),
}

CLONE_THREAD = 0x00010000
# fcntl: duplicates, descriptor flags, status flags, record locks. Not F_SETOWN or F_SETSIG:
# with O_ASYNC they send a signal of choice to a process of choice. Not F_GETLK: locks of others
# on a file that all sessions see would be messages.
_FCNTL = (0, 1, 2, 3, 4, 6, 7, 1030, 1032)
# ioctl: TCGETS and TIOCGWINSZ (isatty, terminal size), FIONREAD, FIONBIO, FIOCLEX, FIONCLEX.
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_RENAME = (0, 1, 2)  # renameat2: not to replace, to exchange; not RENAME_WHITEOUT, a device
# Landlock does not know of them, and a descriptor to read from is enough for the last two.
_ATTRIBUTES = ("chmod", "fchmodat", "fchmod", "utimensat")
# Decided by the fork server: threads are counted, signals go to the own process only, and a
# copy of the session is made only when the host has asked for one.
SUPERVISED = ("clone", "tgkill", "capset", "unshare", "setsid")

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


def allow_list(machine: Machine, *, supervised: bool) -> bytes:
    """The strict program. Without supervision, signals and copies are refused outright; so are
    modes and times of files, since then there may be no root of its own either."""
    calls = machine.calls
    perm = ERRNO(errno.EPERM)
    zero = [_op(_JEQ, 0, 1, 0), _op(_RET, perm)]
    rules: dict[str, list[bytes]] = {
        "clone3": [_op(_RET, ERRNO(errno.ENOSYS))],  # flags lie in memory: libc falls back
        "fcntl": _one_of(1, _FCNTL, perm),
        "ioctl": _one_of(1, _IOCTL, ERRNO(errno.ENOTTY)),
        "renameat2": _one_of(4, _RENAME, perm),
        # prlimit64 may read the own limits and set none.
        "prlimit64": [_arg(0), *zero, _arg(2), *zero, _arg(2, True), *zero, _op(_RET, ALLOW)],
    }
    if not supervised:
        thread = [_arg(0), _op(_JSET, CLONE_THREAD, 1, 0), _op(_RET, perm), _op(_RET, ALLOW)]
        rules |= {"clone": thread} | {c: [_op(_RET, perm)] for c in SUPERVISED if c != "clone"}
        rules |= {c: [_op(_RET, perm)] for c in _ATTRIBUTES if c in calls}
    code = _prologue(machine)
    for name, body in rules.items():
        code += _on_call(calls[name], body)
    for name, number in calls.items():
        if name not in rules:
            code += _on_call(number, [_op(_RET, ALLOW)])
    return b"".join([*code, _op(_RET, perm)])


def notifier(machine: Machine) -> bytes:
    """The program that asks the supervisor about the calls in `SUPERVISED`."""
    code = _prologue(machine)
    for name in SUPERVISED:
        code += _on_call(machine.calls[name], [_op(_RET, NOTIFY)])
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
    return check(syscall(machine.seccomp, mode_filter, flags, ctypes.byref(program)), "seccomp")


def machine() -> Machine | None:
    """The table of this machine, or None where there is none."""
    return MACHINES.get(platform.machine())


def usable() -> bool:
    """Whether this kernel takes filters."""
    own, mode_filter = machine(), 1
    if own is None or syscall(own.seccomp, mode_filter, 0, None) == 0:
        return False
    return ctypes.get_errno() == errno.EFAULT  # it would have read the filter


def supervises() -> bool:
    """Whether a filter can have calls decided by another process (not so in gVisor)."""
    own, get_notif_sizes = machine(), 3
    sizes = (ctypes.c_uint16 * 3)()
    return own is not None and syscall(own.seccomp, get_notif_sizes, 0, ctypes.byref(sizes)) == 0
