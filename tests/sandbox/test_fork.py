"""A fork is an independent copy of a live interpreter, with its files."""

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

from palestra.sandbox import ProgramFault, SandboxError, Status
from palestra.sandbox.local import wire


@pytest.fixture
def state(native):
    with native.open(seed=3) as session:
        made = session.run(
            "import os, random, numpy\nsquares = (i * i for i in range(100)); next(squares)\n"
            "log = open('log.txt', 'w+'); log.write('start '); log.flush()\n"
            "os.makedirs('a/b'); open('a/b/deep', 'w').write('deep')\nitems = [1]"
        )
        assert made.ok, made.stderr
        yield session


DRAW = "next(squares), random.random(), numpy.random.rand()"


def test_generators_and_random_state_go_on_alike(state):
    with state.fork() as copy:
        assert copy.run(DRAW).value == state.run(DRAW).value
        assert copy.run(DRAW).value == state.run(DRAW).value


def test_what_a_program_has_called_at_a_fork_is_not_called_for_a_copy(state):
    state.run("called = []\nos.register_at_fork(before=lambda: called.append(1))")
    state.run("os.register_at_fork(after_in_child=lambda: called.append(2))")
    with state.fork() as copy:
        assert copy.run("called").value == state.run("called").value == "[]"


def test_names_and_files_are_separate(state):
    with state.fork() as copy:
        copy.run(
            "items.append('copy'); open('a/b/deep', 'a').write(' in copy'); os.remove('log.txt')"
        )
        state.run("items.append('original')")
        assert copy.run("items, open('a/b/deep').read()").value == "([1, 'copy'], 'deep in copy')"
        value = state.run("items, open('a/b/deep').read(), os.listdir('.')").value
        assert value == "([1, 'original'], 'deep', ['a', 'log.txt'])"


def test_an_open_file_is_the_copys_own(state):
    with state.fork() as copy:
        copy.run("log.write('copy'); log.flush()")
        state.run("log.write('original'); log.flush()")
        assert copy.run("open('log.txt').read(), log.tell()").value == "('start copy', 10)"
        assert state.run("open('log.txt').read()").value == "'start original'"


def test_a_temporary_file_without_a_name_is_copied_too(state):
    state.run(
        "import tempfile; t = tempfile.TemporaryFile('w+'); t.write('one '); t.flush()\n"
        "u = os.open('u', os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW); os.unlink('u')"
    )
    with state.fork() as copy:
        copy.run("t.write('copy'); t.flush()")
        state.run("t.write('original'); t.flush()")
        for session, text in ((copy, "one copy"), (state, "one original")):
            assert session.run("_ = t.seek(0); t.read()").value == repr(text)


def test_files_that_cannot_be_copied_fail_the_copy_and_nothing_else(native):
    with native.open() as session:
        session.run("import os\nfor _ in range(1500):\n    os.mkdir('d'); os.chdir('d')\nx = 1")
        with pytest.raises(ProgramFault):
            session.fork()
        assert session.run("x").value == "1"
        with native.open() as other, other.fork() as copy:
            assert copy.run("1").value == "1"


def test_files_with_holes_take_no_more_space_in_a_copy(native):
    with native.open() as session:
        made = session.run(
            "import os\nfor name in 'abc':\n    f = open(name, 'wb'); f.truncate(40 << 20)\n"
            "    f.seek(20 << 20); f.write(b'middle'); f.close()\n"
            "f = open('a', 'r+b'); os.unlink('a'); f.seek(0, 2)"
        )
        assert made.ok, made
        with session.fork() as copy:
            look = (
                "b = open('b', 'rb').read(); len(b), b.strip(b'\\0'), b.index(b'm') == 20 << 20,"
                " f.tell(), os.pread(f.fileno(), 8, 20 << 20), os.stat('c').st_blocks < 100"
            )
            expected = "(41943040, b'middle', True, 41943040, b'middle\\x00\\x00', True)"
            assert copy.run(look).value == session.run(look).value == expected


def test_a_nameless_file_that_is_open_twice_is_one_file_in_the_copy(native):
    with native.open() as session:
        session.run(
            "import os\nw = open('x', 'w'); r = open('x'); a = open('x', 'a'); os.unlink('x')\n"
            "named = open('y (deleted)', 'w+'); w.write('one '); w.flush()"
        )
        write = "_ = w.write('two '), w.flush(), a.write('three'), a.flush(); r.read()"
        keep = "_ = named.write('kept'), named.flush(); open('y (deleted)').read()"
        with session.fork() as copy:
            assert copy.run(write).value == "'one two three'"
            assert copy.run(keep).value == "'kept'"
            assert session.run("r.read()").value == "'one '"
            assert session.run("open('y (deleted)').read()").value == "''"


def test_the_copy_outlives_the_original(state):
    copy = state.fork()
    state.close()
    assert copy.run("next(squares), sorted(os.listdir('.'))").value == "(1, ['a', 'log.txt'])"
    copy.close()


def test_copies_of_copies(state):
    chain = [state]
    for depth in range(40):
        chain.append(chain[-1].fork())
        chain[-1].run(f"items.append({depth})")
    assert chain[-1].run("len(items)").value == "41"
    for copy in chain[1:]:
        copy.close()


def test_a_crash_ends_one_copy_only(state):
    with state.fork() as copy:
        assert copy.run("os.abort()").status is Status.CRASHED
        assert state.run("next(squares)").value == "1"
        assert "a fresh interpreter" in copy.run("1").stderr


def test_a_fork_of_an_ended_session_starts_afresh(native):
    with native.open() as session:
        session.run("import os; os._exit(1)")
        with session.fork() as copy:
            assert "a fresh interpreter" in copy.run("1").stderr


def test_threads_do_not_keep_a_session_from_forking(native):
    with native.open() as session:
        session.run(
            "import threading, time\nstop = threading.Event()\n"
            "t = threading.Thread(target=stop.wait, daemon=True); t.start(); x = 1"
        )
        with session.fork() as copy:
            assert copy.run("x, threading.active_count()").value == "(1, 1)"


def test_where_a_copy_cannot_be_forked_as_a_sibling_it_is_forked_in_two_steps(native):
    with native.open() as session:
        session.run("import os, sys\nsys.modules['palestra_sandbox.child']._id_address = 0\nx = 1")
        with session.fork() as copy, copy.fork() as second:
            session.close()
            assert second.run("x").value == "1"
            assert "SIGABRT" in copy.run("os.abort()").stderr


def test_a_copy_knows_its_own_thread_id(native):
    """Where the C library keeps it; the kernel is told by the call that makes the copy."""
    code = (
        "import ctypes, sys, threading\n"
        "at = sys.modules['palestra_sandbox.child']._id_address\n"
        "ctypes.c_int.from_address(at).value == threading.get_native_id()"
    )
    with native.open() as session, session.fork() as copy:
        assert session.run(code).value == copy.run(code).value == "True"


def test_a_cell_cannot_fork_by_itself(native):
    with native.open() as session:
        code = "import os\ntry: os.fork()\nexcept PermissionError: print('refused')"
        assert session.run(code).stdout == "refused\n"
        with session.fork() as copy:
            assert session.run(code).stdout == "refused\n"
            assert copy.run(code).stdout == "refused\n"


def test_what_fails_only_once_is_nobodys_fault(native):
    with native.open() as session:
        session.run(
            "import sys; kernel = sys.modules['palestra_sandbox.kernel']\n"
            "real, x = kernel.fork_beside, 7\n"
            "def not_now(*_): kernel.fork_beside = real; raise ChildProcessError('not now')\n"
            "kernel.fork_beside = not_now; import os; os.fork = not_now"
        )
        with session.fork() as copy:
            assert copy.run("x").value == "7"


def test_a_cell_that_replaces_fork_spoils_its_own_copy_only(native):
    with native.open() as session, native.open() as other:
        session.run(
            "import os, sys\nkernel = sys.modules['palestra_sandbox.kernel']\n"
            "real = kernel.fork_beside\ndef refuse(*_): raise OSError('no')\n"
            "kernel.fork_beside = os.fork = refuse"
        )
        with pytest.raises(ProgramFault, match="no"):
            session.fork()
        assert session.run("1").value == "1"
        assert other.run("1").value == "1"
        session.run("kernel.fork_beside = real")
        with session.fork() as copy:
            assert copy.run("os.getpid() > 1").value == "True"


TRIES = """
import sys, time
kernel, tries = sys.modules['palestra_sandbox.kernel'], []
def refuse(*_): tries.append(1); time.sleep({seconds}); raise RuntimeError('no')
kernel.fork_beside = refuse
"""


def test_what_has_used_up_its_time_is_not_tried_again(native, monkeypatch):
    monkeypatch.setattr(wire, "FORK_S", 2.0)
    with native.open() as session:
        session.run(TRIES.format(seconds=2.6))
        with pytest.raises(ProgramFault):
            session.fork()
        assert session.run("len(tries)").value == "1"


def test_nobody_else_comes_in_between_two_attempts(native):
    async def scenario():
        async with await native.aopen() as session:
            await session.arun(TRIES.format(seconds=0.05))
            forking = asyncio.create_task(session.afork())
            await asyncio.sleep(0)
            while not forking.done():
                with pytest.raises(RuntimeError, match="another call"):
                    await session.arun("1")
                await asyncio.sleep(0.001)
            with pytest.raises(ProgramFault):
                await forking
            return (await session.arun("len(tries)")).value

    assert asyncio.run(scenario()) == "2"


def test_a_session_whose_fork_was_cancelled_stands_still(native):
    async def scenario():
        async with await native.aopen() as session:
            await session.arun(TRIES.format(seconds=0.5) + "x = 1")
            forking = asyncio.create_task(session.afork())
            await asyncio.sleep(0.1)
            forking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await forking
            status, until = Path(f"/proc/{session._process._pid}/status"), time.monotonic() + 30
            while "State:\tT" not in (seen := status.read_text()) and time.monotonic() < until:
                await asyncio.sleep(0.01)
            assert "State:\tT" in seen
            return (await session.arun("x")).value

    assert asyncio.run(scenario()) == "1"


def test_a_pipe_that_the_machine_has_no_room_for_is_nobodys_fault(native):
    if Path("/proc/sys/fs/pipe-user-pages-soft").read_text() != "16384\n":
        pytest.skip("another number of pipes to a user")
    take = (
        "import os\nkept = []\ntry:\n    while True: kept.append(os.pipe())\nexcept OSError: pass"
    )
    with contextlib.ExitStack() as stack:
        victim = stack.enter_context(native.open())
        victim.run("import os; r, w = os.pipe(); n = os.write(w, bytes(40_000))")
        for _ in range(66):
            assert stack.enter_context(native.open()).run(f"{take}\nlen(kept)").value == "16"
        with pytest.raises(SandboxError, match="no room for another pipe"):
            victim.fork()
        assert victim.run("len(os.read(r, 50_000))").value == "40000"
        victim.fork().close()


def test_without_supervision_fork_says_why(sandbox):
    if "fork" not in sandbox.missing:
        pytest.skip("this machine can fork sessions")
    with sandbox.open() as session, pytest.raises(SandboxError, match="copied"):
        session.fork()
