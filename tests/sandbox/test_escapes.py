"""Cells that take over the runner, or leave something behind: every clock and wall holds."""

import asyncio
import time

import pytest
from descendants import below

from palestra.sandbox import Limits, LocalSandbox, ProgramFault, Status

# Replaces what the runner does when the host asks for a copy.
TAKE_OVER = """
import os, sys, time
child = sys.modules["palestra_sandbox.child"]
real = child._copy_session_or_why
def evil():
    if os.fork(): return {"id": 0, "error": None}
"""
SPIN = """
    if os.fork():
        while True: pass
    os.write(3, b"R")
    while True: pass
child._copy_session_or_why = evil
"""
SLEEP = SPIN.replace("pass", "time.sleep(100)")
ORPHAN = SPIN.replace("while True: pass", "os._exit(0)", 1)
# The same by the call that makes siblings.
BESIDE = """
import sys, time, os
child = sys.modules["palestra_sandbox.child"]
real = child._copy_session_or_why
def evil():
    try: pid = child.kernel.fork_beside(child._id_address)
    except OSError as error: return {"id": 0, "error": f"refused: {error}"}
    if pid: return {"id": 0, "error": None}
"""
SPIN_BESIDE = """
    os.write(3, b"R")
    while True: pass
child._copy_session_or_why = evil
"""
OUT_OF_TURN = """
    os.setsid()
    while True: time.sleep(1)
child._copy_session_or_why = evil
"""
TWICE = """
    admin = 1 << 21
    child.kernel.capabilities(effective=admin, permitted=admin)()
    child.kernel.fork_beside(child._id_address)
    os._exit(0)
child._copy_session_or_why = evil
"""
LONELY = """
    while True: pass
child._copy_session_or_why = evil
"""


@pytest.fixture(scope="module")
def arena():
    with LocalSandbox(("math",), limits=Limits(wall_s=5, cpu_s=1), ready=0) as made:
        if "fork" in made.missing:
            pytest.skip(f"no copies on this machine: {made.missing}")
        yield made


def _left(sandbox, expected, within=10.0):
    """How many sessions' processes there are, waiting a while for the expected number."""
    end = time.monotonic() + within
    while (count := len(below(sandbox.server_pid)) - 2) != expected and time.monotonic() < end:
        time.sleep(0.02)
    return count


@pytest.mark.parametrize(
    "code",
    [
        *(TAKE_OVER + body for body in (SPIN, ORPHAN, LONELY)),
        *(BESIDE + body for body in (SPIN_BESIDE, OUT_OF_TURN, TWICE)),
    ],
    ids=["spin", "orphan", "no copy", "sibling that spins", "out of turn", "another sibling"],
)
def test_a_copy_that_does_not_report_is_no_session_and_is_ended(arena, code):
    with arena.open() as session:
        session.run(code)
        with pytest.raises(ProgramFault, match="the copy"):
            session.fork()
        assert _left(arena, 1) == 1
        assert session.run("child._copy_session_or_why = real; 1").status is Status.OK
        with session.fork() as honest:
            assert honest.run("2").value == "2"
            assert _left(arena, 2) == 2
    assert _left(arena, 0) == 0


def test_a_copy_whose_caller_gave_up_leaves_no_process(arena):
    async def give_up(session):
        await asyncio.wait_for(session.afork(), 0.5)

    for _ in range(3):
        session = arena.open()
        session.run(TAKE_OVER + SLEEP)
        with pytest.raises(TimeoutError):
            asyncio.run(give_up(session))
        session.close()
    assert _left(arena, 0) == 0


def test_a_cell_makes_no_sibling_unless_it_was_asked_to(arena):
    make = "child.kernel.fork_beside(child._id_address)"
    with arena.open() as session:
        session.run(BESIDE)
        assert "PermissionError" in session.run(make).stderr
        with session.fork() as copy:
            assert "PermissionError" in copy.run(make).stderr
            assert "PermissionError" in session.run(make).stderr
        assert _left(arena, 1) == 1


def test_half_a_copy_starts_no_thread(arena):
    with arena.open() as session:
        session.run(
            TAKE_OVER + "    import _thread\n"
            "    try: _thread.start_new_thread(time.sleep, (9,)); verdict = 'started'\n"
            "    except RuntimeError: verdict = 'refused'\n"
            "    with open('verdict', 'w') as file: file.write(verdict)\n"
            "    os.fork(); os._exit(0)\nchild._copy_session_or_why = evil"
        )
        with pytest.raises(ProgramFault, match="the copy"):
            session.fork()
        assert session.run("open('verdict').read()").value == "'refused'"


def test_a_copy_holds_no_socket_of_its_original(arena):
    with arena.open() as session:
        session.run("import os, stat\nfor i in range(4): os.dup2(i, 100 + i)")
        session.run(
            "def sockets():\n    found = []\n    for i in range(200):\n        try:\n"
            "            if stat.S_ISSOCK(os.fstat(i).st_mode): found.append(i)\n"
            "        except OSError: pass\n    return found"
        )
        with session.fork() as copy:
            assert copy.run("sockets()").value == "[1, 2, 3]"
            # The end of the original is seen although its copy goes on.
            assert session.run("os._exit(3)").status is Status.CRASHED
            assert copy.run("1").value == "1"


def test_a_false_account_of_cpu_seconds_buys_none(arena):
    with arena.open(Limits(cpu_s=0.25, wall_s=20)) as session:
        session.run("import sys; sys.modules['palestra_sandbox.child']._cpu = lambda: 1e8")
        over = session.run("while True: pass")
        assert over.status is Status.TIMEOUT
        assert "CPU limit" in over.stderr


def test_cpu_seconds_are_read_from_outside(arena):
    lie = "import sys, time; sys.modules['palestra_sandbox.child']._cpu = lambda: 0.0"
    burn = "end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    with arena.open() as session:
        session.run(lie)
        assert 0.2 <= session.run(burn).cpu_s < 1
        assert session.run("1").cpu_s < 0.1


def test_threads_stand_still_between_calls(arena):
    with arena.open() as session:
        session.run(
            "import threading, time\nseen = []\ndef watch():\n"
            "    while True: seen.append(time.monotonic()); time.sleep(0.01)\n"
            "threading.Thread(target=watch, daemon=True).start(); time.sleep(0.1)"
        )
        time.sleep(1.0)
        gap = "time.sleep(0.1); max(b - a for a, b in zip(seen, seen[1:]))"
        assert float(session.run(gap).value) > 0.8
        # They go on with the next call, and a copy starts from the runner's thread alone.
        assert int(session.run("n = len(seen); time.sleep(0.3); len(seen) - n").value) > 0
        with session.fork() as copy:
            assert copy.run("threading.active_count()").value == "1"


def test_a_session_sees_nothing_of_the_hosts_command_line(arena):
    with arena.open() as session:
        assert session.run("import sys; sys.argv, sys.orig_argv").value == "([''], [''])"
        walk = (
            "frame, texts = sys._getframe(), []\nwhile frame:\n"
            "    texts += [v for v in frame.f_locals.values() if isinstance(v, (str, dict))]\n"
            "    frame = frame.f_back\n"
            "any('scra' + 'tch' in v for v in texts if v is not globals())"
        )
        assert session.run(walk).value == "False"


def test_next_session_sees_nothing_of_the_last(sandbox):
    with sandbox.open() as session:
        session.run("import json, builtins\nbuiltins.secret = 1; json.dumps = None")
        session.run("open('numpy.py', 'w').write('1/0')")
    with sandbox.open() as session:
        result = session.run(
            "import os, json, numpy\njson.dumps(1), 'secret' in globals(), os.listdir('.')"
        )
        assert result.value == "('1', False, [])"


def test_nobody_is_root_inside(sandbox):
    with sandbox.open() as session:
        result = session.run("import os; (os.getuid() == 0, os.geteuid() == 0)")
        if "uid" not in sandbox.missing:
            assert result.value == "(False, False)"


def test_cpu_limit_holds_over_threads_and_is_renewed_for_each_call(sandbox):
    burn = (
        "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n'done'"
    )
    with sandbox.open(Limits(cpu_s=0.25, wall_s=20)) as session:
        for _ in range(4):
            assert session.run(burn.format(0.15)).value == "'done'"
        over = session.run(burn.format(15))
        assert over.status is Status.TIMEOUT
        assert "CPU limit" in over.stderr
        assert over.cpu_s < 5


def test_timed_out_programs_leave_no_process(arena):
    with arena.open() as session:
        for _ in range(3):
            assert session.run("while True: pass", wall_s=0.1).status is Status.TIMEOUT
    assert _left(arena, 0) == 0
