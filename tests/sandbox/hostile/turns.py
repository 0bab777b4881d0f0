"""What one call leaves behind for the next in its session, and for other sessions."""

# The programs read better unbroken.
# ruff: noqa: E501

from .attack import ANY, CRASHED, ERROR, OK, TIMEOUT, attack, refused

ATTACKS = [
    attack(63, "timer-left-behind", "import signal\nsignal.signal(signal.SIGALRM, lambda *a: print('WORKED'))\ntry: signal.setitimer(signal.ITIMER_REAL, 0.2)\nexcept OSError: pass\nprint('SAFE')", own=True, then="import time; time.sleep(0.4); print('SAFE')"),
    attack(63, "alarm-left-behind", "import signal\nsignal.signal(signal.SIGALRM, lambda *a: print('WORKED'))\ntry: signal.alarm(1)\nexcept OSError: pass\nprint('SAFE')", own=True, then="import time; time.sleep(1.2); print('SAFE')"),
    attack(62, "handlers-left-behind", "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nprint('SAFE')", then="print('SAFE')"),
    attack(64, "output-at-exit", "import atexit\natexit.register(print, 'WORKED'); print('SAFE')", own=True),
    attack(64, "output-of-a-destructor", "class D:\n    def __del__(self): print('WORKED')\nkept = [D()]; kept.append(kept); print('SAFE')", own=True, then="print('SAFE')"),
    attack(65, "thread-that-prints-later", "import threading, time\ndef later():\n    time.sleep(0.3)\n    print('and this')\nthreading.Thread(target=later).start(); print('SAFE')", own=True, then="import time; time.sleep(0.5); print('SAFE')"),
    attack(65, "thread-that-never-ends", "import threading\ndef burn():\n    while True: pass\nfor _ in range(4): threading.Thread(target=burn).start()\nprint('SAFE')", own=True, then="print('SAFE')"),
    attack(65, "thread-that-floods-between-calls", "import os, threading\ndef flood():\n    while True: os.write(1, b'y' * 1000)\nthreading.Thread(target=flood).start(); print('SAFE')", *ANY, own=True, spoils=True),
    attack(65, "thread-that-answers-between-calls", "import os, threading, time\ndef speak():\n    while True: time.sleep(0.01); os.write(3, b'+x')\nthreading.Thread(target=speak).start(); print('SAFE')", OK, CRASHED, own=True),
    attack(65, "thread-that-exits-between-calls", "import os, threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), os._exit(0))).start(); print('SAFE')", own=True),
    attack(65, "thread-that-outlives-the-program", "import threading, time\nthreading.Thread(target=time.sleep, args=(30,)).start(); print('SAFE')", OK, TIMEOUT),
    attack(43, "module-dropped-in-the-folder", "for name in ('numpy', 'json', 'os', 'sitecustomize'): open(name + '.py', 'w').write('raise SystemExit(9)')\nprint('SAFE')", then="import json, numpy, os, sympy.abc; print('SAFE' if numpy.__file__ != os.path.abspath('numpy.py') else 'WORKED')"),
    attack(70, "folder-taken-away", "import os, shutil\nfor n in os.listdir('.'): os.unlink(n)\nos.mkdir('a'); os.chdir('a'); os.rmdir('../a'); print('SAFE')", then="print('SAFE')"),
    attack(70, "folder-that-cannot-be-left", "import os\nos.mkdir('shut', 0o100); os.chdir('shut'); print('SAFE')", then="print('SAFE')"),
    refused(75, "load-of-the-machine", "open('/proc/loadavg').read()"),
    refused(75, "socket-without-a-file", "__import__('socket').socket(1).bind('\\0palestra-channel')", own=True),
    attack(75, "record-locks-on-shared-files", "import fcntl, os\nd = os.open(os.__file__, 0)\nfcntl.lockf(d, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 77); print('SAFE')", OK, ERROR, own=True),
    attack(75, "exclusive-locks-on-shared-files", "import fcntl, os\nd = os.open(os.__file__, 0)\ntry: fcntl.flock(d, fcntl.LOCK_EX | fcntl.LOCK_NB); print('WORKED')\nexcept OSError: print('SAFE')", own=True),
    attack(85, "input-left-open", "import os\nkept = os.dup(0); print('SAFE', os.read(kept, 9))", own=True, then="import os\nprint('SAFE', os.read(kept, 9))"),
    attack(85, "input-replaced", "import io, os, sys\nsys.stdin = sys.__stdin__ = io.StringIO('old'); os.close(0); print('SAFE')", own=True, then="import os; print('SAFE' if input.__name__ == 'input' and os.read(0, 9) == b'' else 'WORKED')"),
    attack(85, "descriptors-used-up-before-the-next-call", "import os\ntry:\n    while True: os.dup(0)\nexcept OSError: print('SAFE')", own=True, then="print('SAFE')"),
    attack(85, "disk-used-up-before-the-next-call", "try:\n    f = open('full', 'wb', 0)\n    while True: f.write(bytes(1 << 20))\nexcept OSError: print('SAFE')", own=True, then="print('SAFE')"),
    attack(85, "memory-used-up-before-the-next-call", "x = []\ntry:\n    while True: x.append(bytearray(1 << 20))\nexcept MemoryError: pass\ntry:\n    while True: x.append(bytearray(999))\nexcept MemoryError: pass", *ANY, own=True),
    attack(70, "broken-on-purpose", "import sys\nsys.modules['palestra_sandbox.child'].__dict__.clear(); print('gone')", OK, ERROR, CRASHED, TIMEOUT, own=True),
]  # fmt: skip
