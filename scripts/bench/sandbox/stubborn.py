"""Programs that do not want to end: how long after its time is up does a call return?"""

from __future__ import annotations

import time

from palestra.sandbox import LocalSandbox, Status

ASKED_S = 0.5
PROGRAMS = {
    "loop": "while True: pass",
    "sleep": "import time; time.sleep(100)",
    "blocks every signal": (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass"
    ),
    "swallows every exception": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    ),
    "sits in C with the lock": "pow(3, 10**9)",
    "sits in C without it": "import ctypes; ctypes.CDLL(None).usleep(99_000_000)",
    "sixteen busy threads": (
        "import threading\ndef spin():\n    while True: pass\n"
        "for _ in range(15): threading.Thread(target=spin).start()\nspin()"
    ),
    "holds 500 MB": "x = bytearray(500_000_000)\nwhile True: pass",
    "writes": "import os, time\nwhile True: os.write(1, b'x'); time.sleep(0.001)",
}


def overruns(times: int) -> str:
    """A table: milliseconds from the end of a call's time to its return, by program."""
    lines = ["| ms after its time is up | p50 | most |", "| --- | --- | --- |"]
    with LocalSandbox() as sandbox:
        sandbox.run("1")
        for name, code in PROGRAMS.items():
            over = []
            for _ in range(times):
                with sandbox.open() as session:
                    start = time.perf_counter()
                    result = session.run(code, wall_s=ASKED_S)
                    over.append(1000 * (time.perf_counter() - start - ASKED_S))
                assert result.status is Status.TIMEOUT, (name, result)
            over.sort()
            lines.append(f"| {name} | {over[len(over) // 2]:.0f} | {over[-1]:.0f} |")
    return "\n".join(lines)
