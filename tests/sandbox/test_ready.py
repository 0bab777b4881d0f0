"""Sessions made before anybody asks are sessions like any other, and nobody's until then."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from palestra.sandbox import Limits, LocalSandbox, ProgramFault, Status

READY = 2
OTHER = Limits(descriptors=40, tmp_bytes=1 << 20)


@pytest.fixture(scope="module")
def keeper():
    """A sandbox whose first session was opened, so that it knows what to have ready."""
    with LocalSandbox(("math", "random", "numpy"), ready=READY) as made:
        if "fork" in made.missing:
            pytest.skip(f"nothing is made ready on this machine: {made.missing}")
        made.open().close()
        yield made


def _children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _processes(sandbox):
    """Sessions and spares: what the zygote has forked, without the server."""
    return set(_children(_children(sandbox.server_pid)[0])[1:])


def _pid(session):
    fields = Path(f"/proc/self/fdinfo/{session._process._handle}").read_text()
    return int(fields.partition("Pid:")[2].split()[0])


def _spares(sandbox, expected=READY, others=0):
    """The spares, once there are as many as there should be beside `others` sessions, for good."""
    end, found, since = time.monotonic() + 30, set(), 0.0
    while time.monotonic() < end:
        last, found = found, _processes(sandbox)
        if found != last or len(found) != expected + others:
            since = time.monotonic()
        elif time.monotonic() > since + 0.2:  # who was dying is gone
            return found
        time.sleep(0.02)
    raise AssertionError(f"expected {expected} spares and {others} sessions, found {found}")


def test_a_session_is_one_that_was_ready_and_another_takes_its_place(keeper):
    before = _spares(keeper)
    with keeper.open() as session:
        assert session.run("6 * 7").value == "42"
        assert _pid(session) in before
        after = _spares(keeper, others=1)
        assert len(after - before) == 1


def test_none_are_made_where_none_are_wanted():
    with LocalSandbox(("math",), ready=0) as sandbox, sandbox.open() as session:
        session.run("1")
        time.sleep(0.1)
        assert _processes(sandbox) == {_pid(session)}
    with pytest.raises(ValueError, match="ready must be at least 0"):
        LocalSandbox(ready=-1)


def test_random_state_is_the_seeds_and_nothing_elses(keeper):
    draw = "import random, numpy; (random.random(), numpy.random.rand())"
    _spares(keeper)
    drawn = []
    for seed in (5, 5, 6):
        with keeper.open(seed=seed) as session:
            drawn.append(session.run(draw).value)
    assert drawn[0] == drawn[1] != drawn[2]
    with LocalSandbox(("math", "random", "numpy"), ready=0) as bare, bare.open(seed=5) as session:
        assert session.run(draw).value == drawn[0]


def test_a_session_holds_its_own_sockets_and_no_other_descriptor(keeper):
    code = (
        "import os\nfound = {}\nfor d in range(256):\n    try: found[d] = os.fstat(d).st_ino\n"
        "    except OSError: pass\n[(d, i if d else 0) for d, i in found.items()]"
    )
    _spares(keeper)
    with keeper.open() as one, keeper.open() as two:
        first, second = (eval(session.run(code).value) for session in (one, two))
        assert [d for d, _ in first] == [d for d, _ in second] == [0, 1, 2, 3]
        assert not {i for d, i in first if d} & {i for d, i in second if d}
        one.run("import sys; print('one'); print('error of one', file=sys.stderr)")
        assert two.run("print('two')").stdout == "two\n"


def test_a_session_knows_nothing_of_the_others(keeper):
    """The zygote never held it: neither the seeds nor the code of other sessions."""
    with keeper.open(seed=887766554433) as session:
        session.run("hidden = 'the other ' + 'session'")
        _spares(keeper, others=1)
        with keeper.open() as nosy:
            found = nosy.run(
                "import gc, sys\nseen = [v for m in list(sys.modules.values())"
                " for v in vars(m).values()] + gc.get_objects()\n"
                "frame = sys._getframe()\nwhile frame: seen += frame.f_locals.values()"
                "; frame = frame.f_back\n"
                "texts = [v for v in seen if isinstance(v, (int, str, dict))]\n"
                "887766554400 + 33 in [v for v in texts if isinstance(v, int)],"
                " any('the other ' + 'session' == v for v in texts)"
            )
            assert found.value == "(False, False)", found


def test_killed_spares_are_replaced(keeper):
    before = _spares(keeper)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    after = set()
    while not after or after & before:
        after = _spares(keeper)
    with keeper.open() as session:
        assert session.run("1").value == "1"


def test_other_limits_get_their_own_spares_and_no_ones_elses(keeper):
    look = "import resource; resource.getrlimit(resource.RLIMIT_NOFILE)[0]"
    _spares(keeper)
    for _ in range(READY + 2):
        with keeper.open(OTHER) as session:
            assert session.run(look).value == "40"
            over = session.run("open('f', 'wb').write(bytes(2 << 20))")
            assert "No space left" in over.stderr
    before = _spares(keeper)
    with keeper.open(OTHER) as session:
        assert _pid(session) in before
        with keeper.open() as usual:
            assert usual.run(look).value == "256"


def test_a_session_that_was_ready_can_be_forked_and_has_its_limits(keeper):
    _spares(keeper)
    limits = Limits(cpu_s=0.3, wall_s=20.0)
    for _ in range(READY + 1):
        keeper.open(limits).close()
    ready = _spares(keeper)
    with keeper.open(limits) as session:
        assert _pid(session) in ready
        session.run("x = [1]; open('f', 'w').write('text')")
        with session.fork() as copy:
            assert copy.run("x.append(2); x, open('f').read()").value == "([1, 2], 'text')"
        assert session.run("x").value == "[1]"
        assert session.run("while True: pass").status is Status.TIMEOUT


def test_cleaning_up_after_a_spoilt_copy_spares_the_spares(keeper):
    sabotage = (
        "import os, sys\nchild = sys.modules['palestra_sandbox.child']\ndef evil():\n"
        "    os.fork() or os.fork()\n    while True: pass\nchild._copy_session_or_why = evil"
    )
    with keeper.open(Limits(cpu_s=1, wall_s=5)) as session:
        session.run(sabotage)
        before = _processes(keeper)
        with pytest.raises(ProgramFault):
            session.fork()
    # Those that were there and fit are there still.
    assert before & _spares(keeper)


def test_more_at_once_than_are_ready(keeper):
    values, sessions = [], [None] * 12

    def work(number):
        sessions[number] = keeper.open(seed=number)
        values.append(sessions[number].run(f"x = {number}; x * x").value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, values)) == [n * n for n in range(12)]
    assert [session.run("x").value for session in sessions] == [str(n) for n in range(12)]
    for session in sessions:
        session.close()


def test_spares_die_with_the_server_and_are_there_again_with_the_next():
    with LocalSandbox(("math",), ready=READY) as sandbox:
        if "fork" in sandbox.missing:
            pytest.skip("nothing is made ready on this machine")
        sandbox.open().close()
        gone = _spares(sandbox)
        os.kill(sandbox.server_pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in gone) and time.monotonic() < end:
            time.sleep(0.02)
        assert not any(Path(f"/proc/{pid}").exists() for pid in gone)
        sandbox.open().close()
        assert not _spares(sandbox) & gone


def test_every_rehearsed_program_runs():
    """A rehearsal that fails is skipped at start-up, so it would go unnoticed there."""
    from palestra.sandbox.local import rehearsal

    for name, program in {**rehearsal.PROGRAMS, "python": rehearsal.PYTHON}.items():
        if name in ("numpy", "sympy"):
            pytest.importorskip(name)
        exec(program, {"__name__": "__main__"})
