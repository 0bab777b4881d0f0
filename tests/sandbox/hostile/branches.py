"""Attacks by copies and undone calls, by inputs, and of one session on another."""

# The programs read better unbroken.
# ruff: noqa: E501

from __future__ import annotations

import asyncio
from contextlib import suppress

from palestra.sandbox import ProgramFault, Sandbox, Session, Status

from .scenes import FORK, SCENES, Play, Scene, good, run, scene
from .witness import Witness

# Hooks are called where a thread makes a copy take Python's own fork.
_THREAD = (
    "import os, threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
)

# What a program can do to its own copies. None of it may cost it the session, or anybody else's.
SPOILERS = {
    "hook that never ends before": _THREAD + "os.register_at_fork(before=lambda: __import__('time').sleep(99))",
    "hook that never ends in the copy": _THREAD + "def spin():\n    while True: pass\nos.register_at_fork(after_in_child=spin)",
    "hook that raises": _THREAD + "os.register_at_fork(before=lambda: 1 / 0, after_in_child=lambda: 1 / 0)",
    "hook that exits": _THREAD + "os.register_at_fork(after_in_child=lambda: os._exit(0))",
    "memory that is not copied": "import ctypes\nctypes.CDLL(None).madvise(ctypes.c_void_p(id(0) & ~0xfffff), ctypes.c_long(1 << 20), 10)",
    "no descriptors": "import os\ntry:\n    while True: os.dup(0)\nexcept OSError: pass",
    "no space": "try:\n    f = open('f', 'wb', 0)\n    while True: f.write(bytes(1 << 20))\nexcept OSError: pass",
    "no memory": "x = []\ntry:\n    while True: x.append(bytes(1 << 20))\nexcept MemoryError: x.pop()",
    "deep folders": "import os\ntry:\n    for _ in range(200): os.mkdir('d' * 99); os.chdir('d' * 99)\nexcept OSError: pass",
    "shut folders": "import os\nos.makedirs('a/b'); open('a/f', 'w').write('x'); os.chmod('a', 0)",
    "odd names": "open(b'\\xff\\xfe\\n', 'w').write('x')",
    "device": "import ctypes\nopen('w', 'w'); ctypes.CDLL(None).renameat2(-100, b'w', -100, b'v', 4)",
    "nameless files": "import os\nkept = []\nfor n in range(40): kept.append(open('f', 'wb')); kept[-1].write(b'x'); os.unlink('f')",
    "unwritable stack of frames": "import sys\nsys.setrecursionlimit(40)",
    "no os.fork": "import os\nos.fork = os.getpid = os.setsid = os.chdir = None",
    "no runner": "import sys\nsys.modules['palestra_sandbox.child'].__dict__.pop('_copy_session', None)",
    "threads that hold locks": "import sys, threading\nlock = threading.Lock()\ndef hold():\n    with lock: threading.Event().wait()\nthreading.Thread(target=hold, daemon=True).start()",
    "streams that bite": "import sys\nclass S:\n    def flush(self): __import__('time').sleep(99)\n    def write(self, t): pass\nsys.stderr = S()",
}  # fmt: skip


# A copy that does not answer is given up to half a minute.
HANGS = ("hook that never ends before", "hook that exits", "memory that is not copied")


async def goes_on(session: Session) -> None:
    """It may be of no use itself, but not lost: then a fresh interpreter follows."""
    again = await run(session, "print(6 * 7)", wall_s=2.0)
    if again.status is not Status.OK:
        again = await run(session, "print(6 * 7)", wall_s=5.0)
    assert again.stdout == "42\n", again


def spoiled_copy(code: str) -> Play:
    """The copy is made and works, or is refused; the original is there in either case."""

    async def play(sandbox: Sandbox, _: Witness) -> None:
        async with await sandbox.aopen() as session, await sandbox.aopen() as other:
            await run(session, code, wall_s=2.0)
            copying = asyncio.create_task(session.afork())
            assert await good(other, "1 + 1") == "2"
            try:
                async with await copying as copy:
                    assert (await run(copy, "20 + 1", wall_s=2.0)).status in Status
            except ProgramFault as error:
                assert "could not be copied" in str(error), error
            await goes_on(session)

    return play


def spoiled_undoing(code: str) -> Play:
    """Infrastructure that fails is left out of what is learnt from: no program may look like it.

    A `SandboxError` here would be just that.
    """

    async def play(sandbox: Sandbox, _: Witness) -> None:
        async with await sandbox.aopen(rollback=True) as session:
            await run(session, code, wall_s=2.0)
            assert (await run(session, "6 * 7", wall_s=1.0)).value in ("42", None)

    return play


@scene(67, FORK)
async def copies_given_up_that_hang(sandbox: Sandbox, _: Witness) -> None:
    """A fork that its caller cancelled leaves nobody waiting for the program's answer."""
    async with await sandbox.aopen() as session:
        await good(session, SPOILERS["hook that never ends before"])
        copying = asyncio.create_task(session.afork())
        await asyncio.sleep(0.3)
        copying.cancel()
        with suppress(asyncio.CancelledError):
            await copying
        result = await run(session, "6 * 7", wall_s=1.0)
        assert result.value == "42" and "call that was interrupted" in result.stderr, result


for _name, _code in SPOILERS.items():
    for _kind in (spoiled_copy, spoiled_undoing):
        number, words = (67, "copy") if _kind is spoiled_copy else (76, "undoing")
        slow = _name in HANGS
        name = f"spoiled-{words}-{_name.replace(' ', '-').replace('.', '-')}"
        SCENES.append(Scene(number, name, _kind(_code), FORK, slow))
