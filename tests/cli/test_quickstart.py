"""The quickstart's recipe, run for one step on a random model in place of the base model."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import save_tiny_model

from palestra import cli
from palestra.agents.runlog import read_json, read_metrics
from palestra.cli import quickstart
from palestra.cli.summary import print_summary
from palestra.envs.configfile import load_toml
from palestra.trainers.config import TrainConfig

Capture = pytest.CaptureFixture[str]


def test_the_recipe_is_shipped_and_loads() -> None:
    recipe = load_toml(TrainConfig, quickstart.RECIPE)
    assert recipe.algorithm == "dapo"
    assert recipe.steps >= 20


@pytest.mark.slow
def test_one_step_and_its_report(tmp_path: Path, capsys: Capture) -> None:
    base = save_tiny_model(tmp_path / "base", "llama")
    options = quickstart.Options(steps=1, tool=False, seed=3, folder=tmp_path / "run")
    folder = quickstart.run(options, base)
    print_summary(folder)
    assert [record["step"] for record in read_metrics(folder)] == [0, 1]
    config = read_json(folder / "config.json")
    assert config["seed"] == 3
    assert config["env"]["options"]["tool"] is False
    assert (folder / "report.html").stat().st_size > 10_000
    assert "after (step 1)" in capsys.readouterr().out


def test_steps_must_be_positive(capsys: Capture) -> None:
    assert cli.main(["quickstart", "--steps", "0"]) == 2
    assert "steps must be at least 1" in capsys.readouterr().err
