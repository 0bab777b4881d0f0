"""The kernel's surface: calls that give power, or that a program of this kind never needs.

Each is made whole, so that it would succeed where it is let through. Numbers are of x86-64.
"""

# The programs read better unbroken.
# ruff: noqa: E501

from .attack import CRASHED, OK, TIMEOUT, Attack, attack, call, refused

_BUFFER = "b = ctypes.create_string_buffer(4096)"
_B = "ctypes.addressof(b)"
_PATH = "import tempfile; p = ctypes.create_string_buffer(tempfile.mkdtemp().encode()); t = ctypes.create_string_buffer(b'tmpfs')"
_P, _T = "ctypes.addressof(p)", "ctypes.addressof(t)"

# Reads what the `Witness` keeps in memory at @ADDRESS@, from whichever process may be the host.
_PEEK = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True); libc.syscall.restype = ctypes.c_long
def call(*words): return libc.syscall(*map(ctypes.c_long, words))
seen, room = [], ctypes.create_string_buffer(64)
here, there = (ctypes.c_long * 2)(ctypes.addressof(room), 64), (ctypes.c_long * 2)(@ADDRESS@, 64)
for pid in {os.getppid(), @HOST@} - {os.getpid(), 1}:
    %s
    if r >= 0: seen.append(pid)
print('REACHED' if seen else 'SAFE', room.raw)
"""


def peek(number: int, name: str, step: str) -> Attack:
    """Reaches into the memory of the host; seen by what it reads or leaves there."""
    return attack(number, name, _PEEK % step)


TRACING = [
    peek(14, "ptrace-the-host", "r = call(101, 0x4206, pid, 0, 0)\n    if r >= 0:\n        call(101, 0x4207, pid, 0, 0); os.waitpid(pid, 0x40000000)\n        for i in range(0, 64, 8): call(101, 1, pid, @ADDRESS@ + i, ctypes.addressof(room) + i)\n        call(101, 17, pid, 0, 0)"),
    peek(15, "read-the-memory-of-the-host", "r = call(310, pid, ctypes.addressof(here), 1, ctypes.addressof(there), 1, 0)"),
    peek(15, "write-the-memory-of-the-host", "room.raw = b'attacked' * 8; r = call(311, pid, ctypes.addressof(here), 1, ctypes.addressof(there), 1, 0)"),
    peek(15, "memory-of-the-host-through-proc", "try: r = os.preadv(os.open(f'/proc/{pid}/mem', os.O_RDWR), [room], @ADDRESS@)\n    except OSError: r = -1"),
    peek(15, "descriptors-of-the-host", "d = call(434, pid, 0); r = call(438, d, 0, 0) if d >= 0 else -1\n    if r >= 0: room.raw = os.pread(r, 64, 0)"),
    call(14, "ptrace-attach-to-pid-1", 101, 16, 1, 0, 0, own=True),
    call(14, "ptrace-be-traced", 101, 0, 0, 0, 0, own=True),
    refused(54, "own-memory-through-proc", "open('/proc/self/mem', 'r+b')", walls=("fs",), own=True),
    call(14, "compare-processes", 312, "os.getpid()", "os.getppid()", 1, 0, 0, own=True),
    call(14, "robust-list-of-another", 274, "os.getppid()", _B, _B, setup=_BUFFER, own=True),
    call(14, "advise-another", 440, "d", _B, 1, 4, 0, setup=_BUFFER + "; d = ctypes.CDLL(None).syscall(434, os.getppid(), 0)", own=True),
    *(
        attack(
            14,
            name,
            f"""
            import os, time
            seen = []
            for pid in {{*range(1, 400), os.getppid(), @HOST@}} - {{0, os.getpid()}}:
                try: {step}; seen.append(pid)
                except OSError: pass
            print('WORKED' if seen else 'SAFE', seen)
            """,
            own=True,
        )
        for name, step in (
            ("cpu-clocks-of-others", "time.clock_gettime(~pid << 3 | 2)"),
            ("thread-clocks-of-others", "time.clock_gettime(~pid << 3 | 6)"),
            ("resolution-of-clocks-of-others", "time.clock_getres(~pid << 3 | 2)"),
            ("cores-of-others", "os.sched_getaffinity(pid)"),
        )
    ),
    call(14, "lock-owned-by-another", 202, "ctypes.addressof(w)", 0x86, 0, 0, setup="w = ctypes.c_uint32(1)", own=True, walls=("fork",)),
    call(14, "move-pages-of-another", 279, "os.getppid()", 0, 0, 0, 0, 0, own=True),
]  # fmt: skip

NAMESPACES = [
    call(33, "mount", 165, _T, _P, _T, 0, 0, setup=_PATH),
    call(33, "unmount-proc", 166, "ctypes.addressof(q)", 2, setup="q = ctypes.create_string_buffer(b'/proc')"),
    call(33, "pivot_root", 155, _P, _P, setup=_PATH),
    call(33, "new-mount-interface", 430, _T, 0, setup=_PATH),
    call(33, "tree-of-the-root", 428, -100, "ctypes.addressof(q)", 1, setup="q = ctypes.create_string_buffer(b'/')"),
    call(33, "move-a-mount", 429, -100, _P, -100, _P, 0, setup=_PATH, own=True),
    call(33, "attributes-of-a-mount", 442, -100, _P, 0x8000, _B, 32, setup=_PATH + "; " + _BUFFER, own=True),
    call(33, "list-of-mounts", 458, _B, _B, 1, 0, setup=_BUFFER, own=True),
    *(
        call(34, f"unshare-{name}", 272, flag)
        for name, flag in (("user", 1 << 28), ("mount", 1 << 17), ("net", 1 << 30), ("pid", 1 << 29),
                           ("ipc", 1 << 27), ("uts", 1 << 26), ("cgroup", 1 << 25), ("time", 1 << 7))
    ),
    attack(
        34,
        "setns-to-the-parent",
        """
        import ctypes, os
        try: d = os.open(f'/proc/{os.getppid()}/ns/mnt', 0)
        except OSError: d = 0
        print('SAFE' if ctypes.CDLL(None).syscall(*map(ctypes.c_long, (308, d, 0))) else 'WORKED')
        """,
    ),
    call(51, "clone-into-a-user-namespace", 56, (1 << 28) | 17, 0, 0, 0, 0),
    call(51, "clone-into-a-pid-namespace", 56, (1 << 28) | (1 << 29) | 17, 0, 0, 0, 0),
    attack(51, "thread-in-a-user-namespace", "import ctypes\nprint('SAFE' if ctypes.CDLL(None).syscall(*map(ctypes.c_long, (56, 0x10010f00, 0, 0, 0, 0))) == -1 else 'WORKED')", own=True),
    call(51, "clone-as-sibling", 56, 0x8011, 0, 0, 0, 0, own=True),
    call(51, "clone3-namespaces", 435, "ctypes.addressof(a)", 88, setup="a = (ctypes.c_uint64 * 11)(1 << 28, 0, 0, 0, 17)"),
]  # fmt: skip

SURFACE = [
    call(35, "io_uring", 425, 8, _B, setup=_BUFFER),
    call(35, "io_uring-enter", 426, 3, 1, 1, 0, 0, 0, own=True),
    call(35, "io_uring-register", 427, -1, 0, 0, 0, own=True),
    call(36, "userfaultfd", 323, 0x80001),
    call(37, "bpf-map", 321, 0, "ctypes.addressof(a)", 48, setup="a = (ctypes.c_uint32 * 32)(2, 4, 4, 1)"),
    call(37, "bpf-program", 321, 5, "ctypes.addressof(a)", 48, setup="i = (ctypes.c_uint64 * 2)(0xb7, 0x95); l = ctypes.create_string_buffer(b'GPL'); a = (ctypes.c_uint64 * 16)(1 | 2 << 32, ctypes.addressof(i), ctypes.addressof(l))"),
    call(38, "add-key", 248, "ctypes.addressof(k)", "ctypes.addressof(k)", "ctypes.addressof(k)", 4, -3, setup="k = ctypes.create_string_buffer(b'user')"),
    call(38, "new-keyring", 250, 1, 0),
    call(38, "request-key", 249, "ctypes.addressof(k)", "ctypes.addressof(k)", 0, -3, setup="k = ctypes.create_string_buffer(b'user')", own=True),
    call(39, "perf-event", 298, "ctypes.addressof(a)", 0, -1, -1, 0, setup="a = (ctypes.c_uint32 * 32)(1, 112); a[10] = 0x61"),
    attack(
        40,
        "run-from-memory",
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        d = libc.syscall(ctypes.c_long(319), b'x', ctypes.c_long(0))
        if d >= 0:
            os.write(d, b'#!/bin/echo WORKED\\n')
            os.execve(d, ['x'], {})
        print('SAFE' if ctypes.get_errno() in (1, 38) else 'FAILED')
        """,
    ),
    call(40, "secret-memory", 447, 0),
    call(40, "exec-by-descriptor", 322, -100, "ctypes.addressof(q)", 0, 0, 0, setup="q = ctypes.create_string_buffer(b'/bin/true')", own=True),
    call(41, "setuid", 105, 0),
    call(41, "setresuid", 117, 0, 0, 0),
    call(41, "setgroups", 116, 1, _B, setup=_BUFFER),
    call(41, "raise-capabilities", 126, "ctypes.addressof(h)", "ctypes.addressof(c)", setup="h = (ctypes.c_uint32 * 2)(0x20080522, 0); c = (ctypes.c_uint32 * 6)(1 << 21, 1 << 21, 0, 0, 0, 0)"),
    call(41, "raise-all-capabilities", 126, "ctypes.addressof(h)", "ctypes.addressof(c)", setup="h = (ctypes.c_uint32 * 2)(0x20080522, 0); c = (ctypes.c_uint32 * 6)(*[0xffffffff] * 6)"),
    attack(
        41,
        "set-user-id-programs",
        "import ctypes\nno_new_privs = ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)\nprint('WORKED' if no_new_privs == 0 else 'SAFE')",
    ),
    refused(41, "set-user-id-file-on-the-host", "open('@FOLDER@/f', 'w'); os.chmod('@FOLDER@/f', 0o4755)"),
]  # fmt: skip

CLOCKS_AND_LIMITS = [
    refused(49, "set-the-clock", "__import__('time').clock_settime(0, 0)"),
    call(49, "settimeofday", 164, _B, 0, setup=_BUFFER),
    call(49, "adjust-the-clock", 159, "ctypes.addressof(b)", setup="b = (ctypes.c_long * 64)(0x4000, 0, 0, 0)"),
    call(49, "adjust-another-clock", 305, 0, "ctypes.addressof(b)", setup="b = (ctypes.c_long * 64)(0x4000, 0, 0, 0)", own=True),
    refused(50, "raise-memory", "__import__('resource').setrlimit(9, (-1, -1)); assert __import__('resource').getrlimit(9) == (-1, -1)"),
    refused(50, "raise-file-size", "__import__('resource').setrlimit(1, (-1, -1))"),
    refused(50, "raise-descriptors", "__import__('resource').setrlimit(7, (1 << 16, 1 << 16))", own=True),
    refused(50, "lower-limits-of-the-host", "import resource; hard = resource.getrlimit(7)[1] - 1; [resource.prlimit(p, 7, (hard, hard)) for p in {os.getppid(), @HOST@} - {1, os.getpid()}] or os.close(-1)", word="REACHED"),
    call(50, "limits-by-number", 160, 9, "ctypes.addressof(l)", setup="l = (ctypes.c_long * 2)(-1, -1)"),
    call(63, "interval-timer", 38, 0, "ctypes.addressof(i)", 0, setup="import signal; signal.signal(14, signal.SIG_IGN); i = (ctypes.c_long * 4)(0, 1000, 0, 1000)", own=True),
    call(63, "alarm", 37, 100, own=True),
    call(63, "timer", 222, 0, 0, "ctypes.addressof(i)", setup="i = ctypes.c_int()", own=True),
    *(
        call(81, name, number, *words, setup=setup, own=own)
        for name, number, words, setup, own in (
            ("choose-cores", 203, (0, 8, "ctypes.addressof(m)"), "m = ctypes.c_uint64(1)", True),
            ("be-a-real-time-process", 144, (0, 1, "ctypes.addressof(m)"), "m = ctypes.c_int(50)", False),
            ("schedule-attributes", 314, (0, _B, 0), _BUFFER, True),
            ("be-less-nice", 141, (0, 0, -20), "", False),
            ("first-at-the-disk", 251, (1, 0, 1 << 13), "", False),
        )
    ),
    refused(81, "make-the-host-nice", "[os.setpriority(0, p, 5) for p in {os.getppid(), @HOST@} - {1, os.getpid()}] or os.close(-1)", word="REACHED"),
    refused(81, "never-out-of-memory", "open('/proc/self/oom_score_adj', 'w').write('-1000')"),
]  # fmt: skip

MACHINE = [
    *(
        call(82, name, number, *words, setup=_BUFFER, own=True)
        for name, number, words in (
            ("reboot", 169, (0xFEE1DEAD, 672274793, 0, 0)), ("load-a-module", 175, (_B, 8, _B)),
            ("unload-a-module", 176, (_B, 0)), ("kexec", 246, (0, 0, 0, 0)), ("swap-on", 167, (_B, 0)),
            ("accounting", 163, (0,)), ("quota", 179, (0, 0, 0, 0)), ("host-name", 170, (_B, 1)),
            ("domain-name", 171, (_B, 1)), ("ports", 172, (3,)), ("port", 173, (0x70, 2, 1)),
            ("kernel-log", 103, (3, _B, 9)), ("hang-up", 153, ()), ("segment-table", 154, (0, _B, 16)),
            ("kernel-profile", 212, (0, _B, 9)),
        )
    ),
    *(
        call(83, name, number, *words, setup=_BUFFER, own=True)
        for name, number, words in (
            ("dumpable", 157, (4, 1)), ("outlive-the-parent", 157, (1, 0)), ("own-name", 157, (15, _B)),
            ("keep-capabilities", 157, (8, 1)), ("ambient-capabilities", 157, (47, 2, 21)),
            ("bounding-set", 157, (24, 21)), ("adopt-orphans", 157, (36, 1)), ("be-traced-by-anyone", 157, (0x59616D61, -1)),
            ("memory-map", 157, (35, 1, 0)), ("speculation", 157, (53, 0, 0)), ("no-timestamps", 157, (26, 2)),
            ("emulated-calls", 157, (59, 1, 0, 0)), ("filter-of-its-own", 317, (1, 8, _B)),
            ("strict-filter", 157, (22, 1)), ("rules-of-its-own", 444, (_B, 8, 0)), ("enforce-rules", 446, (0, 0)),
            ("personality", 135, (0x40000,)), ("memory-policy", 238, (0, 0, 0)), ("memory-keys", 330, (0, 0)),
            ("splice", 275, (0, 0, 1, 0, 9, 0)), ("gift-pages", 278, (1, _B, 0, 0)), ("tee", 276, (0, 1, 9, 0)),
            ("send-file", 40, (1, 0, 0, 9)), ("copy-range", 326, (0, 0, 1, 0, 9, 0)), ("pages-in-core", 27, (_B, 4096, _B)),
            ("cached-pages", 451, (0, _B, _B, 0)), ("barrier", 324, (0, 0)), ("wait-for-children", 61, (-1, 0, 1, 0)),
            ("own-session", 112, ()), ("own-group", 109, (0, 0)),
        )
    ),
    attack(
        83,
        "robust-list-into-nowhere",
        """
        import ctypes, threading
        head = (ctypes.c_ulong * 3)(0xdead000, 0, 0xdead000)
        def end(): ctypes.CDLL(None).syscall(ctypes.c_long(273), ctypes.byref(head), ctypes.c_long(24))
        t = threading.Thread(target=end); t.start(); t.join(); print('SAFE')
        """,
        own=True,
    ),
    refused(74, "size-of-pipes", "__import__('fcntl').fcntl(os.pipe()[0], 1032)", own=True),
    call(74, "message-queue", 68, 0x70616C65, 0o1600, word="REACHED"),
    call(74, "shared-memory", 29, 0x70616C65, 4096, 0o1600, word="REACHED"),
    call(74, "semaphores", 64, 0x70616C65, 1, 0o1600, word="REACHED"),
    call(74, "posix-message-queue", 240, "ctypes.addressof(q)", 0o102, 0o600, 0, setup="q = ctypes.create_string_buffer(b'palestra-attack')", word="REACHED"),
]  # fmt: skip

OTHER_DOORS = [
    attack(
        52,
        "x32-call",
        "import ctypes; r = ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 39)); print('WORKED' if r > 0 else 'SAFE')",
        CRASHED,
        own=True,
    ),
    attack(
        52,
        "32-bit-call-from-machine-code",
        """
        import ctypes, mmap
        # machine code: push rbx; mov eax, 20 (getpid of i386); int 0x80; pop rbx; ret
        page = mmap.mmap(-1, 4096, prot=7)
        page.write(bytes.fromhex('53b814000000cd805bc3'))
        run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
        print('WORKED' if run() > 0 else 'SAFE')
        """,
        CRASHED,
        own=True,
    ),
    attack(
        52,
        "old-call-page",
        """
        import ctypes
        # machine code of the kernel's at a fixed address: time(2) of long ago
        now = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(0xffffffffff600400)(None)
        print('SAFE' if now <= 0 or now > 1e9 else 'WORKED')
        """,
        OK, CRASHED, TIMEOUT, own=True,
    ),
    attack(
        52,
        "numbers-nobody-has",
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True); odd = []
        for number in (*range(472, 1200), 0x3fffffff, (1 << 32) + 101, (1 << 32) + 39):
            if libc.syscall(ctypes.c_long(number)) != -1: odd.append(number)
        # The kernel takes the low half of a number: getpid() with a high bit set is getpid().
        print('SAFE' if odd in ([], [(1 << 32) + 39]) else 'WORKED', odd)
        """,
        own=True,
    ),
]  # fmt: skip

ATTACKS = [*TRACING, *NAMESPACES, *SURFACE, *CLOCKS_AND_LIMITS, *MACHINE, *OTHER_DOORS]
