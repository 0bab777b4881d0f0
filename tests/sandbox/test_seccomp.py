"""The filter's bytes, run by a small BPF interpreter for both architectures."""

import ctypes
import errno
import struct

import pytest

from palestra.sandbox.local import seccomp
from palestra.sandbox.local.profiles import PROFILES
from palestra.sandbox.local.seccomp import ALLOW, ERRNO, KILL, MACHINES, NOTIFY

PERM = ERRNO(errno.EPERM)


def verdict(code, machine, number, *args, audit=None):
    """What the program answers to one call."""
    padded = (*args, *[0] * (6 - len(args)))
    data = struct.pack("=iIQ6Q", number, machine.audit if audit is None else audit, 0, *padded)
    accumulator, at = 0, 0
    while True:
        op, yes, no, k = struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        if op == 0x20:
            accumulator = struct.unpack_from("=I", data, k)[0]
        elif op == 0x06:
            return k
        else:
            test = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[op]
            at += yes if test else no


COMPUTE, PROCESS = PROFILES["compute"], PROFILES["process"]
SPECIAL = {"clone3", "fcntl", "ioctl"}  # answered by their arguments, or in another way


@pytest.fixture(params=sorted(MACHINES))
def machine(request):
    return MACHINES[request.param]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_listed_call_and_no_other_is_allowed(machine, profile):
    code = seccomp.allow_list(machine, profile, supervised=True)
    allowed = {machine.calls[name] for name in profile.calls & machine.calls.keys()}
    special = {machine.calls[name] for name in SPECIAL}
    for number in set(range(600)) - special:
        expected = ALLOW if number in allowed else PERM
        assert verdict(code, machine, number) == expected, number


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_arguments_decide(machine, profile):
    code = seccomp.allow_list(machine, profile, supervised=True)
    calls = machine.calls

    def ask(name, *args):
        return verdict(code, machine, calls[name], *args)

    assert ask("clone3") == ERRNO(errno.ENOSYS)
    assert ask("prlimit64", 0, 7, 0) == ALLOW
    assert ask("prlimit64", 1, 7, 0) == PERM
    assert ask("prlimit64", 0, 7, 0x7FFF12345678) == PERM
    assert ask("prlimit64", 0, 7, 1 << 32) == PERM
    assert [ask("fcntl", 0, c) for c in (0, 3, 4, 1030)] == [ALLOW] * 4
    assert [ask("fcntl", 0, c) for c in (6, 7)] == [ERRNO(0)] * 2  # record locks: as if granted
    assert [ask("fcntl", 0, c) for c in (5, 8, 10, 15, 37, 38, 1024, 1031, 1032)] == [PERM] * 9
    assert [ask("renameat2", 0, 0, 0, 0, how) for how in (0, 2, 4)] == [ALLOW, ALLOW, PERM]
    assert ask("ioctl", 0, 0x5401) == ALLOW
    assert ask("ioctl", 0, 0x5412) == ERRNO(errno.ENOTTY)


def test_threads_share_their_descriptors(machine):
    process = seccomp.allow_list(machine, PROCESS, supervised=True)
    alone = seccomp.allow_list(machine, COMPUTE, supervised=False)
    for code in (process, alone):
        assert verdict(code, machine, machine.calls["clone"], 0x50F00) == ALLOW
        assert verdict(code, machine, machine.calls["clone"], 0x50B00) == PERM
    unshares = [
        verdict(process, machine, machine.calls["close_range"], 3, 9, how) for how in range(8)
    ]
    assert unshares == [PERM if how not in (0, 4) else ALLOW for how in range(8)]


def test_ids_of_others_are_not_told(machine):
    code = seccomp.allow_list(machine, COMPUTE, supervised=True)
    invalid, unknown = ERRNO(errno.EINVAL), ERRNO(errno.ENOSYS)
    for name in ("clock_gettime", "clock_getres", "clock_nanosleep"):
        for clock in (0, 1, 2, 3, 7, 11, -8 + 2, -8 + 6):  # the last two: the CPU clocks of id 0
            assert verdict(code, machine, machine.calls[name], clock & 0xFFFFFFFF) == ALLOW
        for pid in (1, 2, 77, 4_194_304):
            for kind in (0, 1, 2, 4, 5, 6):
                clock = (~pid << 3 | kind) & 0xFFFFFFFF
                assert verdict(code, machine, machine.calls[name], clock) == invalid
    assert verdict(code, machine, machine.calls["sched_getaffinity"], 0) == ALLOW
    assert verdict(code, machine, machine.calls["sched_getaffinity"], 7) == unknown


def test_threads_wait_and_wake_their_own(machine):
    code = seccomp.allow_list(machine, COMPUTE, supervised=True)
    allowed = {
        op for op in range(512) if verdict(code, machine, machine.calls["futex"], 0, op) == ALLOW
    }
    assert {op & 127 for op in allowed} == {0, 1, 3, 4, 5, 9, 10}
    assert {op & 127 for op in allowed if not op & 128} == {0, 9}  # shared: to wait, not to wake


# Namespaces of every kind (mount, cgroup, UTS, IPC, user, process, network), and a sibling.
NEW = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x8000)


def test_processes_are_made_in_no_new_namespace(machine):
    code = seccomp.allow_list(machine, PROCESS, supervised=True)
    for flags in (0x1200011, 0x3D0F00, 0x4111):  # fork, a thread, posix_spawn
        assert verdict(code, machine, machine.calls["clone"], flags) == ALLOW
        for new in NEW:
            assert verdict(code, machine, machine.calls["clone"], flags | new) == PERM
    for name in ("execve", "wait4", "kill"):
        assert verdict(code, machine, machine.calls[name]) == ALLOW
        compute = seccomp.allow_list(machine, COMPUTE, supervised=True)
        assert verdict(compute, machine, machine.calls[name]) == PERM


def test_children_are_waited_for(machine):
    code = seccomp.allow_list(machine, PROCESS, supervised=True)
    action = machine.calls["rt_sigaction"]
    assert verdict(code, machine, action, 17, 0) == ALLOW  # to ask what SIGCHLD does
    assert verdict(code, machine, action, 17, 0x1000) == PERM
    assert verdict(code, machine, action, 17, 1 << 32) == PERM
    assert verdict(code, machine, action, 15, 0x1000) == ALLOW


def test_without_supervision_only_threads_are_cloned(machine):
    code = seccomp.allow_list(machine, COMPUTE, supervised=False)
    assert verdict(code, machine, machine.calls["clone"], 0x3D0F00) == ALLOW
    assert verdict(code, machine, machine.calls["clone"], 0x1200011) == PERM
    assert verdict(code, machine, machine.calls["pipe2"]) == ALLOW
    for name in ("tgkill", "capset", "unshare", "setsid", "fchmod", "utimensat"):
        assert verdict(code, machine, machine.calls[name]) == PERM


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_supervised_calls_go_to_the_server(machine, profile):
    code = seccomp.notifier(machine, profile)
    for name, number in machine.calls.items():
        expected = NOTIFY if name in profile.supervised else ALLOW
        assert verdict(code, machine, number) == expected


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_foreign_architectures_are_killed(machine, profile):
    strict = seccomp.allow_list(machine, profile, supervised=True)
    for code in (seccomp.notifier(machine, profile), strict):
        assert verdict(code, machine, 1, audit=0x40000003) == KILL
        if machine.x32:
            assert verdict(code, machine, 0x40000000 + 39) == KILL


def test_no_dangerous_call_is_in_a_profile():
    never = {"execveat", "ptrace", "mount", "socket", "bpf", "sendmsg", "memfd_create", "prctl"}
    processes = {"execve", "fork", "vfork", "kill", "wait4"}
    assert not COMPUTE.calls & (never | processes)
    assert not PROCESS.calls & never


def test_names_and_numbers_are_those_of_libseccomp(machine):
    try:
        resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name_arch
    except OSError:
        pytest.skip("no libseccomp to compare with")
    known = {n: resolve(ctypes.c_uint32(machine.audit), n.encode()) for n in machine.calls}
    # It may not know the newest calls (-1), nor have numbers for what an architecture lacks.
    found = {name: number for name, number in known.items() if number >= 0}
    assert len(found) > 290
    assert found == {name: machine.calls[name] for name in found}
