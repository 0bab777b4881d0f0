"""`palestra view` on the folder of a real evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from palestra import cli

Capture = pytest.CaptureFixture[str]


def evaluate(folder: Path) -> None:
    reply = ["--engine", "scripted", "--model", "It is \\boxed{7}, surely."]
    argv = ["palestra/MathCode-v0", "--env.tasks", "arithmetic", "--tasks", "2"]
    assert cli.main(["eval", *argv, *reply, "--folder", str(folder)]) == 0


def test_view_writes_one_page_with_the_transcripts(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "run"
    evaluate(folder)
    capsys.readouterr()
    assert cli.main(["view", str(folder), "--tokens"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "surely" in page
    assert "palestra/MathCode-v0" in page


def test_view_of_no_run(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["view", str(tmp_path / "absent")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert cli.main(["view", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err
