"""The filter's bytes, run by a small BPF interpreter for both architectures."""

import errno
import struct

import pytest

from palestra.sandbox.local import seccomp
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


@pytest.fixture(params=sorted(MACHINES))
def machine(request):
    return MACHINES[request.param]


def test_every_listed_call_and_no_other_is_allowed(machine):
    code = seccomp.allow_list(machine, supervised=True)
    special = {"clone3", "fcntl", "ioctl"}
    allowed = {n for name, n in machine.calls.items() if name not in special}
    for number in range(600):
        if number not in {machine.calls[name] for name in special}:
            expected = ALLOW if number in allowed else PERM
            assert verdict(code, machine, number) == expected, number


def test_arguments_decide(machine):
    code = seccomp.allow_list(machine, supervised=True)
    calls = machine.calls

    def ask(name, *args):
        return verdict(code, machine, calls[name], *args)

    assert ask("clone3") == ERRNO(errno.ENOSYS)
    assert ask("prlimit64", 0, 7, 0) == ALLOW
    assert ask("prlimit64", 1, 7, 0) == PERM
    assert ask("prlimit64", 0, 7, 0x7FFF12345678) == PERM
    assert ask("prlimit64", 0, 7, 1 << 32) == PERM
    assert [ask("fcntl", 0, c) for c in (0, 3, 7, 1030)] == [ALLOW] * 4
    assert [ask("fcntl", 0, c) for c in (8, 10, 15, 1024)] == [PERM] * 4
    assert ask("ioctl", 0, 0x5401) == ALLOW
    assert ask("ioctl", 0, 0x5412) == ERRNO(errno.ENOTTY)


def test_without_supervision_only_threads_are_cloned(machine):
    code = seccomp.allow_list(machine, supervised=False)
    assert verdict(code, machine, machine.calls["clone"], 0x3D0F00) == ALLOW
    assert verdict(code, machine, machine.calls["clone"], 0x1200011) == PERM
    for name in ("tgkill", "capset", "unshare", "setsid"):
        assert verdict(code, machine, machine.calls[name]) == PERM


def test_supervised_calls_go_to_the_server(machine):
    code = seccomp.notifier(machine)
    for name, number in machine.calls.items():
        assert verdict(code, machine, number) == (NOTIFY if name in seccomp.SUPERVISED else ALLOW)


def test_foreign_architectures_are_killed(machine):
    for code in (seccomp.notifier(machine), seccomp.allow_list(machine, supervised=True)):
        assert verdict(code, machine, 1, audit=0x40000003) == KILL
        if machine.x32:
            assert verdict(code, machine, 0x40000000 + 39) == KILL


def test_no_dangerous_call_is_in_a_table(machine):
    never = {"execve", "execveat", "fork", "vfork", "ptrace", "mount", "socket", "bpf", "kill"}
    assert not never & machine.calls.keys()
