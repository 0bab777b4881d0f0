"""`rollback=True`: a call that is killed has not happened, and the program is told."""

import asyncio
import os
from pathlib import Path

import pytest

from palestra.sandbox import Limits, LocalSandbox, ProgramFault, SandboxError, Status

ENDS = [
    ("while True: pass", Status.TIMEOUT, "wall-clock limit"),
    ("os._exit(3)", Status.CRASHED, "exited with code 3"),
    ("os.abort()", Status.CRASHED, "SIGABRT"),
    ("while True: os.write(1, b'x' * 9999)", Status.OUTPUT, "after writing"),
    ("import threading, signal; signal.pthread_kill(threading.get_ident(), 40)", None, "signal 40"),
    ("os.write(3, b'no frame'); os.read(0, 1); import time; time.sleep(1)", None, "protocol"),
]
DRAW = "next(squares), random.random(), numpy.random.rand()"


# How a session forks itself.
FORKS = "import sys\nkernel = sys.modules['palestra_sandbox.kernel']"


@pytest.fixture
def session(native):
    with native.open(seed=3, rollback=True) as made:
        result = made.run(
            "import os, random, numpy\nsquares = (i * i for i in range(100)); items = [1]\n"
            "log = open('log', 'w+'); log.write('start'); log.flush()"
        )
        assert result.ok, result.stderr
        yield made


@pytest.mark.parametrize(("code", "status", "why"), ENDS, ids=[why for _, _, why in ENDS])
def test_a_killed_call_has_not_happened(session, code, status, why):
    before = session.run(DRAW).value
    half = f"print('so far')\nitems.append(2); log.write('more'); log.flush(); {DRAW}\n"
    result = session.run(half + code, wall_s=0.7, stdin="unread")
    assert result.status is (status or Status.CRASHED)
    assert result.stdout.startswith("so far\n")
    assert why in result.stderr
    assert result.stderr.endswith("the session goes on from the state before this call\n")
    after = session.run("items, open('log').read(), log.tell()")
    assert (after.value, after.stderr) == ("([1], 'start', 5)", "")
    assert session.run(DRAW).value != before
    assert "EOFError" in session.run("input()").stderr


def test_the_cpu_limit_and_memory_too(native):
    with native.open(Limits(cpu_s=0.3, memory_bytes=1 << 28), rollback=True) as session:
        session.run("x = 1")
        result = session.run("x = 2\nwhile True: pass")
        assert (result.status, session.run("x").value) == (Status.TIMEOUT, "1")
        assert 0.25 < result.cpu_s < 5
        for _ in range(3):  # the twin's seconds are counted from its own start
            assert session.run("import time\nt = time.process_time() + 0.2\n"
                               "while time.process_time() < t: pass").ok  # fmt: skip


def test_random_numbers_go_on_from_before_the_killed_call(native):
    drawn = []
    for rollback in (True, False):
        with native.open(seed=9, rollback=rollback) as session:
            drawn.append([session.run("import random, numpy; random.random()").value])
            if rollback:
                session.run("random.random(), numpy.random.rand(); os._exit(1)")
                session.run("import os; random.random(), numpy.random.rand(); os._exit(1)")
            drawn[-1] += [session.run("random.random(), numpy.random.rand()").value]
    # The call with the NameError drew numbers too; the one that was killed did not.
    assert drawn[0][0] == drawn[1][0]
    with native.open(seed=9) as session:
        session.run("import random, numpy; random.random()")
        session.run("random.random(), numpy.random.rand()")
        assert session.run("random.random(), numpy.random.rand()").value == drawn[0][1]


def test_an_exception_is_no_kill(session):
    assert session.run("items.append(2); 1 / 0").status is Status.ERROR
    assert session.run("items.append(3); raise MemoryError").status is Status.MEMORY
    assert session.run("items").value == "[1, 2, 3]"


def test_many_kills_in_a_row_and_names_of_cells_go_on(session):
    for _ in range(5):
        assert session.run("items.append(2); os._exit(1)").status is Status.CRASHED
        session.run("items.append(0)")
    assert session.run("items").value == "[1, 0, 0, 0, 0, 0]"
    assert '"<cell ' in session.run("1 / 0").stderr


def test_forks_roll_back_as_well(session):
    with session.fork() as copy:
        copy.run("items.append('copy')")
        assert copy.run("items.append(2); os._exit(1)").status is Status.CRASHED
        assert copy.run("items").value == "[1, 'copy']"
    assert session.run("items").value == "[1]"


def test_a_cancelled_call_is_undone(session):
    async def scenario():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(session.arun("items.append(2)\nwhile True: pass"), 0.5)
        return await session.arun("items")

    result = asyncio.run(scenario())
    assert result.value == "[1]"
    assert "an interrupted call was undone" in result.stderr
    assert session.run("1").stderr == ""


def test_a_call_cancelled_at_any_moment_leaves_the_state_before_it(session):
    async def scenario():
        for i in range(40):  # some of them while the state is being saved
            task = asyncio.create_task(session.arun("items.append(2)\nwhile True: pass"))
            await asyncio.sleep(0.0005 * i)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await session.arun("items")).value == "[1]"

    asyncio.run(scenario())


def test_a_fork_cancelled_at_any_moment_costs_nothing(session):
    async def scenario():
        for i in range(30):
            task = asyncio.create_task(session.afork())
            await asyncio.sleep(0.0005 * i)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                (await task).close()
            assert (await session.arun("items")).value == "[1]"

    asyncio.run(scenario())


def test_threads_left_running_do_not_stand_in_the_way(session):
    session.run("import threading, time\nstop = threading.Event()\n"
                "threading.Thread(target=stop.wait, daemon=True).start()")  # fmt: skip
    assert session.run("os._exit(1)").status is Status.CRASHED
    assert session.run("items, stop.is_set(), threading.active_count()").value == "([1], False, 1)"


@pytest.mark.parametrize(
    "spoil",
    [
        f"{FORKS}\ndef refuse(*_): raise OSError('no')\nkernel.fork_beside = os.fork = refuse",
        f"{FORKS}\nkernel.fork_beside = os.fork = None",
        "for _ in range(1500): os.mkdir('d'); os.chdir('d')",
    ],
)
def test_where_the_state_cannot_be_kept_the_call_runs_and_says_so(session, spoil):
    """A refusal is the program's doing, so it is no SandboxError, which would void the episode."""
    session.run(spoil)
    result = session.run("items.append(2); items")
    assert result.value == "[1, 2]"
    assert "no going back to before this call: the session could not be copied" in result.stderr
    assert session.run("os._exit(1)").status is Status.CRASHED
    assert "a fresh interpreter" in session.run("1").stderr


@pytest.mark.parametrize(
    "hang",
    ["time.sleep(60)", pytest.param("[0 for _ in iter(int, 1)]", marks=pytest.mark.slow)],
)
def test_a_copy_that_hangs_has_a_clock_too(session, hang):
    session.run(f"{FORKS}\nimport time\nkernel.fork_beside = lambda _: {hang}")
    result = session.run("items", wall_s=0.3)
    assert result.status is Status.TIMEOUT
    assert "did not answer within 2 s" in result.stderr
    assert "a fresh interpreter" in session.run("1").stderr


def test_nothing_is_left_of_the_spare_copies(native):
    with LocalSandbox(("math",)) as small, small.open(rollback=True) as session:
        session.run("x = 1")
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(10):
            session.run("x")
            session.run("import os; os._exit(1)")
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert session.run("x").value == "1"
        assert small.stats().forked == 0


def test_a_lost_server_is_a_lost_session(native):
    with LocalSandbox(("math",)) as small:
        session = small.open(rollback=True)
        session.run("x = 1")
        os.kill(small.server_pid, 9)
        said = []
        while not said or "the sandbox was lost" not in said[-1]:
            with pytest.raises(SandboxError) as caught:
                for _ in range(1000):  # dying, it may answer a few calls more
                    session.run("x")
            said.append(str(caught.value))
            assert len(said) < 100
        assert small.stats().lost == 1


def test_what_is_refused_before_it_runs_costs_nothing(session):
    for bad in ({"code": "x" * (65 << 20)}, {"code": "1", "wall_s": 0}):
        with pytest.raises(ValueError, match=r"limit|positive"):
            session.run(**bad)
    assert session.run("items").value == "[1]"


def test_an_interpreter_that_dies_of_a_fork_is_followed_by_a_fresh_one(native):
    with native.open() as session:
        session.run(f"import os\n{FORKS}\nkernel.fork_beside = lambda _: os._exit(7)")
        with pytest.raises(ProgramFault, match="could not be copied: it ended"):
            session.fork()
        assert "the last one exited with code 7" in session.run("1").stderr


@pytest.mark.parametrize("use", ["fork", "list_files", "run"])
def test_whatever_is_asked_of_a_lost_session_says_so(native, use):
    with LocalSandbox(("math",)) as small:
        session = small.open()
        os.kill(small.server_pid, 9)
        ask = {"run": lambda: session.run("1")}.get(use) or getattr(session, use)
        said = []
        while not said or "the sandbox was lost" not in said[-1]:
            with pytest.raises(SandboxError) as caught:
                for _ in range(1000):  # dying, it may answer a few times more
                    ask()
            said.append(str(caught.value))
            assert len(said) < 100
        assert small.stats().lost == 1
        with small.open() as fresh:
            assert fresh.run("1").value == "1"
