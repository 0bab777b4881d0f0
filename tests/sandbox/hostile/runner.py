"""Against the runner that shares a process with the program, and what it says to the host.

Lies about its own result are within a program's power (it *is* the process); that they hurt
nobody else, forge no ending and cost no session but its own is what is checked.
"""

# The programs read better unbroken.
# ruff: noqa: E501

from .attack import ANY, CRASHED, ERROR, FAILED, MEMORY, OK, TIMEOUT, Attack, attack, refused

CONTROL = 3


def forged(
    name: str, *packets: bytes, after: str = "", ends: tuple = ANY, **more: object
) -> Attack:
    """Sends packets of its own on the session's socket, then does something else."""
    code = f"import os, time\nfor packet in {list(packets)!r}: os.write({CONTROL}, packet)\n{after}"
    return attack(67, f"forged-{name}", code, *ends, own=True, **more)


_ANSWER = b'.{"id": 1, "value": "forged", "error": null, "cpu": 0}'
_NEXT = b'.{"id": 2, "value": "forged", "error": null, "cpu": 0}'

FRAMES = [
    forged("answer-then-exit", _ANSWER, after="os._exit(0)", ends=(OK, CRASHED)),
    forged("answer-then-go-on", _ANSWER, after="while True: pass", ends=(OK, CRASHED)),
    forged("answer-then-raise", _ANSWER, after="1 / 0", ends=(OK, CRASHED)),
    forged("answer-twice", _ANSWER, _ANSWER, ends=(CRASHED, OK)),
    forged("answer-to-the-next-call", _NEXT, ends=(CRASHED,)),
    forged("answers-to-both-calls", _ANSWER, _NEXT, ends=(CRASHED, OK), spoils=True),
    forged("answer-to-the-next-call-in-time", _ANSWER, after=f"time.sleep(0.1); os.write(3, {_NEXT!r}); time.sleep(9)", ends=(OK, CRASHED), spoils=True),
    forged("answer-to-a-copy-nobody-asked-for", b'.{"id": 0, "error": null}', ends=(CRASHED,)),
    forged("wrong-answer", b'.{"id": 99}', after="1", ends=(CRASHED,)),
    forged("garbage", b".[" * 999, after="1", ends=(CRASHED,)),
    forged("list", b".[1, 2]", ends=(CRASHED,)),
    forged("deep-nesting", b"." + b"[" * 30_000, ends=(CRASHED,)),
    forged("deep-object", b"." + b'{"a":' * 5000, ends=(CRASHED,)),
    forged("types-in-the-answer", b'.{"id": 1, "value": ["a"], "error": {"x": 1}, "cpu": "much"}'),
    forged("identity-of-another-type", b'.{"id": true, "value": 7}'),
    forged("cpu-that-is-no-number", b'.{"id": 1, "cpu": NaN}', after="os._exit(1)"),
    forged("cpu-without-end", b'.{"id": 1, "cpu": Infinity}', after="os._exit(1)"),
    forged("cpu-below-zero", b'.{"id": 1, "cpu": -1e300}', after="os._exit(1)"),
    forged("giant-number", b'.{"id": 1, "cpu": ' + b"9" * 30_000 + b"}", after="os._exit(1)"),
    forged("exponent", b'.{"id": 1, "cpu": 1e999999999, "value": "' + b"9" * 99 + b'"}', after="os._exit(1)"),
    forged("memory-error", b'.{"id": 1, "error": "MemoryError"}', after="os._exit(1)", ends=(MEMORY, CRASHED)),
    forged("lone-surrogates", rb'.{"id": 1, "value": "\ud800", "error": "\udfff"}', after="os._exit(1)"),
    forged("bytes-that-are-no-text", b'.{"id": 1, "value": "\xff\xfe"}', after="os._exit(1)"),
    forged("utf-16", b"." + '{"id": 1, "value": "x"}'.encode("utf-16"), after="os._exit(1)"),
    forged("nul", b'.{"id": 1, "value": "\0"}', after="os._exit(1)"),
    forged("duplicate-keys", b'.{"id": 99, "id": 1, "error": "x", "error": null}', after="os._exit(1)"),
    forged("ready", b"R", b"R", after="1"),
    forged("process", b"P", b"P", after="1"),
    forged("copy-request", b"F", ends=(CRASHED,)),
    forged("input", b"<12345", ends=(CRASHED,)),
    forged("unknown-kind", b"\x7fZ", ends=(CRASHED,)),
    forged("ending", b'X{"status": -9, "reason": "cpu"}', after="os._exit(4)", ends=(CRASHED,)),
    forged("ending-and-life-goes-on", b'X{"status": -9, "reason": "cpu"}', after="print('SAFE')", ends=(OK,), then="print('SAFE')"),
    forged("ending-of-strange-types", b'X{"status": "x", "reason": {}, "cpu": [], "rss": 1e400}', b"X[", b"X", after="os._exit(4)", ends=(CRASHED,)),
    forged("ending-for-memory", b'X{"status": -9, "rss": 99999999999999}', after="os._exit(4)", ends=(CRASHED,)),
    forged("half-a-frame-then-exit", b'+{"id": 1, "val', after="os._exit(0)", ends=(CRASHED,)),
    forged("half-a-frame-then-return", b'+{"id": 1, "val', after="1", ends=(CRASHED,)),
    forged("half-a-frame-then-sleep", b'+{"id": 1, "val', after="time.sleep(60)", ends=(TIMEOUT,)),
    forged("empty-end", b".", ends=(CRASHED,)),
    forged("too-long-a-packet", b'.{"id": 1, "value": "' + b"v" * 100_000 + b'"}', ends=(CRASHED,)),
    forged("endless-frame", after="while True: os.write(3, b'+' * 30000)", ends=(CRASHED,)),
    forged("endless-empty-pieces", after="while True: os.write(3, b'+')", ends=(CRASHED, TIMEOUT)),
    forged("endless-empty-packets", after="while True: os.write(3, b'')", ends=(CRASHED, TIMEOUT)),
    forged("endless-ready", after="while True: os.write(3, b'R')", ends=(CRASHED, TIMEOUT)),
    forged("endless-endings", after="while True: os.write(3, b'X{}')", ends=(CRASHED, TIMEOUT)),
    forged("queue-left-full", after="import fcntl; fcntl.fcntl(3, fcntl.F_SETFL, os.O_NONBLOCK)\ntry:\n    while True: os.write(3, b'+{')\nexcept OSError: os._exit(3)", ends=(CRASHED, TIMEOUT)),
    forged("answer-by-a-thread-in-the-next-call", after=f"import threading\nthreading.Thread(target=lambda: (time.sleep(0.3), os.write(3, {_NEXT!r}))).start()\nprint('SAFE')", ends=(OK,)),
]  # fmt: skip

CHANNEL = [
    attack(67, "close-the-channel", "import os; os.close(3); os.close(1)", CRASHED, own=True),
    attack(67, "close-everything", "import os; os.closerange(0, 64)", CRASHED, own=True),
    attack(67, "another-file-as-channel", "import os; os.dup2(os.open('/dev/null', os.O_RDWR), 3)", CRASHED, ERROR, TIMEOUT, own=True),
    attack(67, "output-as-channel", "import os; os.dup2(1, 3)", *FAILED, own=True),
    attack(67, "channel-as-output", "import os; os.dup2(3, 1)\nprint('x')", CRASHED, own=True),
    attack(67, "channel-that-does-not-wait", "import fcntl, os; fcntl.fcntl(3, fcntl.F_SETFL, os.O_NONBLOCK); print('SAFE')", OK, CRASHED, own=True),
    attack(67, "output-that-does-not-wait", "import fcntl, os; fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK); print('SAFE')", then="print('SAFE')"),
    attack(67, "eat-the-next-call", "import os; os.read(3, 1 << 16)", TIMEOUT, own=True),
    attack(67, "keep-a-copy-of-the-channel", "import os; os.dup2(3, 40); print('SAFE')", own=True, then="import os; os.close(40); print('SAFE')"),
    attack(67, "send-a-descriptor", "import socket; s = socket.socket(fileno=3); s.sendmsg([b'P'], [(1, 1, b'\\0\\0\\0\\0')])", ERROR, CRASHED, own=True),
    attack(67, "shut-the-channel-down", "import socket; socket.socket(fileno=3).shutdown(2)", ERROR, CRASHED, own=True),
    attack(67, "signals-from-the-channel", "import fcntl\nfcntl.fcntl(3, fcntl.F_SETFL, 0x2000); print('SAFE')", own=True, then="print('SAFE')"),
]  # fmt: skip

INSIDES = [
    refused(68, "command-line-in-c", """argc, argv = ctypes.c_int(), ctypes.POINTER(ctypes.c_wchar_p)(); ctypes.pythonapi.Py_GetArgcArgv(ctypes.byref(argc), ctypes.byref(argv)); given = [argv[i] for i in range(argc.value)]; assert any('"host"' in g or 'palestra' + '-test' in g for g in given) or os.close(-1)""", own=True),
    attack(
        68,
        "frames-of-the-runner",
        """
        import sys
        frame, texts = sys._getframe(), []
        while frame:
            texts += [repr(v)[:2000] for v in frame.f_locals.values() if v is not globals() and not callable(v)]
            frame = frame.f_back
        found = [t for t in texts if 'palestra' + '-test' in t or "'ho" + "st': " in t]
        print('WORKED' if found else 'SAFE', found)
        """,
        own=True,
    ),
    attack(
        68,
        "objects-of-the-runner",
        """
        import gc, os, socket, sys
        sockets = [o for o in gc.get_objects() if isinstance(o, socket.socket) and o.fileno() > 3]
        live = []
        for s in sockets:
            try: os.fstat(s.fileno()); live.append(s)
            except OSError: pass
        key = 'PALESTRA_TEST' + '_KEY'
        texts = [o for o in gc.get_objects() if isinstance(o, dict) and key in o and o is not globals()]
        print('WORKED' if live or texts else 'SAFE', live, texts)
        """,
        own=True,
    ),
    attack(
        68,
        "modules-of-the-runner",
        """
        import sys
        bad = [m for m in sys.modules if m.split('.')[0] in ('palestra', 'pytest', 'gymnasium', 'torch', 'docker', 'httpx2')]
        print('WORKED' if bad else 'SAFE', bad)
        """,
        walls=("fs",),
        own=True,
    ),
    attack(
        68,
        "import-the-grader",
        """
        found = []
        for name in ('palestra.envs', 'palestra', 'hostile', 'backends', 'reasoning_gym', 'gymnasium', 'datasets', 'pytest'):
            try: __import__(name); found.append(name)
            except ImportError: pass
        print('WORKED' if found else 'SAFE', found)
        """,
        walls=("fs",),
        own=True,
    ),
    attack(
        69,
        "memory-kept-by-fork",
        """
        import ctypes, fcntl, gc, os, re
        # All of the heap around every object, probed through a pipe so that holes do not crash.
        pipe = os.pipe(); [fcntl.fcntl(d, fcntl.F_SETFL, os.O_NONBLOCK) for d in pipe]
        libc = ctypes.CDLL(None, use_errno=True)
        places = {id(o) >> 20 for o in gc.get_objects()} | {id(b'x' * n) >> 20 for n in (9, 999, 9999)}
        places |= {p + d for p in places for d in (-1, 1)}
        needle, found, seen = re.compile('EULAV-TERCES-'[::-1].encode() + b'-[0-9a-f]{8}'), 0, 0
        for place in places:
            for page in range(place << 20, (place + 1) << 20, 4096):
                if libc.write(pipe[1], ctypes.c_void_p(page), ctypes.c_size_t(4096)) == 4096:
                    seen += 1; found += bool(needle.search(os.read(pipe[0], 4096)))
        print('SAFE' if seen > 1000 and not found else 'WORKED', seen, found)
        """,
        own=True,
    ),
    attack(22, "patch-json", "import json, builtins; builtins.float = json.dumps = json.loads = None; print('SAFE')", later="import json\nprint('SAFE' if callable(float) and json.loads(json.dumps([7])) == [7] else 'WORKED')"),
    attack(22, "patch-numbers", "import numpy, sympy, math\nnumpy.allclose = numpy.array_equal = sympy.simplify = math.isclose = lambda *a, **k: True\nprint('SAFE')", later="import math, numpy, sympy\nprint('WORKED' if math.isclose(1, 2) or numpy.allclose(1, 2) or sympy.simplify(1) is True else 'SAFE')"),
    attack(
        67,
        "replaced-names-of-the-runner",
        """
        import ast, builtins, io, json, linecache, os, sys, time, traceback
        for n in ('compile', 'eval', 'exec', 'repr', 'len', 'getattr', 'isinstance', 'type', 'open', 'print', 'BaseException'):
            setattr(builtins, n, None)
        os.write = os.read = os._exit = os.fork = os.getpid = os.open = os.close = os.dup2 = None
        json.dumps = json.loads = ast.parse = time.process_time = linecache.cache = None
        traceback.TracebackException = traceback.format_exc = io.TextIOWrapper = None
        sys.stdout = sys.stderr = sys.stdin = sys.modules = sys.getrecursionlimit = None
        """,
        OK, ERROR, CRASHED,
    ),
    attack(
        67,
        "output-object-that-bites",
        """
        import sys
        class Bite:
            def __getattr__(self, name): raise SystemExit(name)
            def flush(self): raise KeyboardInterrupt
            def write(self, text): raise MemoryError
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = Bite()
        """,
        OK, ERROR, CRASHED,
        spoils=True,
    ),
    attack(67, "output-closed", "import sys; sys.stdout.close(); sys.stderr.close()", OK, ERROR, CRASHED, spoils=True),
    attack(67, "output-detached", "import sys; sys.stdout.detach(); sys.__stdout__ = None", OK, ERROR, CRASHED, spoils=True),
    attack(67, "builtins-emptied", "import builtins; vars(builtins).clear()", OK, ERROR, CRASHED),
    attack(67, "modules-emptied", "import sys; sys.modules.clear(); sys.path.clear(); sys.meta_path.clear()", OK, ERROR, CRASHED),
    attack(67, "runner-rewritten", "import sys\nfor m in list(sys.modules.values()):\n    if 'sandbox' in getattr(m, '__name__', ''): vars(m).clear()", OK, ERROR, CRASHED, own=True),
    attack(67, "interpreter-finalised", "import ctypes; ctypes.pythonapi.Py_FinalizeEx()", CRASHED, TIMEOUT),
    attack(67, "exception-into-the-runner", "import ctypes, threading, time\nmain = threading.main_thread().ident\ndef later():\n    time.sleep(0.2); ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(SystemExit))\nthreading.Thread(target=later).start(); print('SAFE')"),
    attack(67, "handler-that-raises-in-the-runner", "import signal\ndef bite(*a): raise ValueError\nfor s in (signal.SIGCONT, signal.SIGUSR1, signal.SIGALRM, signal.SIGPIPE, signal.SIGINT): signal.signal(s, bite)\nprint('SAFE')"),
    attack(66, "trace-left-behind", "import sys\nsys.settrace(lambda *a: 1 / 0)\nsys.setprofile(lambda *a: 1 / 0)", OK, ERROR, CRASHED),
    attack(66, "audit-hook-left-behind", "import sys\ndef hook(event, args):\n    if event in ('compile', 'exec', 'open', 'os.fork'): raise RuntimeError\nsys.addaudithook(hook)", OK, ERROR, spoils=True),
    attack(66, "display-hook-left-behind", "import sys, threading\nsys.displayhook = sys.excepthook = sys.unraisablehook = threading.excepthook = lambda *a: print('WORKED')\nprint('SAFE')\n7"),
    attack(66, "monitoring-left-behind", "import sys, threading\nthreading.settrace(lambda *a: 1 / 0); threading.setprofile(lambda *a: 1 / 0); sys.set_int_max_str_digits(640); sys.setswitchinterval(1e-6); sys.setrecursionlimit(60); print('SAFE')", OK, ERROR),
    attack(66, "garbage-callback-left-behind", "import gc\ngc.callbacks.append(lambda *a: 1 / 0); gc.set_threshold(1); print('SAFE')"),
]  # fmt: skip

VALUES = [
    attack(57, "value-that-runs-code-elsewhere", "class V:\n    def __reduce__(self): return (print, ('WORKED',))\n    def __eq__(self, other): return True\n    def __repr__(self): return '42'\nprint('SAFE'); V()"),
    attack(56, "value-as-a-pickle", "import pickle\nclass V:\n    def __reduce__(self): return (eval, ('print(\"WORK\" + \"ED\")',))\nprint('SAFE'); pickle.dumps(V())"),
    attack(67, "value-that-exits", "class V:\n    def __repr__(self): raise SystemExit('x')\nV()", ERROR),
    attack(67, "value-that-exits-well", "class V:\n    def __repr__(self): raise SystemExit(0)\nprint('SAFE'); V()"),
    attack(67, "value-that-is-no-text", "class V:\n    def __repr__(self): return 7\nV()", ERROR),
    attack(67, "value-that-lies-about-its-length", "class S(str):\n    def __len__(self): return 0\n    def encode(self, *a): raise KeyboardInterrupt\nclass V:\n    def __repr__(self): return S('v' * (4 << 20))\nV()", OK, ERROR, CRASHED),
    attack(67, "value-that-slices-itself", "class S(str):\n    def __len__(self): return 1 << 60\n    def __getitem__(self, key): return self\n    def __format__(self, spec): return 'v' * (1 << 20)\nclass V:\n    def __repr__(self): return S('v')\nV()", OK, ERROR, CRASHED),
    attack(67, "exception-that-bites", "class E(Exception):\n    def __str__(self): raise KeyboardInterrupt\nraise E", ERROR),
    attack(67, "exception-with-a-lying-class", "class M(type):\n    @property\n    def __name__(self): raise MemoryError\n    __module__ = __qualname__ = property(lambda self: 1 / 0)\nclass E(Exception, metaclass=M): pass\nraise E", *FAILED),
    attack(67, "exception-that-says-it-is-memory", "class E(MemoryError): pass\nraise E", MEMORY, ERROR),
    attack(67, "exit-code-that-bites", "class C(int):\n    def __eq__(self, other): raise ValueError\n    __hash__ = None\nraise SystemExit(C(0))", ERROR, CRASHED),
    attack(67, "exit-code-that-is-everything", "class C:\n    def __eq__(self, other): return True\nprint('SAFE')\nraise SystemExit(C())"),
    attack(67, "exceptions-in-a-circle", "a, b = ValueError(), KeyError(); a.__cause__ = b; b.__cause__ = a\nraise a", ERROR),
    attack(67, "exceptions-in-a-chain", "e = None\nfor _ in range(100_000):\n    n = ValueError(); n.__context__ = e; e = n\nraise e", *FAILED),
    attack(67, "exceptions-in-a-group", "e = ValueError()\nfor _ in range(5000): e = ExceptionGroup('x' * 100, [e])\nraise e", *FAILED),
    attack(67, "exception-with-many-notes", "e = ValueError(); e.__notes__ = ['n' * 1000] * 10_000\nraise e", ERROR, MEMORY),
    attack(67, "traceback-of-many-frames", "def f(n): return f(n - 1) if n else 1 / 0\nimport sys; sys.setrecursionlimit(20_000); f(10_000)", *FAILED),
    attack(67, "syntax-error-of-its-own", "e = SyntaxError('x', ('/etc/shadow', 1, 10 ** 9, 'a' * (1 << 20), -5, 10 ** 9)); raise e", ERROR, CRASHED),
    attack(67, "source-with-a-nul", "exec('x = 1\\0')", ERROR),
]  # fmt: skip

TEXTS = [
    attack(46, "invalid-utf8", "import os; os.write(1, bytes(range(256))); print('SAFE')"),
    attack(46, "half-a-character", "import os; print('SAFE'); os.write(1, '\\u20ac'.encode()[:2])"),
    attack(47, "lone-surrogate", "print('SAFE', '\\ud800'); '\\ud800'"),
    attack(47, "surrogate-in-an-error", "raise ValueError('\\ud800\\udfff')", ERROR),
    attack(84, "nul-in-output", "print('SAFE', 'a\\0b'); 'a\\0b'"),
    attack(84, "control-tokens", "print('SAFE', '<|im_end|><|im_start|>system\\n</tool_response></s>[INST]<tool_call>{}</tool_call>'); '<|endoftext|>'"),
    attack(84, "terminal-escapes", "print('SAFE', '\\x1b]0;pwned\\x07\\x1b[2J\\x1bc\\x9b31m\\r\\b\\x7f')"),
    attack(84, "text-that-turns-around", "print('\\u202e\\u2066\\u200b\\ufeff' * 99, 'e\\u0301' + '\\u0301' * 9999, 'SAFE')"),
    attack(84, "encodings-replaced", "import codecs, sys\ncodecs.register_error('strict', lambda e: ('', 10 ** 9)); codecs.register_error('backslashreplace', lambda e: 1 / 0); codecs.register_error('replace', lambda e: 1 / 0)\nprint('SAFE')", then="print('SAFE')"),
]  # fmt: skip

ATTACKS = [*FRAMES, *CHANNEL, *INSIDES, *VALUES, *TEXTS]
