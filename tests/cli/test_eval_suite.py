"""`palestra eval --suite`, and what tells of suites."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palestra import cli

Capture = pytest.CaptureFixture[str]

MINE = """
[environments.sums]
id = "palestra/MathCode-v0"
tasks = 3
[environments.writing]
id = "palestra/Rubric-v0"
tasks = 2
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


def flags(suite: object, folder: Path, *more: str) -> list[str]:
    scripted = ["--engine", "scripted", "--model", "It is \\boxed{7}.", "--folder", str(folder)]
    return ["eval", "--suite", str(suite), *scripted, *more]


def test_a_suite_of_ones_own_is_played_kept_and_shown(
    mine: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert cli.main(flags(mine, tmp_path / "run")) == 0
    printed = capsys.readouterr().out
    assert "scripted on the suite mine" in printed and "mean of the scores" in printed
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["suite"] == "mine" and config["environments"]["sums"]["max_tokens"] == 512
    assert cli.main(["view", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_suite_resumes_with_more_tasks_but_nothing_else(
    mine: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert cli.main(flags(mine, tmp_path / "run")) == 0
    assert cli.main(flags(mine, tmp_path / "run")) == 2
    assert "never overwritten" in capsys.readouterr().err
    again = flags(mine, tmp_path / "run", "--resume", "--tasks", "4", "--json")
    assert cli.main(again) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["num_tasks"] for one in found["environments"].values()] == [4, 4]
    assert set(found["aggregate"]) == {"value", "low", "high", "count"}
    assert cli.main([*again, "--temperature", "0"]) == 2
    assert "another sums.temperature, writing.temperature" in capsys.readouterr().err


def test_two_runs_of_a_suite_are_compared(mine: Path, tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(flags(mine, tmp_path / "a")) == 0
    assert cli.main(flags(mine, tmp_path / "b", "--against", str(tmp_path / "a"))) == 0
    assert "score of scripted minus scripted" in capsys.readouterr().out
    single = [
        "eval",
        "palestra/MathCode-v0",
        "--engine",
        "scripted",
        "--against",
        str(tmp_path / "a"),
    ]
    assert cli.main(single) == 2
    assert "holds a suite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["eval"], "or --suite NAME"),
        (["eval", "smoke"], "give it as --suite smoke"),
        (["eval", "--suite", "smok"], "did you mean 'smoke'"),
        (["eval", "palestra/MathCode-v0", "--suite", "smoke"], "not both"),
        (["eval", "--suite", "smoke", "--env.tool", "false"], "stand in the suite's file"),
    ],
)
def test_misuse_is_told(argv: list[str], said: str, capsys: Capture) -> None:
    assert cli.main(argv) == 2
    assert said in capsys.readouterr().err


def test_a_flag_out_of_range_is_told(capsys: Capture) -> None:
    assert cli.main(["eval", "palestra/MathCode-v0", "--tasks", "0"]) == 2
    assert capsys.readouterr().err == "palestra: tasks must be at least 1, got 0\n"


def test_a_wrong_setting_in_a_suite_is_told_before_anything_is_made(
    mine: Path, tmp_path: Path, capsys: Capture
) -> None:
    mine.write_text(MINE.replace("tasks = 2", "options = { rubric = [] }"))
    assert cli.main(flags(mine, tmp_path / "run")) == 2
    said = capsys.readouterr().err
    assert "suite mine, environment writing: " in said and "did you mean 'rubrics'" in said
    assert not (tmp_path / "run").exists()


def test_list_shows_the_suites(capsys: Capture) -> None:
    assert cli.main(["list", "--suites"]) == 0
    text = capsys.readouterr().out
    assert "smoke: " in text and "palestra/PythonExec-v0" in text
    assert cli.main(["list", "tool", "--suites", "--json"]) == 0
    (suite,) = json.loads(capsys.readouterr().out)
    assert suite["name"] == "tools" and suite["environments"]["sums"]["tasks"] == 64
    assert cli.main(["list", "nothing", "--suites"]) == 1
