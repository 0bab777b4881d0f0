"""Standard input: a call's own, in every way a program may read it, and nothing of another's."""

import asyncio
import contextlib

import pytest

from palestra.sandbox import Limits, Status
from palestra.sandbox.local import wire


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("input(), input()", "('3 4', 'zwei ü')"),
        ("import sys; sys.stdin.read()", "'3 4\\nzwei ü\\n'"),
        ("import sys; sys.stdin.buffer.readline()", "b'3 4\\n'"),
        ("import sys; [line for line in sys.stdin]", "['3 4\\n', 'zwei ü\\n']"),
        ("open(0).readline()", "'3 4\\n'"),
        ("import os; os.read(0, 4)", "b'3 4\\n'"),
        ("import sys; sys.__stdin__.readline()", "'3 4\\n'"),
        ("import fileinput; list(fileinput.input([]))", "['3 4\\n', 'zwei ü\\n']"),
        ("import sys; sys.stdin.seek(2); input()", "'4'"),
        ("import sys; (sys.stdin.isatty(), sys.stdin.fileno())", "(False, 0)"),
    ],
)
def test_every_way_of_reading(session, code, value):
    assert session.run(code, stdin="3 4\nzwei ü\n").value == value


def test_without_input_there_is_its_end(session):
    assert "EOFError" in session.run("input()").stderr
    assert session.run("import sys; sys.stdin.read()").value == "''"
    assert session.run("import sys; sys.stdin.read()", stdin="").value == "''"


def test_it_cannot_be_written_to_however_the_session_was_made(native):
    with contextlib.ExitStack() as opened:
        for _ in range(8):  # more than wait ready, so some are forked on demand
            session = opened.enter_context(native.open())
            result = session.run("import os; os.write(0, b'x')")
            assert "Bad file descriptor" in result.stderr


def test_nothing_is_left_of_an_earlier_call(session):
    session.run("first = input()", stdin="a\nsecret\n" * 5000)
    assert session.run("import sys, os; sys.stdin.read(), os.read(0, 9)").value == "('', b'')"
    assert session.run("input()", stdin="b").value == "'b'"
    assert session.run("first").value == "'a'"
    assert session.list_files() == []


@pytest.mark.parametrize(
    "spoil",
    [
        "import sys; sys.stdin = None",
        "import sys; sys.stdin.close()",
        "import sys; del sys.stdin, sys.__stdin__",
        "import io, sys; sys.stdin = io.StringIO('mine')",
        "import os; os.close(0)",
        "import os; os.dup2(os.open('/dev/zero', os.O_RDONLY), 0)",
        "import os; os.chdir('/'); os.open = os.dup2 = os.write = os.lseek = os.close = None",
        "import io; io.FileIO = io.TextIOWrapper = io.BufferedReader = None",
        "files = [open('/dev/null')]\ntry:\n  while True: files.append(open('/dev/null'))\n"
        "except OSError: pass",
    ],
)
def test_what_a_cell_did_to_its_input_is_repaired(session, spoil):
    assert session.run(spoil, stdin="unread").ok
    assert session.run("input()", stdin="new\n").value == "'new'"
    assert "EOFError" in session.run("input()").stderr


def test_bytes_that_are_no_text_are_kept(session):
    data = bytes(range(256)) * 300
    code = "import sys; sys.stdin.buffer.read() == bytes(range(256)) * 300"
    assert session.run(code, stdin=data).value == "True"
    assert session.run("input()", stdin=b"\xff\n").value == "'\\udcff'"
    assert session.run("ascii(input())", stdin="a\udcff\n").value == "\"'a\\\\udcff'\""
    with pytest.raises(UnicodeEncodeError):
        session.run("1", stdin="\ud800")


def test_megabytes_go_through_and_are_bounded(session):
    data = b"0123456789\n" * 1_000_000
    code = "import sys; d = sys.stdin.buffer.read(); (len(d), d[:11] * 1_000_000 == d)"
    assert session.run(code, stdin=data).value == "(11000000, True)"
    with pytest.raises(ValueError, match="stdin has"):
        session.run("1", stdin=b"x" * (wire.MAX_INPUT + 1))
    assert session.run("2").value == "2"


@pytest.mark.parametrize("limits", [Limits(tmp_bytes=1 << 20), Limits(file_bytes=1 << 20)])
def test_input_that_does_not_fit_the_session_is_an_error_of_the_call(native, limits):
    with native.open(limits) as session:
        result = session.run("x = 1", stdin=b"x" * (2 << 20))
        assert result.status is Status.ERROR
        assert "no room for the standard input" in result.stderr
        assert "EOFError" in session.run("input()").stderr
        assert session.run("input()", stdin="fits").value == "'fits'"


def test_a_program_that_does_not_read_is_not_waited_for(session):
    assert session.run("1", stdin="x" * 5_000_000, wall_s=5).value == "1"


def test_a_copy_reads_on_by_itself(native):
    with native.open() as session:
        session.run("import os, sys; first = input()", stdin="a\nb\nc\n")
        code = "os.lseek(0, 0, os.SEEK_CUR), first"
        with session.fork() as copy:
            assert copy.run("input()", stdin="other").value == "'other'"
            assert copy.run(code).value == session.run(code).value == "(0, 'a')"


def test_arun_and_one_shot_runs_take_input(sandbox):
    assert sandbox.run("int(input()) + 1", stdin="41").value == "42"
    assert asyncio.run(sandbox.arun("int(input()) + 1", stdin=b"41")).value == "42"
