"""The dispatcher: exit codes, one-line errors, nearest names, and what `--help` costs."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from palestra import cli
from palestra.cli import dispatch
from palestra.cli.errors import UsageError


def run(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "palestra", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_help_names_every_command_and_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in cli.COMMANDS)
    assert len(text.splitlines()) <= 30
    assert max(map(len, text.splitlines())) <= 80


def test_no_command_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "commands:" in printed.err


def test_version() -> None:
    result = run("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("palestra ")


def test_an_unknown_command_names_its_nearest() -> None:
    result = run("trian")
    assert result.returncode == 2
    assert result.stderr == "palestra: unknown command 'trian'; did you mean 'train'?\n"


def test_an_unknown_command_near_nothing_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zzzzzz"]) == 2
    assert "there are quickstart, list" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("bad flag"), 2, "palestra: bad flag\n"),
        (ValueError("two\n lines"), 1, "palestra: two lines\n"),
        (KeyError("no such thing"), 1, "palestra: no such thing\n"),
        (RuntimeError(), 1, "palestra: RuntimeError\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(args: list[str]) -> int:
        raise error

    monkeypatch.setattr(dispatch, "_dispatch", fail)
    assert cli.main(["list"]) == code
    assert capsys.readouterr().err == line


def test_debug_keeps_the_traceback() -> None:
    result = run("trian", "--debug")
    assert "Traceback" in result.stderr
    assert "unknown command 'trian'" in result.stderr


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour_is_for_terminals_that_want_it(no_color: str, coloured: bool) -> None:
    """Run under a pseudo-terminal: help is set in bold there, and plain with NO_COLOR."""
    main, inner = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "NO_COLOR": no_color}
    command = [sys.executable, "-m", "palestra", "list", "--help"]
    subprocess.run(command, stdout=inner, env=environ, timeout=60, check=True)
    printed = os.read(main, 65536)
    os.close(inner)
    os.close(main)
    assert (b"\x1b[" in printed) == coloured
    assert b"\x1b" not in run("list", "--help").stdout.encode()
