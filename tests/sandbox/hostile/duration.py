"""Going on for ever, writing without end, crashing, and values that are too much."""

# The programs read better unbroken.
# ruff: noqa: E501

from .attack import CRASHED, ERROR, FAILED, MEMORY, OK, OUTPUT, TIMEOUT, Attack, attack


def endless(number: int, name: str, code: str, **more: object) -> Attack:
    """Does not end by itself. Running into the limit of memory is as good."""
    return attack(number, name, code, TIMEOUT, MEMORY, **more)


def crash(number: int, name: str, code: str, **more: object) -> Attack:
    """Breaks its interpreter, and nothing else."""
    return attack(number, name, code, CRASHED, MEMORY, ERROR, **more)


LOUD = [
    attack(23, "infinite-output", "for _ in range(400_000): print('y' * 1000)\nprint('WORKED')", OUTPUT),
    attack(23, "infinite-error-output", "import os\nfor _ in range(400_000): os.write(2, b'y' * 1000)\nprint('WORKED')", OUTPUT),
    attack(23, "one-giant-line", "import sys\nsys.stdout.write('y' * (64 << 20)); print('WORKED')", OUTPUT, MEMORY),
    attack(23, "output-by-threads", "import os, threading\ndef loud():\n    for _ in range(400_000): os.write(1, b'y' * 1000)\nmany = [threading.Thread(target=loud) for _ in range(8)]\nfor t in many: t.start()\nfor t in many: t.join()\nprint('WORKED')", OUTPUT),
    attack(23, "output-byte-by-byte", "import os\nfor _ in range(1 << 17): os.write(1, b'y' * 16)\nprint('WORKED')", OUTPUT),
    attack(23, "traceback-without-end", "class E(Exception):\n    def __str__(self): return 'y' * (100 << 20)\nraise E", ERROR, MEMORY),
    attack(23, "warnings-without-end", "import sys, warnings\nwarnings.simplefilter('always')\nfor n in range(400_000): warnings.warn('y' * 1000)\nprint('WORKED')", OUTPUT),
]  # fmt: skip

SLOW = [
    endless(24, "ignore-signals", """
        import signal
        for s in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            try: signal.signal(s, signal.SIG_IGN)
            except PermissionError: pass  # SIGCHLD, where there are children
        while True: pass
        """),
    endless(24, "block-signals", "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass"),
    endless(25, "swallow-everything", """
        while True:
            try:
                while True: pass
            except BaseException: pass
        """),
    endless(25, "resurrect-for-ever", """
        class Phoenix:
            def __del__(self): Phoenix()
        Phoenix()
        while True: pass
        """),
    endless(26, "hold-the-lock", "9 ** 9 ** 9"),
    endless(26, "regular-expression", "import re; re.match('(a+)+$', 'a' * 60 + 'b')"),
    endless(26, "sum-in-c", "sum(range(10 ** 15))"),
    endless(26, "iterator-drained-in-c", "import itertools, collections\ncollections.deque(itertools.repeat(1), 0)"),
    endless(26, "endless-membership-test", "import itertools\n1 in itertools.repeat(0)"),
    endless(26, "many-threads-hold-the-lock", "import threading\nfor _ in range(8): threading.Thread(target=lambda: sum(range(10 ** 15))).start()\nsum(range(10 ** 15))"),
    endless(29, "wait-for-itself", "import threading\nlock = threading.Lock(); lock.acquire(); lock.acquire()"),
    endless(29, "wait-on-a-pipe", "import os\nr, w = os.pipe(); os.read(r, 1)"),
    attack(29, "stop-itself", "import signal, time\nsignal.raise_signal(signal.SIGSTOP)\nwhile True: time.sleep(1)", TIMEOUT, ERROR),
    attack(29, "stop-itself-by-the-terminal", "import signal, time\nsignal.raise_signal(signal.SIGTSTP)\nwhile True: time.sleep(1)", TIMEOUT, ERROR),
    endless(77, "sleep-to-the-limit", "import time; time.sleep(60)"),
    endless(77, "value-that-never-comes", "class V:\n    def __repr__(self):\n        while True: pass\nV()"),
    endless(77, "error-that-never-comes", "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E"),
    endless(77, "constant-folding-in-steps", "import sys; sys.set_int_max_str_digits(0)\nstr(9 ** 10 ** 8)"),
    endless(62, "ignore-the-cpu-signal", "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN); signal.signal(signal.SIGXFSZ, lambda *a: None)\nwhile True: pass"),
]  # fmt: skip

CRASHES = [
    crash(30, "deep-recursion", """
        import sys; sys.setrecursionlimit(10 ** 9)
        class A:
            def __repr__(self): return repr([self])
        repr(A())
        """),
    crash(30, "deep-recursion-in-a-thread", """
        import sys, threading
        sys.setrecursionlimit(10 ** 9); threading.stack_size(65536)
        class A:
            def __repr__(self): return repr([self])
        t = threading.Thread(target=lambda: repr(A())); t.start(); t.join(); 1 / 0
        """),
    crash(30, "deeply-nested-source", "exec('(' * 100_000 + ')' * 100_000)"),
    crash(30, "deeply-nested-objects", "x = ()\nfor _ in range(10 ** 6): x = (x,)\nhash(x); 1 / 0"),
    crash(31, "null-read", "import ctypes; ctypes.string_at(0)"),
    crash(31, "jump-nowhere", "import ctypes; ctypes.CFUNCTYPE(None)(1)()"),
    crash(31, "broken-code-object", "def f(): pass\nf.__code__ = f.__code__.replace(co_code=b'\\x64\\xff' * 99, co_stacksize=1)\nf(); 1 / 0"),
    crash(31, "out-of-bounds-through-strides", "import numpy\na = numpy.lib.stride_tricks.as_strided(numpy.zeros(1), (1 << 20,), (1 << 20,))\na.sum()"),
    crash(31, "abort", "import ctypes; ctypes.CDLL(None).abort()"),
    crash(31, "free-twice", "import ctypes\nlibc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\np = ctypes.c_void_p(libc.malloc(64)); libc.free(p); libc.free(p); libc.abort()"),
    attack(71, "core-dump-allowed", "import resource\nprint('WORKED' if resource.getrlimit(resource.RLIMIT_CORE)[1] else 'SAFE')"),
    crash(76, "die-like-out-of-memory", "import signal; signal.raise_signal(9)"),
    crash(76, "die-by-a-real-time-signal", "import signal; signal.raise_signal(40)"),
    crash(76, "die-by-the-filter", "import ctypes, signal; signal.raise_signal(signal.SIGSYS)"),
    crash(76, "exit-as-the-runner-does", "import os; os._exit(70)"),
    crash(21, "exit-half-way", "import os; os._exit(0)"),
    crash(21, "exit-in-c", "import ctypes; ctypes.CDLL(None).exit(0)"),
    crash(21, "exit-by-a-thread", "import os, threading, time\nthreading.Thread(target=os._exit, args=(0,)).start(); time.sleep(9)"),
    attack(21, "exit-with-a-code", "raise SystemExit(3)", ERROR, CRASHED),
]  # fmt: skip

TOO_MUCH = [
    attack(32, "huge-value", "'v' * (100 << 20)", OK, *FAILED),
    attack(32, "huge-value-printed-at-once", "print('v' * (256 << 20)); print('WORKED')", OUTPUT, MEMORY),
    attack(32, "giant-integer", "1 << 40_000_000", OK, *FAILED),
    attack(32, "giant-integer-as-text", "import sys; sys.set_int_max_str_digits(0); 10 ** 10 ** 7", OK, *FAILED),
    attack(32, "nested-value", "x = []\nfor _ in range(10 ** 5): x = [x]\nx", *FAILED),
    attack(32, "value-that-contains-itself", "x = {}; x[1] = x; print('SAFE'); x"),
    attack(32, "many-small-values", "list(range(300_000))", OK, *FAILED),
    attack(20, "forged-marker", "print('###EXIT CODE: 0###\\n<<<done>>>'); 1 / 0", ERROR),
    attack(20, "forged-answer-in-the-output", """print('{"id": 1, "value": "1", "error": null}'); 1 / 0""", ERROR),
]  # fmt: skip

ATTACKS = [*LOUD, *SLOW, *CRASHES, *TOO_MUCH]
