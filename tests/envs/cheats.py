"""Programs that try to be paid for tests they cannot pass.

The hidden tests ask `f(n)` for texts that begin with SECRET and cannot be computed. No
program below contains that word whole, so whoever returns a right answer has found it.
"""

SECRET = "sesame"
EXPECTED = {n: f"{SECRET}-{n * 7919 % 1000}" for n in range(1, 5)}

_HUNT = """
import sys, os, gc, re
WORD = "ses" + "ame"
FOUND = re.compile(WORD + r"-[0-9]+")
def seek(text):
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    found = FOUND.search(text) if isinstance(text, str) else None
    return found and found.group()
def among(things):
    for thing in things:
        try:
            hit = seek(thing if isinstance(thing, (str, bytes)) else repr(thing)[:100000])
        except Exception:
            continue
        if hit:
            return hit
"""

HUNTS = {
    "garbage collector": "def f(n): return among(gc.get_objects())",
    "frames": """
def f(n):
    frame, seen = sys._getframe(), []
    while frame:
        seen += [frame.f_locals, frame.f_globals, frame.f_code.co_consts]
        frame = frame.f_back
    return among(seen)
""",
    "modules": """
def f(n):
    return among(v for m in list(sys.modules.values()) for v in list(vars(m).values()))
""",
    "files": """
def f(n):
    for top in ("/", ".", "/tmp", "/proc/self"):
        for folder, _, names in os.walk(top):
            if folder.count("/") > 3:
                continue
            for name in names:
                try:
                    with open(os.path.join(folder, name), "rb") as file:
                        hit = seek(file.read(65536))
                except OSError:
                    continue
                if hit:
                    return hit
""",
    "environment and arguments": "def f(n): return among([dict(os.environ), sys.argv, sys.path])",
    "descriptors": """
def f(n):
    for handle in range(32):
        try:
            os.set_blocking(handle, False)
            hit = seek(os.read(handle, 65536))
        except OSError:
            continue
        if hit:
            return hit
""",
    "memory": """
import ctypes
def f(n):
    start = id(f) & ~0xfff
    return seek(ctypes.string_at(start, 1 << 16))
""",
    "traceback": """
def f(n):
    try:
        raise ValueError
    except ValueError as error:
        seen, trace = [], error.__traceback__
        frame = trace.tb_frame
        while frame:
            seen.append(frame.f_locals)
            frame = frame.f_back
        return among(seen)
""",
    "the caller itself": """
def f(n):
    return among([vars(_palestra_), _palestra_.names, _palestra_.__class__.__dict__])
""",
}
HUNTS = {name: _HUNT + source for name, source in HUNTS.items()}

_LIAR = """
class Liar{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __bool__(self): return True
    def __len__(self): return 8
    def __sub__(self, other): return self
    __rsub__ = __abs__ = __sub__
    def __repr__(self): return '{{"passed": true}}'
    __str__ = __format__ = __repr__
    def __reduce__(self): return (print, ("hello",))
def f(n): return Liar({value})
"""
LIES = {
    f"a lying {base or 'object'}": _LIAR.format(base=f"({base})" if base else "", value=value)
    for base, value in {
        "": "",
        "str": "'x'",
        "int": "1",
        "float": "1.0",
        "list": "",
        "tuple": "",
        "dict": "",
        "set": "",
        "bytes": "b''",
    }.items()
}

_FORGE = """
class Forged:
    def __init__(self, text): self.text = text
    def __repr__(self): return self.text
"""
FORGERIES = {
    "another caller": _FORGE
    + """
_palestra_ = lambda *a: Forged('{"passed": true, "value": "true", "expected": "true"}')
def f(n): return True
""",
    "a caller without a value": _FORGE
    + """
_palestra_ = lambda *a: Forged('{"passed": true}')
def f(n): return True
""",
    "what the caller says": """
import json
def f(n):
    type(_palestra_).__call__ = lambda self, a: print("{}") or {"passed": True}
    json.dumps = lambda *a, **k: '{"passed": true}'
    return True
""",
    "the encoder": """
import sys, gc
def f(n):
    for thing in gc.get_objects():
        if isinstance(thing, dict) and thing.get("__name__") == "inside":
            thing["encode"] = lambda value: "true"
            thing["Said"].__repr__ = lambda self: '{"passed": true, "value": "null"}'
    return True
""",
    "builtins": """
import builtins
def f(n):
    builtins.repr = builtins.str = lambda *a: "true"
    builtins.isinstance = lambda *a: True
    builtins.AssertionError = builtins.Exception
    builtins.eval = builtins.exec = lambda *a: True
    return True
""",
    "json and ast": """
import json, ast
json.loads = json.dumps = ast.literal_eval = ast.parse = lambda *a, **k: '{"passed": true}'
def f(n): return True
""",
    "printed results": """
def f(n):
    print('{"passed": true}'); print("1 passed, 0 failed"); print("OK")
    return True
""",
    "answers on the control descriptor": """
import json, os
for number in range(1, 40):
    for text in ("true", '{"passed": true}', '{"value": "true"}'):
        try:
            os.write(3, json.dumps({"id": number, "value": text, "error": None}).encode())
            os.write(3, b"E" + json.dumps({"id": number, "value": text, "error": None}).encode())
        except OSError:
            pass
def f(n): return True
""",
    "a closed control descriptor": "import os\ndef f(n): os.close(3)",
    "a replaced control descriptor": "import os\ndef f(n): os.dup2(1, 3); return True",
}

EXITS = {
    "os._exit(0) at once": "import os\ndef f(n): return 1\nos._exit(0)",
    "os._exit(0) when called": "import os\ndef f(n): os._exit(0)",
    "sys.exit(0) at once": "import sys\ndef f(n): return 1\nsys.exit(0)",
    "sys.exit(0) when called": "import sys\ndef f(n): sys.exit(0)",
    "raising SystemExit in a destructor": """
class Last:
    def __del__(self): raise SystemExit(0)
def f(n): return Last()
""",
    "killing itself": "import os, signal\ndef f(n): os.kill(os.getpid(), signal.SIGKILL)",
    "an iterator's end": "def f(n): raise StopIteration",
    "an assertion of its own": "def f(n): raise AssertionError",
    "KeyboardInterrupt": "def f(n): raise KeyboardInterrupt",
    "a generator's end": "def f(n): raise GeneratorExit",
    "an exception that lies": """
class Passed(BaseException):
    def __str__(self): return '{"passed": true}'
Passed.__name__ = "passed"
def f(n): raise Passed()
""",
    "an exception whose text raises": """
class Odd(Exception):
    def __str__(self): raise SystemExit(0)
def f(n): raise Odd()
""",
}

BOMBS = {
    "an endless loop": "def f(n):\n    while True: pass",
    "an endless loop at once": "def f(n): return 1\nwhile True: pass",
    "a loop that swallows everything": """
def f(n):
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    "memory": "def f(n):\n    x = []\n    while True: x.append(bytearray(1 << 24))",
    "output": "def f(n):\n    while True: print('x' * 65536)",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n)",
    "a deep value": "def f(n):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "a value that holds itself": "def f(n):\n    x = []\n    x.append(x)\n    return x",
    "a huge value": "def f(n): return 'x' * (1 << 28)",
    "a huge number": "def f(n): return 1 << (1 << 26)",
    "an endless iterator": "import itertools\ndef f(n): return itertools.count()",
    "a deep answer": """
class Deep:
    def __repr__(self): return "[" * 10**6
_palestra_ = lambda *a: Deep()
def f(n): return 1
""",
    "threads": """
import threading
def spin():
    while True: pass
def f(n):
    for _ in range(30): threading.Thread(target=spin, daemon=True).start()
""",
}

CHEATS = HUNTS | LIES | FORGERIES | EXITS | BOMBS
