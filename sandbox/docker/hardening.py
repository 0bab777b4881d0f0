"""How containers are locked up: the options they are made with, and a system-call profile.

Docker's own profile refuses namespaces to whoever is not root, and with them what makes the
sessions inside strong: a mount, process and network namespace of their own, a quota on files,
a limit on threads, `fork`. So the container gets a profile of its own that is stricter than
Docker's everywhere else (no sockets but pairs, no ptrace, no keys, no bpf, no io_uring, no
System V objects), and the masks over proc are lifted, since the kernel grants a namespace a
new proc only where the old one is in full view. Both are for the server alone: programs are
under its filter (`local/seccomp.py`), which has none of these calls, and see no proc at all.
"""

from __future__ import annotations

import json
from typing import Any

from .config import DockerConfig

USER = "65534:65534"

# What an interpreter, the fork server and the container's init need; all else answers EPERM.
_ALLOWED = """
read write close open openat openat2 creat stat fstat lstat newfstatat statx poll ppoll lseek mmap
mprotect munmap brk mremap madvise msync mincore membarrier rt_sigaction rt_sigprocmask
rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend rt_sigqueueinfo sigaltstack signalfd4
ioctl pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2 access faccessat faccessat2
pipe pipe2 select pselect6 sched_yield sched_getaffinity sched_setaffinity sched_getparam
sched_getscheduler sched_get_priority_max sched_get_priority_min dup dup2 dup3 pause nanosleep
clock_nanosleep clock_gettime clock_getres gettimeofday time times alarm getitimer setitimer
timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
timerfd_gettime timerfd_settime sendfile copy_file_range splice tee vmsplice socketpair sendto
recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown getsockopt setsockopt getsockname getpeername
clone fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill uname fcntl flock
fsync fdatasync sync_file_range truncate ftruncate fallocate fadvise64 getdents getdents64 getcwd
chdir fchdir rename renameat renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat symlink
symlinkat readlink readlinkat chmod fchmod fchmodat chown fchown lchown fchownat umask utime
utimes utimensat futimesat statfs fstatfs getrlimit setrlimit prlimit64 getrusage sysinfo getuid
getgid geteuid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid
setresgid setgroups setfsuid setfsgid getppid getpid gettid getpgrp getpgid setpgid getsid setsid
getpriority setpriority capget capset prctl arch_prctl set_tid_address set_robust_list
get_robust_list futex futex_waitv rseq restart_syscall getcpu getrandom epoll_create epoll_create1
epoll_ctl epoll_ctl_old epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2 memfd_create
close_range seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self pidfd_open
pidfd_send_signal sync syncfs getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
inotify_init inotify_init1 inotify_add_watch inotify_rm_watch sethostname unshare setns mount
umount umount2 pivot_root mount_setattr
"""


def profile() -> dict[str, Any]:
    """The profile in Docker's own format."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
        ],
        "syscalls": [
            {"names": _ALLOWED.split(), "action": "SCMP_ACT_ALLOW"},
            # Its flags lie in memory: libraries fall back on clone.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    }


def host_config(api: Any, config: DockerConfig, security: list[str]) -> dict[str, Any]:
    """What a container may have. `security` is the daemon's own account of what it enforces."""
    options = ["no-new-privileges:true"]
    if config.namespaces:
        options.append(f"seccomp={json.dumps(profile())}")
        if any("name=apparmor" in line for line in security):
            options.append("apparmor=unconfined")  # its profile for containers refuses mounts
    folder = f"rw,nosuid,nodev,noexec,mode=1777,size={config.tmp_bytes},nr_inodes=65536"
    made: dict[str, Any] = api.create_host_config(
        runtime=config.runtime,
        network_mode="none",
        ipc_mode="none",
        read_only=True,
        tmpfs={"/tmp": folder},
        cap_drop=["ALL"],
        security_opt=options,
        init=True,
        mem_limit=config.memory_bytes,
        memswap_limit=config.memory_bytes,
        nano_cpus=None if config.cpus is None else int(config.cpus * 1e9),
        pids_limit=config.pids,
        ulimits=[{"Name": "core", "Soft": 0, "Hard": 0}],
        log_config={"Type": "none", "Config": {}},
        auto_remove=True,
    )
    if config.namespaces:
        made |= {"MaskedPaths": [], "ReadonlyPaths": []}
    return made
