"""What `palestra train` makes of recipes, flags and resumed runs, up to the loop itself."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from fakes import save_tiny_model

from palestra import cli
from palestra.agents.runlog import plain, read_metrics
from palestra.cli import train as command
from palestra.cli.progress import StepPrinter
from palestra.trainers.config import EnvConfig, TrainConfig

RECIPE = """
model = "{model}"
algorithm = "grpo"
prompts_per_step = 1
group_size = 2
checkpoint_every = 1

[env.options]
tasks = "arithmetic"
instructions = ""

[sampling]
max_tokens = 8

[eval]
tasks = 2
"""
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainConfig, Path | None, Path | None]]:
    """Calls that would have started the loop."""
    calls: list[tuple[TrainConfig, Path | None, Path | None]] = []

    def train(config: TrainConfig, folder: Path | None, resume: Path | None, name: str) -> Path:
        calls.append((config, folder, resume))
        return folder or resume or Path(name)

    monkeypatch.setattr(command, "train", train)
    return calls


def test_flags_come_on_top_of_the_recipe(tmp_path: Path, started: list) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('steps = 7\nmodel = "m"\n[env.options]\ntasks = "arithmetic"\n')
    flags = ["--steps", "9", "--env.options.max-turns", "2", "--folder", str(tmp_path / "run")]
    assert cli.main(["train", str(recipe), *flags]) == 0
    env = EnvConfig(options={"tasks": "arithmetic", "max_turns": 2})
    expected = TrainConfig(steps=9, model="m", env=env)
    assert started == [(expected, tmp_path / "run", None)]


def test_no_words_at_all_are_the_defaults(started: list) -> None:
    assert cli.main(["train"]) == 0
    assert started == [(TrainConfig(), None, None)]


def test_a_resumed_run_keeps_its_options(tmp_path: Path, started: list) -> None:
    config = TrainConfig(steps=5, seed=3, env=EnvConfig(options={"tasks": "arithmetic"}))
    (tmp_path / "config.json").write_text(json.dumps(plain(asdict(config))))
    assert cli.main(["train", "--resume", str(tmp_path)]) == 0
    assert started == [(config, None, tmp_path)]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["absent.toml"], "cannot read the configuration absent.toml"),
        (["--steps", "3", "late.toml"], "give the recipe late.toml first"),
        (["--resume", "nowhere"], "nowhere holds no run to resume"),
        (["--algorithm", "grop"], "did you mean 'grpo'?"),
        (["--env.id", "palestra/MathCod-v0"], "Did you mean palestra/MathCode-v0"),
        (["--env.heldout.digitz", "3"], "has no setting 'digitz'"),
        (["--algorithm-options.clip-hi", "0.3"], "did you mean 'clip_high'?"),
    ],
)
def test_misuse_is_one_line(argv: list[str], says: str, capsys: Capture) -> None:
    assert cli.main(["train", *argv]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1


def test_progress_is_one_line_a_step(capsys: Capture) -> None:
    show = StepPrinter(2)
    show(0, {"eval/accuracy": 0.25})
    show(1, {"reward/mean": 0.5, "accuracy": float("nan"), "rollout/tokens_per_s": 1234.5})
    heading, before, first = capsys.readouterr().out.splitlines()
    assert " ".join(heading.split()) == "step reward correct tool use tokens tok/s s held-out"
    assert before.split() == ["0/2", "25.0%"]
    assert first.split() == ["1/2", "0.500", "1234"]


def test_a_step_of_invalid_episodes_ends_the_run(capsys: Capture) -> None:
    show = StepPrinter(2)
    show(1, {"reward/mean": 0.5, "invalid": 0.25})
    assert capsys.readouterr().out.endswith("25.0% invalid\n")
    with pytest.raises(RuntimeError, match="every episode of step 2 was invalid"):
        show(2, {"invalid": 1.0})


def test_prompts_that_do_not_fit_end_the_run(tmp_path: Path, capsys: Capture) -> None:
    model, recipe = save_tiny_model(tmp_path / "model"), tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(model=model))
    small = ["--engine-options.context-length", "8"]
    assert cli.main(["train", str(recipe), "--folder", str(tmp_path / "run"), *small]) == 1
    says = r"prompt of \d+ tokens does not fit the model's context of 8"
    assert re.search(says, capsys.readouterr().err)
    argv = ["eval", "palestra/MathCode-v0", "--model", str(model), "--tasks", "2", *small]
    assert cli.main([*argv, "--folder", str(tmp_path / "eval")]) == 1
    assert len(re.findall(says, capsys.readouterr().err)) == 1


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, run = save_tiny_model(tmp_path / "model"), tmp_path / "run"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(model=model))

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StepPrinter, "__call__", stop)
        assert cli.main(["train", str(recipe), "--folder", str(run), "--steps", "1"]) == 130
    assert f"interrupted: `palestra train --resume {run}` goes on" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(run)]) == 0


def test_a_run_for_real_then_resumed_then_evaluated(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tiny random model: nothing is learnt, but every command meets the files of the others."""
    monkeypatch.chdir(tmp_path)
    model, run = save_tiny_model(tmp_path / "model"), tmp_path / "run"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(model=model.name))
    assert cli.main(["train", str(recipe), "--folder", str(run), "--steps", "1"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(["train", "--resume", str(run), "--steps", "2"]) == 0
    assert [record["step"] for record in read_metrics(run)] == [0, 1, 2]
    assert "2 of 2" in (run / "report.html").read_text(encoding="utf-8")
    assert cli.main(["train", "--resume", str(run), "--steps", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"{run} is done, at step 2" in printed
    assert "before (step 0)" in printed
    assert "after (step 2)" in printed

    checkpoint = str(run / "checkpoints" / "step-2")
    options = ["--env.tasks", "arithmetic", "--tasks", "2", "--max-tokens", "8"]
    folder = ["--folder", str(tmp_path / "eval")]
    argv = ["eval", "palestra/MathCode-v0", "--model", checkpoint, *options, *folder]
    assert cli.main(argv) == 0
    shutil.rmtree(model)
    assert cli.main(["view", str(run), "--tokens"]) == 0  # with its checkpoint's own tokenizer
    printed = capsys.readouterr().out
    assert "report.html" in printed
