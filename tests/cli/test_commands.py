"""list, info, play and eval, run for real on the built-in environment."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from palestra import cli
from palestra.agents.engines import EngineError, SamplingParams
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.cli.play import read_action
from palestra.envs.types import Completion

ID = "palestra/MathCode-v0"
TASKS = ["--env.tasks", "arithmetic"]
Capture = pytest.CaptureFixture[str]


def run_json(capsys: Capture, *argv: str) -> object:
    assert cli.main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def feed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_list_shows_ids_with_their_descriptions(capsys: Capture) -> None:
    assert cli.main(["list", "mathcode"]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith(f"{ID}  ")
    assert "\x1b" not in line


def test_list_takes_shell_patterns_and_prints_json(capsys: Capture) -> None:
    rows = run_json(capsys, "list", "*/MathCode-v?")
    assert [row["id"] for row in rows] == [ID]
    assert set(rows[0]) == {"id", "description", "entry_point", "missing_extra"}
    assert rows[0]["missing_extra"] == ""


def test_what_lacks_its_extra_is_marked_and_its_settings_are_shown(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    assert cli.main(["list", "reasoning"]) == 0
    assert "[not installed: pip install 'palestra[tasks]']" in capsys.readouterr().out
    assert cli.main(["info", "palestra/Reasoning-v0"]) == 0
    text = capsys.readouterr().out
    assert "not made here: " in text and "pip install 'palestra[tasks]'" in text
    assert '\n  split = "train"\n' in text


def test_info_shows_the_settings_of_what_needs_one(capsys: Capture) -> None:
    card = run_json(capsys, "info", "palestra/OpenEnv-v0")
    assert card["settings"]["url"] == "(required)"
    assert card["needs"] == "to be made it needs --env.url"


def test_list_of_nothing_is_a_failure(capsys: Capture) -> None:
    assert cli.main(["list", "nothing-like-it"]) == 1
    assert "no environment matches 'nothing-like-it'" in capsys.readouterr().err


def test_info_is_the_card_of_an_environment(capsys: Capture) -> None:
    card = run_json(capsys, "info", ID, "--env.tool", "true", "--env.max-turns", "3")
    assert card["max_turns"] == 3
    assert card["num_tasks"] > 0
    assert [tool["function"]["name"] for tool in card["tools"]] == ["python"]
    assert card["example"][-1]["role"] == "user"
    assert card["settings"]["protocol"] == "fenced"


def test_info_reads_well(capsys: Capture) -> None:
    assert cli.main(["info", ID]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{ID}: ")
    assert "\ntools\n  python: " in text
    assert '\n  protocol = "fenced"\n' in text
    assert "\n  examples = []\n" in text


def test_info_shows_whole_sentences_and_lists_as_they_are_given(capsys: Capture) -> None:
    assert cli.main(["info", "palestra/PythonExec-v0"]) == 0
    tools = capsys.readouterr().out.partition("\ntools\n")[2].partition("\n\n")[0].splitlines()
    assert all(line.endswith(".") for line in tools) and len(tools) == 2
    assert cli.main(["info", "palestra/Rubric-v0"]) == 0
    text = capsys.readouterr().out
    assert '\n  rubrics = ["task", "prescriptive"]\n' in text and '\n  answer_of = "str"\n' in text


def test_an_unknown_engine_is_misuse_and_leaves_no_folder(capsys: Capture, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert cli.main(["eval", ID, "--engine", "scriptd", "--folder", str(folder)]) == 2
    assert "did you mean 'scripted'" in capsys.readouterr().err and not folder.exists()


@pytest.mark.parametrize("command", ["info", "play", "eval"])
def test_an_unknown_id_is_misuse_and_names_the_nearest(command: str, capsys: Capture) -> None:
    assert cli.main([command, "palestra/MathCodes-v0"]) == 2
    assert f"Did you mean {ID}?" in capsys.readouterr().err


def test_play_runs_the_tool_and_grades_the_answer(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, "```python\nx = 2**10\n\nprint(x)\n```\n\n\\boxed{-12345}\n\n")
    assert cli.main(["play", ID, *TASKS, "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "[tool]\n1024" in printed
    assert printed.rstrip().endswith("reward 0 (answer 0), not correct: completed")


def test_play_of_a_game_says_whose_turn_it_is_and_what_each_seat_won(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, "[bet]\n\n[call]\n\n")
    assert cli.main(["play", "palestra/KuhnPoker-v0", "--task", "0"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("your turn as first") < printed.index("your turn as second")
    assert printed.rstrip().endswith("the game is over: first -2, second +2")


def test_play_of_the_same_seed_is_the_same_task(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    screens = []
    for _ in range(2):
        feed(monkeypatch, "")
        assert cli.main(["play", ID, *TASKS, "--seed", "5"]) == 0
        screens.append(capsys.readouterr().out)
    assert screens[0] == screens[1]
    assert screens[0].rstrip().endswith("left before the end")


def test_an_action_ends_at_an_empty_line_outside_code() -> None:
    lines = io.StringIO("one\ntwo\n\n```python\na\n\nb\n```\nend\n\nlast")
    actions = []
    while (action := read_action(lines.readline)) is not None:
        actions.append(action)
    assert actions == ["one\ntwo", "```python\na\n\nb\n```\nend", "last"]


def evaluate(folder: Path, *more: str) -> list[str]:
    scripted = ["--engine", "scripted", "--model", "It is \\boxed{7}.", "--folder", str(folder)]
    return ["eval", ID, *TASKS, *scripted, "--tasks", "6", "--samples", "2", *more]


def test_eval_keeps_a_run_folder_and_reports_intervals(tmp_path: Path, capsys: Capture) -> None:
    result = run_json(capsys, *evaluate(tmp_path / "first"))
    score = result["estimates"]["score"]
    assert score["low"] <= score["value"] <= score["high"]
    assert (result["num_tasks"], result["num_samples"]) == (6, 12)
    assert result["estimates"]["invalid"]["value"] == 0
    names = {path.name for path in (tmp_path / "first").iterdir()}
    assert {"config.json", "environment.json", "result.json", "trajectories"} <= names


def test_eval_never_overwrites_but_resumes(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "run"
    first = run_json(capsys, *evaluate(folder))
    assert cli.main(evaluate(folder)) == 2
    assert "never overwritten" in capsys.readouterr().err
    again = run_json(capsys, *evaluate(folder, "--resume"))
    assert again["rows"] == first["rows"]


def test_eval_compares_with_an_earlier_one(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(evaluate(tmp_path / "a")) == 0
    assert cli.main(evaluate(tmp_path / "b", "--against", str(tmp_path / "a"))) == 0
    printed = capsys.readouterr().out
    assert "score" in printed
    assert "+0.000" in printed


def test_eval_against_nothing_is_misuse(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(evaluate(tmp_path / "b", "--against", str(tmp_path))) == 2
    assert "holds no finished evaluation" in capsys.readouterr().err


class LostEngine(ScriptedEngine):
    """An engine that is lost at its first request."""

    def __init__(self, model: str) -> None:
        super().__init__([model])

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams) -> Completion:
        raise EngineError("the engine is gone")


def test_eval_with_nothing_but_failures_is_a_failed_run(tmp_path: Path, capsys: Capture) -> None:
    engine = ["--engine", f"{__name__}:LostEngine", "--model", "x", "--tasks", "2"]
    assert cli.main(["eval", ID, *TASKS, *engine, "--folder", str(tmp_path / "run")]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("invalid episode (engine)") == 1
    assert "the engine is gone" in printed.err
    assert "100.0 %" in printed.out


def test_resuming_needs_a_folder(capsys: Capture) -> None:
    assert cli.main(["eval", ID, "--resume"]) == 2
    assert "--folder" in capsys.readouterr().err
