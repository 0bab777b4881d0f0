"""`palestra sandbox`: run, doctor and bench, on the real sandbox of this machine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from palestra import cli
from palestra.cli import sandbox as commands
from palestra.cli import sandbox_bench as bench
from palestra.cli import sandbox_doctor as doctor
from palestra.cli import sandbox_run as run
from palestra.sandbox import LocalSandbox, Status
from palestra.sandbox.doctor import KEYS

Capture = pytest.CaptureFixture[str]
QUICK = ("--preload", "math")


@pytest.fixture
def program(tmp_path: Path):
    def write(text: str | bytes) -> str:
        path = tmp_path / "program.py"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


def run_it(path: str, *more: str) -> int:
    return cli.main(["sandbox", "run", path, *QUICK, *more])


def test_output_is_passed_on_and_the_verdict_stands_on_stderr(program, capsys: Capture):
    path = program("import sys\nprint('out')\nprint('err', file=sys.stderr)\n40 + 2\n")
    assert run_it(path) == 0
    printed = capsys.readouterr()
    assert printed.out == "out\n"
    assert printed.err.startswith("err\npalestra: ok in 0.")
    assert printed.err.count("\n") == 2
    with LocalSandbox(("math",)) as sandbox:
        assert printed.err.endswith(f"tier {sandbox.tier}\n")


def test_the_last_value_is_printed_only_when_asked_for(program, capsys: Capture):
    assert run_it(program("print('out')\n40 + 2"), "--echo") == 0
    assert capsys.readouterr().out == "out\n42\n"


@pytest.mark.parametrize(
    ("text", "flags", "status"),
    [
        ("x = 1", (), Status.OK),
        ("import sys; sys.exit(0)", (), Status.OK),
        ("1 / 0", (), Status.ERROR),
        ("while True: pass", ("--wall-s", "0.2"), Status.TIMEOUT),
        ("while True: pass", ("--cpu-s", "0.2"), Status.TIMEOUT),
        ("import os; os._exit(0)", (), Status.CRASHED),
        ("bytearray(1 << 28)", ("--memory-bytes", str(1 << 26)), Status.MEMORY),
        ("while True: print('x' * 999)", ("--output-kill-bytes", "65536"), Status.OUTPUT),
    ],
)
def test_the_exit_code_tells_how_it_ended(text, flags, status, program, capsys: Capture):
    assert run_it(program(text), *flags) == run.EXIT_CODES[status]
    assert f"palestra: {status} in " in capsys.readouterr().err


def test_every_status_has_an_exit_code_of_its_own_that_the_help_names(capsys: Capture):
    assert set(run.EXIT_CODES) == set(Status)
    codes = [*run.EXIT_CODES.values(), run.LOST, 2]
    assert len(set(codes)) == len(codes)
    with pytest.raises(SystemExit):
        cli.main(["sandbox", "run", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert all(f" {code} " in told for code in codes)


def test_a_traceback_speaks_of_the_file(program, capsys: Capture):
    path = program("def f():\n    raise KeyError('k')\nf()\n")
    assert run_it(path) == 1
    err = capsys.readouterr().err
    assert f'File "{path}", line 3, in <module>' in err
    assert f'File "{path}", line 2, in f' in err
    assert "raise KeyError('k')" in err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("import sys; sys.exit(7)", "palestra: error in "),
        ("import sys; sys.exit('bad\\nthing')", "bad\nthing\npalestra: error in "),
        ("try:\n    {}[1]\nexcept KeyError:\n    exit(3)", "palestra: error in "),
        ("import sys\nprint('e', file=sys.stderr)\nsys.exit(7)", "e\npalestra: error in "),
    ],
)
def test_leaving_shows_no_traceback(text, shown, program, capsys: Capture):
    assert run_it(program(text)) == 1
    err = capsys.readouterr().err
    assert err.startswith(shown) and ", exit code " in err


def test_a_syntax_error_is_shown_as_python_shows_it(program, capsys: Capture):
    path = program("x = 1\nprint(x\ny =\n")
    assert run_it(path) == 1
    assert capsys.readouterr().err.startswith(f'  File "{path}", line 2\n    print(x\n')


def test_what_the_program_may_have_been_meant_to_get_is_hinted_at(program, capsys: Capture):
    with pytest.raises(SystemExit):
        run_it(program("1"), "--size", "3")
    assert "if --size is meant for the program, give its arguments after --" in (
        capsys.readouterr().err
    )


def test_a_preload_that_is_not_installed_is_told(program, capsys: Capture):
    assert run_it(program("1"), "--preload", "numpi") == 0
    assert "'numpi' is not installed here" in capsys.readouterr().err


def test_a_program_is_main_and_has_its_arguments(program, capsys: Capture):
    path = program("import sys; print(__name__, __file__ == sys.argv[0], sys.argv[1:])")
    assert run_it(path, "one", "--", "--two", "it's") == 0
    assert capsys.readouterr().out == "__main__ True ['one', '--two', \"it's\"]\n"


def test_input_comes_from_a_file_byte_for_byte(program, tmp_path: Path, capsys: Capture):
    (tmp_path / "in").write_bytes(b"one\r\n\xff")
    path = program("import sys; print(sys.stdin.buffer.read())")
    assert run_it(path, "--stdin", str(tmp_path / "in")) == 0
    assert capsys.readouterr().out == "b'one\\r\\n\\xff'\n"


def test_a_program_is_read_from_standard_input(monkeypatch, capsys: Capture):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"print('typed')\n1/0")))
    assert run_it("-") == 1
    printed = capsys.readouterr()
    assert printed.out == "typed\n"
    assert 'File "<stdin>", line 2' in printed.err


def test_a_coding_line_is_heeded(program, capsys: Capture):
    assert run_it(program(b"# coding: latin-1\nprint(ascii('\xe9'))\n")) == 0
    assert capsys.readouterr().out == "'\\xe9'\n"


def test_json_has_output_and_verdict(program, capsys: Capture):
    assert run_it(program("print('out')\n1 / 0"), "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["stdout"]) == ("error", "out\n")
    assert "ZeroDivisionError" in told["stderr"]
    assert {"tier", "value", "duration_s", "cpu_s", "truncated", "queue_s"} <= set(told)


def test_the_program_sees_neither_our_folder_nor_our_environment(
    program, monkeypatch, capsys: Capture
):
    monkeypatch.setenv("PALESTRA_TEST_SECRET", "hidden")
    path = program(
        "import os, sys\n"
        "print(os.environ.get('PALESTRA_TEST_SECRET'), os.listdir('.'))\n"
        "print(os.path.exists(__file__))"
    )
    assert run_it(path) == 0
    assert capsys.readouterr().out == "None []\nFalse\n"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["run", "nowhere.py"], "the program 'nowhere.py' cannot be read: No such file"),
        (["run", "PROGRAM", "--wall-s", "0"], "limit wall_s must be positive, got 0.0"),
        (["run", "PROGRAM", "--stdin", "nowhere"], "the --stdin 'nowhere' cannot be read"),
        (["run", "PROGRAM", "--require", "nett"], "unknown layer 'nett'; layers are user"),
        (["run", "PROGRAM", "--backend", "dockr"], "docker"),
        (["run", "-", "--stdin", "-"], "cannot both be standard input"),
        (["run", "PROGRAM", "--wal-s", "1"], "--wall-s"),
        (["doctor", "--require", "nett"], "unknown guarantee 'nett'; did you mean 'net'?"),
        (["bench", "--seconds", "0"], "seconds must be positive, got 0"),
        (["bench", "--clients", "0"], "clients must be at least 1, got 0"),
        (["docter"], "unknown command 'sandbox docter'; did you mean 'doctor'?"),
        (["zzz"], "there are run, doctor, bench"),
    ],
)
def test_a_wrong_command_line_is_told_in_a_few_words(
    argv: Sequence[str], says: str, program, tmp_path: Path, monkeypatch, capsys: Capture
):
    monkeypatch.chdir(tmp_path)
    path = program("1")
    try:
        code = cli.main(["sandbox", *(path if word == "PROGRAM" else word for word in argv)])
    except SystemExit as stop:  # how the flag parser reports what it refuses
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_a_file_that_is_no_python_text_is_refused(program, capsys: Capture):
    assert run_it(program(b"\xff\xfe\x00")) == 2
    assert "is not a Python source file" in capsys.readouterr().err


def test_a_sandbox_that_fails_has_a_code_of_its_own(program, capsys: Capture):
    assert run_it(program("1"), "--descriptors", "1") == run.LOST
    assert "palestra: the sandbox failed: " in capsys.readouterr().err


def test_help_names_commands_and_examples_that_parse(capsys: Capture):
    assert cli.main(["sandbox", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in commands.COMMANDS)
    assert max(map(len, text.splitlines())) <= 80
    for line in commands.EXAMPLES:
        assert line in text
        assert line.split()[2] in commands.COMMANDS
    assert cli.main(["sandbox"]) == 2
    for name, module in (("run", run), ("doctor", doctor), ("bench", bench)):
        with pytest.raises(SystemExit) as stop:
            cli.main(["sandbox", name, "--help"])
        assert stop.value.code == 0
        told = capsys.readouterr().out
        assert all(f"palestra sandbox {name} {line}".rstrip() in told for line in module.EXAMPLES)


def test_help_needs_no_sandbox_and_no_parser():
    script = (
        "import sys\nfrom palestra import cli\ncli.main(['sandbox', '--help'])\n"
        "heavy = {'torch', 'rich', 'tyro', 'palestra.sandbox.local'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_doctor_tells_the_tier_each_guarantee_and_what_to_do(capsys: Capture, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with LocalSandbox(("math",)) as sandbox:
        tier = sandbox.tier
    assert cli.main(["sandbox", "doctor"]) == (0 if tier == "native" else 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"tier {tier}: ")
    firsts = [line.split()[0] for line in lines if line]
    assert [key for key in firsts if key in KEYS] == list(KEYS)
    assert any(line.startswith("docker: needed for DockerSandbox only") for line in lines)
    assert "\x1b" not in "".join(lines)


def test_doctor_fails_when_something_required_is_missing(capsys: Capture, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert cli.main(["sandbox", "doctor", "--json", "--require", "memory, docker"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["lacking"]) == (False, ["docker"])
    found = {row["key"]: row for row in told["rows"]}
    assert found["memory"]["result"] == "holds"
    assert "No such file or directory" in found["docker"]["shown"]


def test_bench_measures_every_kind_of_work(capsys: Capture):
    assert cli.main(["sandbox", "bench", "--seconds", "0.5", "--clients", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert f"{len(os.sched_getaffinity(0))} cores" in told["machine"]
    rows = {row["key"]: row for row in told["rows"]}
    assert {"floor", "print", "call", "fork", "sympy", "load-print", "load-sympy"} <= set(rows)
    assert all(row["runs"] > 0 and 0 < row["p50_ms"] <= row["p99_ms"] for row in rows.values())
    assert rows["load-print"]["per_second"] > 0
    assert rows["call"]["p50_ms"] < rows["sympy"]["p50_ms"]
