"""Games with seats through the training loop: both sides learn, and runs resume exactly."""

from dataclasses import replace

import pytest
import torch
from letters import same

from palestra.agents.runlog import read_groups, read_metrics, trajectory_files
from palestra.trainers.checkpoint import latest_checkpoint
from palestra.trainers.config import EnvConfig, EvalConfig, SamplingConfig, TrainConfig
from palestra.trainers.micro import MicroRecipe, build_base_model
from palestra.trainers.online import train

PLAYER = MicroRecipe(
    corpus="kuhn", hidden_size=32, layers=1, heads=2, mlp_size=64, steps=60, documents_per_step=16
)
TIMES = ("time/", "train/seconds", "train/tokens_per_s", "train/peak_memory", "rollout/")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_base_model(tmp_path_factory.mktemp("kuhn") / "base", recipe=PLAYER)


def config(base, **changes):
    made = TrainConfig(
        model=str(base),
        env=EnvConfig("palestra/KuhnPoker-v0", {"rules": False}),
        algorithm="dr_grpo",
        algorithm_options={"kl": 0.01},
        sampling=SamplingConfig(max_tokens=24),
        eval=EvalConfig(every=2, tasks=6, samples=2),
        steps=4,
        prompts_per_step=6,
        group_size=8,
        checkpoint_every=2,
        threads=1,
    )
    made = replace(made, learner=replace(made.learner, lr=1e-3))
    return replace(made, **changes)


def metrics(folder):
    return [{k: v for k, v in r.items() if not k.startswith(TIMES)} for r in read_metrics(folder)]


def groups(folder):
    return [g for path in trajectory_files(folder).values() for g in read_groups(path)]


def test_self_play_trains_both_seats_and_resumes_exactly(base, tmp_path):
    whole = train(config(base), tmp_path / "whole")
    torn = train(config(base, steps=2), tmp_path / "torn")
    train(config(base), torn, resume=True)
    assert metrics(torn) == metrics(whole)
    weights = [
        torch.load(latest_checkpoint(f) / "training.pt", weights_only=True) for f in (whole, torn)
    ]
    assert same(*weights)
    assert {g.task.metadata["seat"] for g in groups(whole)} == {"first", "second"}
    assert any(t.reward != g.trajectories[0].reward for g in groups(whole) for t in g.trajectories)
    first, *_, last = metrics(whole)
    assert first["eval/bare moves"] > 0.02
    assert 0 < last["eval/exploitability"] != first["eval/exploitability"]
    assert last["eval/score/first"] == pytest.approx(-last["eval/score/second"], abs=1.5)


def test_an_opponent_plays_and_does_not_learn(base, tmp_path):
    folder = train(
        config(base, steps=1, opponents={"second": str(base)}, prompts_per_step=6),
        tmp_path / "run",
    )
    assert {g.task.metadata["seat"] for g in groups(folder)} == {"first"}
    last = metrics(folder)[-1]
    assert "eval/score/first" in last and "eval/score/second" not in last


def test_opponents_are_for_games(base, tmp_path):
    chat = EnvConfig("palestra/Chat-v0", {"template": "plain"})
    with pytest.raises(ValueError, match="leave one of the seats"):
        train(config(base, env=chat, opponents={"second": str(base)}), tmp_path / "run")
