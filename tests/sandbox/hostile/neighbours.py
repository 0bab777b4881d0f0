"""Attacks by inputs and limits, and of one session on another."""

# The programs read better unbroken.
# ruff: noqa: E501

from __future__ import annotations

import asyncio
import contextlib
import secrets
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from palestra.sandbox import ProgramFault, Sandbox, SandboxError, Session, Status

from .attack import ATTACK_LIMITS
from .scenes import FORK, good, run, scene
from .witness import Witness

# Finds a text in all memory around every object; the text comes in two halves.
SCAN = """
import ctypes, fcntl, gc, os
pipe = os.pipe(); [fcntl.fcntl(d, fcntl.F_SETFL, os.O_NONBLOCK) for d in pipe]
libc, head, tail = ctypes.CDLL(None), {head!r}, {tail!r}
places = {{id(o) >> 20 for o in gc.get_objects()}} | {{id(b'x' * n) >> 20 for n in (9, 999, 9999)}}
places |= {{p + d for p in places for d in (-1, 1)}}
found = seen = 0
for place in places:
    for page in range(place << 20, (place + 1) << 20, 4096):
        if libc.write(pipe[1], ctypes.c_void_p(page), ctypes.c_size_t(4096)) == 4096:
            seen += 1; data = os.read(pipe[0], 4096)
            at = data.find(head)
            while at >= 0: found += data[at + 16:].startswith(tail); at = data.find(head, at + 1)
(found, seen > 1000)
"""


@scene(69)
async def memory_of_other_sessions(sandbox: Sandbox, _: Witness) -> None:
    """What one session was told (code, input, files, value) is in no memory of a later one."""
    marker = secrets.token_hex(16)
    async with await sandbox.aopen() as first:
        for number in range(3):
            await first.awrite_file(f"{marker}-{number}", marker.encode() * 50)
            await good(first, f"x = '{marker}'\nprint(x)\nx", stdin=marker * 9)
            await first.aread_file(f"{marker}-{number}")
        for _ in range(2):
            async with await sandbox.aopen() as later:
                scan = SCAN.format(head=marker[:16].encode(), tail=marker[16:].encode())
                assert await good(later, scan) == "(0, True)"


@scene(70, FORK)
async def state_after_a_time_out(sandbox: Sandbox, _: Witness) -> None:
    """With rollback, exactly the state before the call; without, nothing of it."""
    spoil = """
        import os, random, sys
        x.append(2); y = 3; random.random(); os.chdir('/'); open('/tmp/new', 'w').write('x')
        sys.modules['json'] = None; open('/tmp/kept', 'w').write('other'); next(g)
        while True: pass
        """
    start = """
        import os, random
        x = [1]; g = iter(range(9)); next(g); here = os.getcwd(); open('kept', 'w').write('own')
        random.seed(5)
        """
    look = """
        import json
        (x, 'y' in globals(), next(g), open('kept').read(), os.getcwd() == here, os.listdir('.'))
        """
    async with await sandbox.aopen(rollback=True) as session:
        await good(session, start)
        drawn = await good(session, "random.getstate()[1][-1]")
        for _ in range(2):
            assert (await run(session, spoil, wall_s=0.5)).status is Status.TIMEOUT
        assert await good(session, "random.getstate()[1][-1]") == drawn
        expected = "([1], False, 1, 'own', True, ['kept'])"
        assert (await good(session, look)).strip() == expected
    async with await sandbox.aopen() as session:
        await good(session, start)
        assert (await run(session, spoil, wall_s=0.5)).status is Status.TIMEOUT
        result = await run(session, "x")
        assert "NameError" in result.stderr and "a fresh interpreter" in result.stderr


@scene(75, FORK)
async def pipe_between_copies(sandbox: Sandbox, _: Witness) -> None:
    """Branches of one group must not pass each other the answer."""
    async with await sandbox.aopen() as session:
        await good(session, "import os, select; r, w = os.pipe()")
        try:
            async with await session.afork() as copy:
                await run(copy, "os.write(w, b'the answer')")
                heard = await good(session, "len(select.select([r], [], [], 0.1)[0])")
                assert heard == "0", "the original reads what its copy wrote"
        except ProgramFault as error:
            assert "could not be copied" in str(error), error


@scene(70, FORK)
async def descriptors_of_copies(sandbox: Sandbox, _: Witness) -> None:
    """What was open before the copy is no way into the files of the original."""
    opened = """
        import os
        open('mine', 'w').write('original'); os.mkdir('below')
        here, below = os.open('.', os.O_RDONLY), os.open('below', os.O_PATH)
        f, library, nameless = open('mine', 'r+'), open(os.__file__), open('gone', 'w+')
        nameless.write('abc'); nameless.flush(); os.unlink('gone')
        r, w = os.pipe(); n = os.write(w, b'before')
        """
    change = """
        import os
        os.write(os.open('mine', os.O_WRONLY, dir_fd=here), b'CHANGED!')
        for d in (here, below): os.close(os.open('new', os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=d))
        f.seek(0); f.write('CHANGED!'); f.flush(); library.seek(99); nameless.write('d'); nameless.flush()
        os.write(w, b' and after')
        (os.read(r, 99), os.pread(nameless.fileno(), 9, 0))
        """
    look = """
        (open('mine').read(), os.listdir('.'), os.listdir('below'), os.lseek(library.fileno(), 0, 1),
         os.pread(nameless.fileno(), 9, 0), os.read(r, 99))
        """
    async with await sandbox.aopen() as session:
        await good(session, opened)
        async with await session.afork() as copy:
            assert await good(copy, change) == "(b'before and after', b'abcd')"
            seen = await good(session, look)
    assert seen.replace("'below', 'mine'", "'mine', 'below'") == (
        "('original', ['mine', 'below'], [], 0, b'abc', b'before')"
    )


@scene(70, FORK)
async def folder_of_copies(sandbox: Sandbox, _: Witness) -> None:
    """A copy that was made to stay where it is does not stay in the folder of the original."""
    stay = """
        import os
        os.chdir = lambda path: None
        open('mine', 'w').write('original')
        """
    async with await sandbox.aopen() as session:
        await good(session, stay)
        try:
            async with await session.afork() as copy:
                await run(copy, "open('new', 'w').write('x'); open('mine', 'w').write('CHANGED')")
        except ProgramFault as error:
            assert "could not be copied" in str(error), error
        assert await good(session, "(open('mine').read(), os.listdir('.'))") == (
            "('original', ['mine'])"
        )


@scene(75, FORK)
async def mapping_between_copies(sandbox: Sandbox, _: Witness) -> None:
    async with await sandbox.aopen() as session:
        await good(session, "import mmap; m = mmap.mmap(-1, 4096)")
        try:
            async with await session.afork() as copy:
                await run(copy, "m[:10] = b'the answer'")
                assert "the answer" not in await good(session, "m[:10]")
        except ProgramFault as error:
            assert "could not be copied" in str(error), error


@scene(75)
async def record_locks_between_sessions(sandbox: Sandbox, _: Witness) -> None:
    """A lock on a file that all sessions see would be a wire between them."""
    async with await sandbox.aopen() as first, await sandbox.aopen() as second:
        await run(
            first,
            "import fcntl, os; d = os.open(os.__file__, 0); fcntl.lockf(d, fcntl.LOCK_SH, 1, 77)",
        )
        seen = await run(
            second,
            """
            import fcntl, os, struct
            d = os.open(os.__file__, 0)
            ask = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 77, 1, 0)
            struct.unpack('hhqqi4x', fcntl.fcntl(d, fcntl.F_GETLK, ask))[0] != fcntl.F_UNLCK
            """,
        )
        assert seen.value != "True", "one session sees the locks of another"


@scene(75)
async def record_locks_on_devices(sandbox: Sandbox, _: Witness) -> None:
    """Nor does taking one on a device, which all sessions may write to, tell of another."""
    lock = """
        import fcntl, os
        d = os.open('/dev/null', os.O_RDWR)
        for number in range(9): fcntl.lockf(d, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 77 + number)
        """
    async with await sandbox.aopen() as first, await sandbox.aopen() as second:
        for session in (first, second):
            result = await run(session, lock)
            assert "BlockingIOError" not in result.stderr, result


@scene(75)
async def record_locks_without_end(sandbox: Sandbox, _: Witness) -> None:
    """They are memory of the kernel's that nothing limits; a data base works without them."""
    code = """
        import fcntl
        f = open('f', 'w')
        for number in range(3000): fcntl.lockf(f, fcntl.LOCK_EX, 1, 2 * number)
        """
    use = """
        import sqlite3
        one, other = sqlite3.connect('base'), sqlite3.connect('base')
        one.execute('create table t (n)'); one.executemany('insert into t values (?)', [(1,)] * 500); one.commit()
        other.execute('insert into t values (7)'); other.commit()
        one.execute('select sum(n) from t').fetchall()
        """
    locks = Path("/proc/locks")
    async with await sandbox.aopen() as session:
        before = locks.read_text().count("\n")
        await run(session, code)
        assert locks.read_text().count("\n") < before + 1500
        assert await good(session, use) == "[(507,)]"


@scene(75, FORK)
async def wake_by_a_file_in_common(sandbox: Sandbox, _: Witness) -> None:
    """Threads that wait on a page of a file are woken by who has it mapped."""
    start = """
        import ctypes, os
        libc, f = ctypes.CDLL(None), open(os.__file__, 'rb'); libc.mmap.restype = ctypes.c_void_p
        at = libc.mmap(None, ctypes.c_size_t(4096), 1, 2, f.fileno(), ctypes.c_long(0))
        word = ctypes.c_uint32.from_address(at).value
        def futex(op, value, wait=None): return libc.syscall(*map(ctypes.c_long, (202, at, op, value, ctypes.addressof(wait) if wait else 0)))
        """
    wait = "futex(0, word, (ctypes.c_long * 2)(2, 0))"
    async with await sandbox.aopen() as first, await sandbox.aopen() as second:
        await good(first, start)
        await good(second, start)
        waiting = asyncio.create_task(run(first, wait))
        woken = "import time; sum(max(0, futex(op, 9)) + (time.sleep(0.05) or 0) for op in (1, 1, 1, 1))"
        assert await good(second, woken) == "0", "one session wakes another"
        await waiting


@scene(74, FORK)
async def pipes_that_are_left(sandbox: Sandbox, _: Witness) -> None:
    """Sessions that take all the pipes they get leave others theirs, and copies of them."""
    take = """
        import os
        kept = []
        try:
            while True: kept.append(os.pipe())
        except OSError: pass
        """
    many = replace(ATTACK_LIMITS, descriptors=256)
    async with contextlib.AsyncExitStack() as stack:
        for _number in range(9):
            await good(await stack.enter_async_context(await sandbox.aopen(many)), take)
        victim = await stack.enter_async_context(await sandbox.aopen())
        await good(victim, "import os; r, w = os.pipe(); n = os.write(w, bytes(40_000))")
        async with await victim.afork() as copy:
            assert await good(copy, "len(os.read(r, 50_000))") == "40000"


@scene(75)
async def files_of_other_sessions(sandbox: Sandbox, _: Witness) -> None:
    marker = f"marker-{secrets.token_hex(8)}"
    async with await sandbox.aopen() as first, await sandbox.aopen() as second:
        place = await good(first, f"import os; open('{marker}', 'w').write('x'); os.getcwd()")
        walk = f"""
            import os
            found = []
            for top in ('/', '/tmp', '/dev/shm', '/var/tmp', '/proc', os.path.dirname({place})):
                for folder, _, names in os.walk(top):
                    found += [folder + '/' + n for n in names if n == '{marker}']
                    if folder.count('/') > 4: _.clear()
            try: found.append(open({place} + '/{marker}').read())
            except OSError: pass
            found
            """
        assert await good(second, walk) == "[]"


@scene(78)
async def random_state_of_others(sandbox: Sandbox, _: Witness) -> None:
    draw = "import numpy, random; (random.random(), numpy.random.rand())"
    async with await sandbox.aopen(seed=1) as first, await sandbox.aopen(seed=1) as second:
        async with await sandbox.aopen(seed=2) as third:
            await good(third, "import numpy, random; random.seed(1); numpy.random.seed(1)")
            alone = await good(first, draw)
            assert await good(second, draw) == alone
            assert await good(first, draw) != alone
        async with await sandbox.aopen(seed=2) as fourth:
            assert await good(fourth, draw) != alone


@scene(85)
async def inputs_stay_with_their_call(sandbox: Sandbox, _: Witness) -> None:
    async with await sandbox.aopen() as session:
        await good(session, "import os, sys; kept = os.dup(0); old = sys.stdin", stdin="first")
        late = "import os, sys; (os.read(kept, 99), sys.stdin.read(), old.read())"
        result = await run(session, late, stdin="second")
        assert "second" not in (result.value or "").replace("'second'", "", 1), result
        await run(session, "os.close(0); sys.stdin.close(); sys.stdin = None; os.dup2(1, 0)")
        assert await good(session, "import sys; sys.stdin.read()", stdin="third") == "'third'"


@scene(85)
async def inputs_too_large_and_odd(sandbox: Sandbox, _: Witness) -> None:
    async with await sandbox.aopen() as session:
        everything = bytes(range(256)) * 100
        read = "import sys; sys.stdin.buffer.read() == bytes(range(256)) * 100"
        assert await good(session, read, stdin=everything) == "True"
        assert await good(session, "1 + 1", stdin=bytes(4 << 20)) == "2"  # never read
        result = await run(session, "1 + 1", stdin=bytes(20 << 20))  # over every quota
        assert result.status in (Status.OK, Status.ERROR), result
        assert await good(session, "import sys; sys.stdin.read()", stdin="") == "''"


@scene(50)
async def limits_of_its_own(sandbox: Sandbox, _: Witness) -> None:
    """The limits are those of the session, however it was made ready."""
    small = replace(
        ATTACK_LIMITS, memory_bytes=48 << 20, descriptors=16, file_bytes=1 << 20, tmp_inodes=32
    )
    look = """
        import os, resource
        try: x = bytes(b'x') * (64 << 20); memory = 'got it'
        except MemoryError: memory = 'refused'
        try: f = open('f', 'wb', 0); big = sum(f.write(bytes(1 << 20)) for _ in range(2))
        except OSError: big = 'refused'
        (memory, resource.getrlimit(resource.RLIMIT_NOFILE)[1], big)
        """
    for _ in range(3):
        async with await sandbox.aopen(small) as session, await sandbox.aopen() as other:
            assert await good(session, look) == "('refused', 16, 'refused')"
            assert "'got it', 64" in await good(other, look)


@scene(77)
async def calls_given_up_and_sessions_closed(sandbox: Sandbox, _: Witness) -> None:
    """A caller that goes away in the middle of anything costs only its own session."""
    flood = "import os\nwhile True: os.write(1, b'x' * 100)"

    async def give_up(code: str, after_s: float) -> None:
        async with await sandbox.aopen() as session:
            with suppress(TimeoutError):
                await asyncio.wait_for(session.arun(code), after_s)
            assert await good(session, "print(6 * 7)") == "42\n"

    async def close(code: str) -> None:
        session: Session = await sandbox.aopen()
        call = asyncio.create_task(session.arun(code, wall_s=1.0))
        await asyncio.sleep(0.05)
        session.close()
        with suppress(SandboxError):
            assert (await asyncio.wait_for(call, 20)).status is not Status.OK

    codes = (flood, "while True: pass", "import time; time.sleep(9)")
    await asyncio.gather(*(give_up(code, 0.1) for code in codes), *map(close, codes))


@scene(77)
async def questions_without_end(sandbox: Sandbox, _: Witness) -> None:
    """Calls that somebody has to decide on do not keep others waiting for good."""
    ask = """
        import os, threading, time
        def ask():
            while True:
                for call in (os.setsid, lambda: threading.Thread(target=time.sleep, args=(0,)).start()):
                    try: call()
                    except (OSError, RuntimeError): pass
        for _ in range(8):
            try: threading.Thread(target=ask).start()
            except RuntimeError: pass
        time.sleep(30)
        """
    async with await sandbox.aopen() as session:
        flood = asyncio.create_task(run(session, ask, wall_s=1.5))
        await asyncio.sleep(0.2)
        for _ in range(5):
            async with await sandbox.aopen() as other:
                assert await good(other, "6 * 7") == "42"
        assert (await flood).status in (Status.TIMEOUT, Status.OUTPUT, Status.CRASHED)
