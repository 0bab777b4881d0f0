"""Small hostile programs, numbered as in the abuse list that the sandbox is held to.

Each is run in a session of a sandbox under `ATTACK_LIMITS`. A program that meets a refusal
prints SAFE; one that gets what it wanted prints WORKED. `ends` are the verdicts that count as
contained. `native` marks those that only the strongest tier is held to.
"""

# The programs read better unbroken.
# ruff: noqa: E501

from dataclasses import dataclass

from palestra.sandbox import Limits, Status

ATTACK_LIMITS = Limits(
    cpu_s=5.0,
    memory_bytes=128 << 20,
    tasks=16,
    output_kill_bytes=1 << 20,
    file_bytes=4 << 20,
    tmp_bytes=8 << 20,
    tmp_inodes=256,
    descriptors=64,
)
OK, ERROR, MEMORY, CRASHED = Status.OK, Status.ERROR, Status.MEMORY, Status.CRASHED
TIMEOUT, OUTPUT = Status.TIMEOUT, Status.OUTPUT


@dataclass(frozen=True)
class Attack:
    name: str
    code: str
    ends: tuple[Status, ...] = (OK,)
    native: bool = False


def _try(name, statement, native=False):
    """A statement that must raise."""
    code = f"import os, sys, ctypes, signal\ntry:\n    {statement}\n    print('WORKED')\n"
    return Attack(
        name, code + "except (OSError, ImportError, ValueError): print('SAFE')", (OK,), native
    )


def _call(name, number, *arguments):
    """A raw system call (x86-64 number) that must fail."""
    words = ", ".join(f"ctypes.c_long({a})" for a in (number, *arguments))
    code = f"import ctypes\nr = ctypes.CDLL(None, use_errno=True).syscall({words})\n"
    return Attack(
        name, code + "print('SAFE' if r == -1 and ctypes.get_errno() in (1, 38) else 'WORKED')"
    )


ATTACKS = [
    _try("01-fork-bomb", "[os.fork() for _ in range(3)]"),
    Attack("02-memory-bomb", "x = []\nwhile True: x.append(bytearray(16 << 20))", (MEMORY,)),
    Attack("02-numpy-memory-bomb", "import numpy\nnumpy.ones((1 << 30,))", (MEMORY,)),
    _try("03-one-large-file", "open('f', 'wb').write(bytes(6 << 20))"),
    _try(
        "03-disk-fill",
        "[open(f'f{i}', 'wb').write(bytes(1 << 20)) for i in range(20)]",
        native=True,
    ),
    _try("04-shared-memory-fill", "open('/dev/shm/x', 'wb')"),
    _try("05-inode-fill", "[open(f'n{i}', 'w').close() for i in range(400)]", native=True),
    _try("06-host-passwords", "open('/etc/passwd').read()"),
    _try("07-host-folders", "os.listdir('/home'), os.listdir('/root/.ssh'), os.listdir('/etc')"),
    Attack("08-environment", "import os\nprint('WORKED' if os.environ else 'SAFE')"),
    _try("09-environ-of-parent", "open(f'/proc/{os.getppid()}/environ').read()"),
    _try("09-environ-of-pid-1", "open('/proc/1/environ').read()"),
    _try("10-list-processes", "[open(f'/proc/{p}/cmdline') for p in range(1, 9)]"),
    _try("11-loopback", "__import__('socket').create_connection(('127.0.0.1', 22), 1)"),
    _try("12-any-socket", "__import__('socket').socket(__import__('socket').AF_UNIX)"),
    _call("14-ptrace-attach", 101, 16, 1, 0, 0),
    _try("15-memory-of-parent", "open(f'/proc/{os.getppid()}/mem', 'r+b')"),
    _call("15-process_vm_readv", 310, 1, 0, 0, 0, 0, 0),
    _try("16-signal-the-parent", "os.kill(os.getppid(), signal.SIGTERM)"),
    _try("16-signal-everyone", "os.kill(-1, signal.SIGKILL)"),
    _call("16-tgkill-of-others", 234, 1, 1, 9),
    _call("16-tgkill-of-neighbours", 234, 2, 2, 9),
    _try("17-stop-the-parent", "os.kill(os.getppid(), signal.SIGSTOP)"),
    Attack(
        "19-inherited-descriptors",
        "import os\nopened = []\nfor d in range(4, 64):\n    try: os.fstat(d); opened.append(d)\n"
        "    except OSError: pass\nprint('WORKED' if opened else 'SAFE')",
    ),
    Attack("21-exit-half-way", "import os; os._exit(0)", (CRASHED,)),
    Attack(
        "22-patch-json", "import json, builtins; builtins.float = json.dumps = None; print('SAFE')"
    ),
    Attack("23-infinite-output", "while True: print('y' * 1000)", (OUTPUT,)),
    Attack(
        "23-infinite-error-output", "import os\nwhile True: os.write(2, b'y' * 1000)", (OUTPUT,)
    ),
    Attack(
        "24-ignore-signals",
        "import signal\nfor s in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        (TIMEOUT,),
    ),
    Attack(
        "25-swallow-everything",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        (TIMEOUT,),
    ),
    Attack("26-hold-the-lock", "9 ** 9 ** 9", (TIMEOUT, MEMORY)),
    Attack("26-regular-expression", "import re; re.match('(a+)+$', 'a' * 60 + 'b')", (TIMEOUT,)),
    _try("27-daemon", "(os.fork() or os.setsid() or os.fork())"),
    _try("28-spawn", "os.posix_spawn('/bin/sh', ['sh'], {})"),
    _try("28-exec", "os.execv(sys.executable or '/bin/sh', ['sh'])"),
    Attack(
        "29-stop-itself",
        "import signal, time\nsignal.raise_signal(signal.SIGSTOP)\nwhile True: time.sleep(1)",
        (TIMEOUT, ERROR),
    ),
    Attack(
        "30-deep-recursion",
        "import sys; sys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr([self])\n"
        "repr(A())",
        (CRASHED, MEMORY, ERROR),
    ),
    Attack("31-null-read", "import ctypes; ctypes.string_at(0)", (CRASHED,)),
    Attack("32-huge-value", "'v' * (100 << 20)", (OK, MEMORY)),
    _call("33-mount", 165, 0, 0, 0, 0, 0),
    _call("33-pivot_root", 155, 0, 0),
    _call("34-unshare-user", 272, 0x10000000),
    _call("34-unshare-mount", 272, 0x20000),
    _call("34-setns", 308, 3, 0),
    _call("35-io_uring", 425, 8, 0),
    _call("36-userfaultfd", 323, 0),
    _call("37-bpf", 321, 0, 0, 0),
    _call("38-keyctl", 250, 0, -3, 0),
    _call("39-perf_event_open", 298, 0, 0, -1, -1, 0),
    _call("40-memfd_create", 319, 0, 0),
    _call("41-setuid", 105, 0),
    _try("42-write-outside", "open('/site/x', 'w')"),
    _try("42-write-library", "open(os.__file__, 'a')"),
    _try("44-drop-pth", "open(os.path.dirname(os.__file__) + '/site-packages/x.pth', 'w')"),
    _try("45-symlink", "os.symlink('/etc/passwd', 'answer.txt')"),
    _try("45-hard-link", "os.link(os.__file__, 'answer.txt')"),
    Attack("46-invalid-utf8", "import os; os.write(1, bytes(range(256))); print('SAFE')"),
    Attack("47-lone-surrogate", "print('\\ud800'); print('SAFE'); '\\ud800'"),
    Attack("48-read-stdin", "import sys, os\nprint('WORKED' if os.read(0, 9) else 'SAFE')"),
    _try("49-set-the-clock", "__import__('time').clock_settime(0, 0)"),
    _try(
        "50-raise-limits",
        "__import__('resource').setrlimit(__import__('resource').RLIMIT_AS, (-1, -1))",
    ),
    _call("51-clone3-namespaces", 435, 0, 88),
    _call("51-clone-namespaces", 56, 0x10020011, 0, 0, 0, 0),
    Attack(
        "52-x32-call",
        "import ctypes; ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 39)); print('WORKED')",
        (CRASHED,),
    ),
    _try("53-chroot", "os.chroot('.')"),
    _try("54-own-memory-through-proc", "open('/proc/self/mem', 'r+b')", native=True),
    _try("55-terminal-input", "__import__('fcntl').ioctl(0, 0x5412, b'x')"),
    _try("58-sparse-file", "open('s', 'wb').truncate(1 << 40)"),
    _try("59-fifo-as-result", "os.mkfifo('answer.txt')"),
    Attack(
        "61-many-threads",
        "import threading\nstop = threading.Event(); n = 0\nthreading.stack_size(65536)\ntry:\n"
        "    while n < 400: threading.Thread(target=stop.wait, daemon=True).start(); n += 1\n"
        "except RuntimeError: pass\nstop.set(); print('SAFE' if n < 16 else 'WORKED')",
        (OK,),
        native=True,
    ),
    Attack(
        "64-atexit-output",
        "import atexit\natexit.register(print, 'WORKED'); print('SAFE')",
    ),
    Attack(
        "66-trace-left-behind",
        "import sys\nsys.settrace(lambda *a: 1 / 0)\nsys.addaudithook(lambda *a: 1 / 0)",
        (OK, ERROR, CRASHED),
    ),
    Attack(
        "67-replaced-harness-names",
        "import builtins, sys, os\nfor n in ('compile', 'eval', 'repr', 'len', 'getattr'):\n"
        "    setattr(builtins, n, None)\nos.write = os.read = None; sys.stdout = sys.stderr = None",
        (OK, ERROR, CRASHED),
    ),
    Attack(
        "67-forged-answer",
        'import os; os.write(3, b\'.{"id": 1, "value": "forged", "error": null}\'); os._exit(0)',
        (OK, CRASHED),
    ),
    Attack("67-garbage-answer", "import os; os.write(3, b'.[' * 999); 1", (CRASHED,)),
    Attack("67-wrong-answer", "import os; os.write(3, b'.{\"id\": 99}'); 1", (CRASHED,)),
    Attack("67-endless-answer", "import os\nwhile True: os.write(3, b'+' * 30000)", (CRASHED,)),
    Attack("67-empty-packets", "import os\nwhile True: os.write(3, b'')", (CRASHED, TIMEOUT)),
    Attack(
        "67-forged-ending",
        'import os; os.write(3, b\'X{"status": -9, "reason": "cpu"}\'); os._exit(4)',
        (CRASHED,),
    ),
    Attack("67-close-the-channel", "import os; os.close(3); os.close(1)", (CRASHED,)),
    Attack(
        "67-value-that-bites",
        "class V:\n    def __repr__(self): raise SystemExit('x')\nV()",
        (ERROR,),
    ),
    Attack(
        "67-exception-that-bites",
        "class E(Exception):\n    def __str__(self): raise KeyboardInterrupt\nraise E",
        (ERROR,),
    ),
    Attack("72-huge-mapping", "import mmap\nmmap.mmap(-1, 1 << 40)", (ERROR, MEMORY)),
    _call("72-mlock", 149, 4096, 4096),
    _call("74-message-queue", 68, 1, 0o1000),
    _call("74-shared-memory", 29, 0, 4096, 0o1600),
    Attack("76-die-like-out-of-memory", "import signal; signal.raise_signal(9)", (CRASHED, ERROR)),
    Attack("77-sleep-to-the-limit", "import time; time.sleep(60)", (TIMEOUT,)),
    Attack(
        "79-signal-through-fcntl",
        "import fcntl, os\ntry: fcntl.fcntl(3, fcntl.F_SETOWN, 1); print('WORKED')\n"
        "except OSError: print('SAFE')",
    ),
    Attack(
        "80-descriptor-flood",
        "import os\nn = 0\ntry:\n    while n < 500: os.dup(0); n += 1\nexcept OSError: pass\n"
        "print('SAFE' if n < 64 else 'WORKED')",
    ),
]
