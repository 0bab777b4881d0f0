"""What the programs of a session may ask the kernel for.

`compute` lists the calls that numpy, sympy, threads and file work need. `process` adds those
that make processes and run programs; such a session has a process namespace and a count of
tasks of its own. Either can be given further calls by name, but for those that would undo what
the rest of the walls rely on.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .calls import AARCH64, X86_64

_COMPUTE = """
access arch_prctl brk chdir chmod clock_getres clock_gettime clock_nanosleep clone clone3 close
dup dup2 dup3 exit exit_group faccessat faccessat2 fchmod fchmodat fcntl fdatasync fstat fsync
ftruncate futex getcwd getdents getdents64 getegid geteuid getgid getpid getppid getrandom
getrlimit getrusage gettid gettimeofday getuid ioctl lseek lstat madvise mkdir mkdirat mmap
mprotect mremap munmap nanosleep newfstatat openat pipe2 poll ppoll pread64 prlimit64 pselect6
pwrite64 read readlink readlinkat readv rename renameat renameat2 restart_syscall rmdir rseq
rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity sched_yield select set_robust_list
sigaltstack stat statx sysinfo tgkill times umask uname unlink unlinkat unshare utimensat write
writev"""
_COPIES = "capset setsid"
_PROCESS = """
alarm close_range execve fork getgroups getitimer getpgid getpgrp getsid kill link linkat pause
pipe rt_sigpending rt_sigsuspend rt_sigtimedwait set_tid_address setitimer setpgid setsid vfork
wait4 waitid"""
# Never given: why.
_KERNEL = "it changes the machine or how the kernel sees it"
_AROUND = "it goes around the filter"
_OTHERS = "it reaches into other processes"
_CHANNEL = "sessions share what it gives access to, or could pass descriptors with it"
_FILES = "a session's folder holds files and folders only"
_SIGNALS = "sessions share a process namespace; profile='process' has it"
NEVER = {
    **dict.fromkeys(
        (
            *("mount", "umount2", "pivot_root", "chroot", "setns", "open_tree", "move_mount"),
            *("fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "unshare", "bpf"),
            *("init_module", "finit_module", "delete_module", "create_module", "kexec_load"),
            *("kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd"),
            *("sethostname", "setdomainname", "settimeofday", "clock_settime", "adjtimex"),
            *("clock_adjtime", "iopl", "ioperm", "syslog", "vhangup", "nfsservctl", "_sysctl"),
            *("capset", "setrlimit", "personality", "modify_ldt", "name_to_handle_at"),
            *("open_by_handle_at", "fanotify_init", "fanotify_mark", "lookup_dcookie", "uselib"),
            *("sync", "syncfs", "chown", "fchown", "lchown", "fchownat"),
        ),
        _KERNEL,
    ),
    **dict.fromkeys(
        (
            *("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3", "seccomp"),
            *("prctl", "userfaultfd", "perf_event_open", "execveat", "memfd_create"),
            *("remap_file_pages", "mknod", "mknodat", "process_madvise", "memfd_secret"),
        ),
        _AROUND,
    ),
    **dict.fromkeys(
        (
            *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_open", "pidfd_getfd"),
            *("pidfd_send_signal", "process_mrelease", "kcmp", "move_pages", "migrate_pages"),
            *("rt_sigqueueinfo", "rt_tgsigqueueinfo", "tkill", "sched_setaffinity"),
            *("sched_setscheduler", "sched_setparam", "sched_setattr", "setpriority"),
            *("ioprio_set", "get_robust_list"),
        ),
        _OTHERS,
    ),
    **dict.fromkeys(
        (
            *("socket", "connect", "accept", "accept4", "bind", "listen", "sendmsg", "sendmmsg"),
            *("recvmsg", "recvmmsg", "shmget", "shmat", "shmctl", "semget", "semctl", "semop"),
            *("semtimedop", "msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink"),
            *("keyctl", "add_key", "request_key", "flock", "inotify_add_watch", "mincore"),
        ),
        _CHANNEL,
    ),
}
NEVER |= dict.fromkeys(("link", "linkat", "symlink", "symlinkat"), _FILES)
_ONLY_WITH_PROCESSES = ("fork", "vfork", "execve", "kill", "wait4", "waitid", "setpgid", "setsid")


@dataclass(frozen=True)
class Profile:
    """A set of calls, and what follows from it.

    Attributes:
        calls: by name; those that a machine does not have are left out there.
        supervised: the ones that are suspended until the server has decided.
        processes: programs may make processes; without, sessions can be forked.
    """

    name: str
    calls: frozenset[str]
    supervised: tuple[str, ...]
    processes: bool = False


PROFILES = {
    "compute": Profile(
        "compute",
        frozenset([*_COMPUTE.split(), *_COPIES.split()]),
        # Threads and pipes are counted, signals go to the own process only, and a copy of the
        # session is made only when the host has asked for one.
        ("clone", "pipe2", "tgkill", "capset", "unshare", "setsid"),
    ),
    "process": Profile(
        "process",
        frozenset([*_COMPUTE.split(), *_PROCESS.split()]),
        ("unshare",),  # what a session made ready waits in; refused ever after
        processes=True,
    ),
}


def profile(name: str, extra_calls: Iterable[str] = ()) -> Profile:
    """The profile of that name with further calls.

    Raises:
        ValueError: there is none of that name; a call that no kernel has, or that is never given.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; profiles are {', '.join(PROFILES)}")
    base, known = PROFILES[name], X86_64.keys() | AARCH64.keys()
    for call in extra_calls:
        if call not in known:
            near = ", ".join(difflib.get_close_matches(call, known, 5)) or "none"
            raise ValueError(f"unknown system call {call!r} in extra_calls; names like it: {near}")
        if call in base.calls:
            continue
        why = _SIGNALS if call in _ONLY_WITH_PROCESSES else NEVER.get(call)
        if why:
            raise ValueError(f"the system call {call!r} is not for sessions: {why}")
    return replace(base, calls=base.calls | set(extra_calls))
