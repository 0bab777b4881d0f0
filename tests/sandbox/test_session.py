"""What a session promises: REPL semantics, output, verdicts, life after a crash."""

import subprocess
import sys
from pathlib import Path

import pytest

from palestra.sandbox import Limits, SandboxError, Status


def test_print_and_value_are_kept_apart(session):
    result = session.run("print('hello')\n6 * 7")
    assert (result.stdout, result.value, result.status) == ("hello\n", "42", Status.OK)
    assert result.ok
    assert result.stderr == ""
    assert result.duration_s > 0


def test_names_stay_and_a_statement_has_no_value(session):
    assert session.run("x = [1]\ndef f(): return x").value is None
    assert session.run("f().append(2); x").value == "[1, 2]"


def test_functions_and_classes_of_an_earlier_cell_pickle_and_resolve(session):
    session.run("import pickle\nclass A: pass")
    assert session.run("type(pickle.loads(pickle.dumps(A()))) is A").value == "True"


def test_traceback_shows_the_users_frames_only(session):
    result = session.run("def f():\n    return 1 / 0\nf()")
    assert result.status is Status.ERROR
    assert result.stderr == (
        "Traceback (most recent call last):\n"
        '  File "<cell 1>", line 3, in <module>\n    f()\n'
        '  File "<cell 1>", line 2, in f\n    return 1 / 0\n           ~~^~~\n'
        "ZeroDivisionError: division by zero\n"
    )
    assert session.run("1").value == "1"


def test_syntax_error_names_the_line(session):
    result = session.run("x = 1\ny = = 2")
    assert result.status is Status.ERROR
    assert "<cell 1>" in result.stderr
    assert "SyntaxError" in result.stderr
    assert "child.py" not in result.stderr


def test_output_below_python_is_captured_in_order(session):
    result = session.run(
        "import os, sys, ctypes\nprint('a'); os.write(1, b'b\\n')\n"
        "ctypes.CDLL(None).puts(b'c'); ctypes.CDLL(None).fflush(None); print('e', file=sys.stderr)"
    )
    assert result.stdout == "a\nb\nc\n"
    assert result.stderr == "e\n"


def test_output_cut_keeps_head_and_tail(sandbox):
    with sandbox.open(Limits(output_bytes=1000, output_kill_bytes=1 << 20)) as session:
        result = session.run("print('BEGIN' + 'x' * 50_000 + 'END')")
    assert result.ok
    assert result.truncated
    assert result.stdout.startswith("BEGIN")
    assert result.stdout.endswith("END\n")
    assert 1000 < len(result.stdout) < 1100


def test_large_output_below_the_limit_comes_whole(sandbox):
    with sandbox.open(Limits(output_bytes=1 << 20)) as session:
        result = session.run("print('x' * 900_000)")
    assert (len(result.stdout), result.truncated, result.status) == (900_001, False, Status.OK)


def test_large_value_is_cut_and_does_not_kill(session):
    result = session.run("'v' * 3_000_000")
    assert result.ok
    assert len(result.value) < 70_000


def test_large_source_goes_through(session):
    assert session.run("s = '" + "y" * 1_000_000 + "'\nlen(s)").value == "1000000"


def test_sys_exit_zero_is_the_end_of_a_program_and_no_failure(session):
    assert session.run("import sys\nprint(1)\nsys.exit()").status is Status.OK
    for leave in ("exit()", "exit(0)", "quit()", "import builtins\nbuiltins.quit(None)"):
        ended = session.run(f"print(1)\n{leave}\nprint(2)")
        assert (ended.status, ended.stdout) == (Status.OK, "1\n"), leave
    failed = session.run("sys.exit('bad input')")
    assert failed.status is Status.ERROR
    assert "bad input" in failed.stderr


def test_text_that_cannot_be_encoded_is_replaced(session):
    session.run("class A:\n    def __repr__(self): return 'a' + chr(0xd800) + 'b'")
    assert session.run("A()").value == "a?b"
    result = session.run("import os; os.write(1, b'\\xed\\xa0\\x80'); print(chr(0xd800))")
    result.stdout.encode()
    assert result.ok


@pytest.mark.parametrize("wall_s", [0, -1.0, float("nan"), float("inf")])
def test_a_clock_that_never_ends_is_refused(session, wall_s):
    with pytest.raises(ValueError, match="wall_s must be positive and finite"):
        session.run("1", wall_s=wall_s)


def test_a_clock_of_a_year_is_taken(session):
    assert session.run("1", wall_s=3e7).value == "1"


@pytest.mark.parametrize(
    ("code", "status", "why"),
    [
        ("import os; os._exit(0)", Status.CRASHED, "exited with code 0"),
        ("import os; os._exit(3)", Status.CRASHED, "exited with code 3"),
        ("import ctypes; ctypes.string_at(0)", Status.CRASHED, "SIGSEGV"),
        ("while True: pass", Status.TIMEOUT, "wall-clock limit"),
    ],
)
def test_after_its_end_a_session_starts_afresh_and_says_so(session, code, status, why):
    session.run("kept = 1")
    ended = session.run(f"print('so far')\n{code}", wall_s=0.5)
    assert ended.status is status
    assert ended.stdout == "so far\n"
    assert why in ended.stderr
    after = session.run("kept")
    assert after.status is Status.ERROR
    assert "NameError" in after.stderr
    assert "a fresh interpreter" in after.stderr
    assert session.run("2").stderr == ""


def test_wall_clock_is_seen_from_outside(session):
    result = session.run("import time; time.sleep(60)", wall_s=0.2)
    assert result.status is Status.TIMEOUT
    assert result.duration_s >= 0.2
    assert result.cpu_s < 0.2


def test_seed_decides_random_numpy_and_hash(sandbox):
    code = "import random, numpy\n(random.random(), numpy.random.rand(), hash('a'))"
    values = []
    for seed in (7, 7, 8):
        with sandbox.open(seed=seed) as session:
            values.append(session.run(code).value)
    assert values[0] == values[1] != values[2]


def test_a_restart_has_a_seed_of_its_own_that_the_first_seed_and_the_calls_decide(sandbox):
    draw = "import random, numpy; (random.random(), numpy.random.rand())"
    seen = []
    for crash_at in (1, 1, 2):
        with sandbox.open(seed=5) as session:
            values = [session.run(draw).value for _ in range(crash_at)]
            session.run("import os; os._exit(1)")
            seen.append([*values, session.run(draw).value])
    assert seen[0] == seen[1]
    assert len({*seen[0], *seen[2]}) == 4


def test_numpy_sympy_threads_files_and_sqlite_work(session):
    result = session.run(
        "import numpy, sympy, sqlite3, threading, tempfile, json, pathlib, datetime, decimal\n"
        "x = sympy.Symbol('x'); out = [str(sympy.integrate(x**2, x))]\n"
        "out.append(round(float(numpy.linalg.det(numpy.eye(3) * 2)), 6))\n"
        "t = threading.Thread(target=out.append, args=('thread',)); t.start(); t.join()\n"
        "with tempfile.NamedTemporaryFile('w+') as f:\n"
        "    f.write('tmp'); f.seek(0); out.append(f.read())\n"
        "pathlib.Path('a.json').write_text(json.dumps({'k': 1}))\n"
        "out.append(json.load(open('a.json')))\n"
        "out.append(sqlite3.connect('b.db').execute('select 1').fetchone())\nout"
    )
    assert result.value == "['x**3/3', 8.0, 'thread', 'tmp', {'k': 1}, (1,)]", result.stderr


def test_closed_session_refuses(sandbox):
    session = sandbox.open()
    session.close()
    session.close()
    with pytest.raises(SandboxError, match="closed"):
        session.run("1")
    with pytest.raises(SandboxError, match="closed"):
        session.fork()


def test_sessions_are_apart(sandbox):
    with sandbox.open() as one, sandbox.open() as two:
        one.run("x = 1; open('here', 'w').close()")
        assert "NameError" in two.run("x").stderr
        assert two.run("import os; os.path.exists('here')").value == "False"


def test_importing_the_folder_is_cheap_and_pulls_in_no_library():
    code = "import sys, palestra.sandbox.types\nbefore = set(sys.modules)\n"
    code += "import palestra.sandbox as s; s.LocalSandbox; s.shared_sandbox\n"
    code += "new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
    code += "print(sorted(new - set(sys.stdlib_module_names) - {'palestra'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_descriptor_is_left_behind(sandbox):
    def cycle():
        for _ in range(10):
            with sandbox.open() as session:
                session.run("1")
                session.run("import os; os._exit(1)")

    cycle()
    before = len(list(Path("/proc/self/fd").iterdir()))
    cycle()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
