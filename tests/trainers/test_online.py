"""Training runs: they learn, they survive kill -9, and invalid episodes stay out."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import letters
import pytest
import torch
from letters import same

from palestra.agents.runlog import read_groups, read_metrics, trajectory_files
from palestra.envs.types import StopReason
from palestra.trainers.checkpoint import latest_checkpoint
from palestra.trainers.config import (
    EnvConfig,
    EvalConfig,
    LearnerConfig,
    SamplingConfig,
    TrainConfig,
)
from palestra.trainers.online import train

SCRIPT = Path(letters.__file__)
# What may differ between two runs that are the same: how long things took.
TIMES = (
    "time/",
    "train/seconds",
    "train/tokens_per_s",
    "train/peak_memory",
    "rollout/tokens_per_s",
)
TIMES += ("rollout/episodes_per_s",)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return letters.save_model(tmp_path_factory.mktemp("run") / "model")


def start(folder, *flags):
    env = {**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder), *flags], env=env)


def metrics(folder):
    records = read_metrics(folder)
    return [{k: v for k, v in r.items() if not k.startswith(TIMES)} for r in records]


def wait_for_step(folder, step, process):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "metrics.jsonl").exists() and len(read_metrics(folder)) > step:
            return
        time.sleep(0.002)
    raise AssertionError(f"step {step} was never reached (exit status {process.poll()})")


@pytest.mark.parametrize("killed_after", [3, 4])
def test_a_killed_run_resumes_as_if_nothing_had_happened(model, killed_after):
    """Step 3 is killed past the checkpoint of step 2, step 4 around a checkpoint."""
    whole, torn = model.parent / "whole", model.parent / f"torn-{killed_after}"
    if not whole.exists():
        assert start(whole).wait(timeout=110) == 0
    process = start(torn)
    wait_for_step(torn, killed_after, process)
    time.sleep(0.02)  # somewhere inside the next step
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(read_metrics(torn)) < letters.STEPS + 1
    assert start(torn, "--resume").wait(timeout=110) == 0
    assert metrics(torn) == metrics(whole)
    last = [latest_checkpoint(folder) for folder in (torn, whole)]
    weights = [torch.load(p / "training.pt", weights_only=True) for p in last]
    assert same(*weights)
    for step, path in trajectory_files(whole).items():
        twin = trajectory_files(torn)[step]
        assert tokens(path) == tokens(twin)


def test_an_evaluation_leaves_nothing_to_the_next_step(tmp_path):
    """A run that stops at a checkpoint, which comes after an evaluation, goes on with a cold
    cache. Prefill in other portions gives other last bits (6e-6 here) in a model of this size."""
    model = letters.save_model(tmp_path / "model", context_length=2048, hidden_size=256)

    def steps(count):
        return letters.config(
            model,
            env=EnvConfig("tests/LongPrompts-v0"),
            algorithm="grpo",
            algorithm_options={},
            sampling=SamplingConfig(max_tokens=8),
            eval=EvalConfig(every=2, tasks=6),
            steps=count,
            group_size=2,
            checkpoint_every=2,
        )

    whole = train(steps(3), tmp_path / "whole")
    cut = train(steps(2), tmp_path / "cut")
    train(steps(3), cut, resume=True)
    assert metrics(cut) == metrics(whole)
    for step, path in trajectory_files(whole).items():
        assert tokens(path) == tokens(trajectory_files(cut)[step])


def tokens(path):
    return [(t.token_ids, t.logprobs) for g in read_groups(path) for t in g.trajectories]


def test_a_run_learns_and_keeps_its_promises(model, tmp_path):
    """Reward rises; sampler and trainer agree; the folder holds what the contract says."""
    heard = []
    config = letters.config(model, steps=25, prompts_per_step=6, group_size=8, checkpoint_every=25)
    folder = train(config, tmp_path / "run", on_step=lambda step, m: heard.append(step))
    records = read_metrics(folder)
    assert heard == [r["step"] for r in records] == list(range(26))
    rewards = [r["reward/mean"] for r in records[1:]]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1
    assert max(r["train/mismatch"] for r in records[1:]) < 1e-4
    assert records[-1]["eval/score"] > records[0]["eval/score"]
    for name in ("config.json", "environment.json", "report.html", "checkpoints/step-25"):
        assert (folder / name).exists()
    with pytest.raises(FileExistsError):
        train(config, folder)


def test_the_policy_is_its_own_critic_in_training(tmp_path):
    """It says how likely its verdicts are; held out, programs have the word."""
    model = letters.save_model(tmp_path / "model", context_length=2048)
    env = EnvConfig(
        "palestra/Rubric-v0",
        options={"rubrics": ["core"]},
        policy_as=("critic",),
        heldout={"split": "heldout", "rubrics": ["task"], "critic": None, "known_pairs": 2},
    )
    config = letters.config(
        model,
        env=env,
        algorithm="grpo",
        algorithm_options={},
        sampling=SamplingConfig(max_tokens=400),
        steps=1,
        prompts_per_step=2,
        save_episodes_every=1,
    )
    folder = train(config, tmp_path / "run")
    for path in trajectory_files(folder).values():
        played = [t for g in read_groups(path) for t in g.trajectories]
        judged = [t for t in played if t.stop_reason is StopReason.COMPLETED]
        assert judged and all(0 < t.reward < 1 for t in judged)
        assert len({t.reward for t in judged}) == len(judged)  # likelihoods, not verdicts
    held_out = read_metrics(folder)[0]
    assert held_out["eval/score"] == 0  # noise has no chance there
    assert 0 <= held_out["eval/critic accuracy"] <= 1
    with pytest.raises(ValueError, match="in options and in policy_as: critic"):
        EnvConfig(options={"critic": None}, policy_as=("critic",))


def test_another_configuration_is_not_resumed(model, tmp_path):
    config = letters.config(model, steps=1)
    train(config, tmp_path / "run")
    with pytest.raises(ValueError, match="with another seed than"):
        train(letters.config(model, steps=2, seed=1), tmp_path / "run", resume=True)
    train(letters.config(model, steps=2), tmp_path / "run", resume=True)
    assert [r["step"] for r in read_metrics(tmp_path / "run")] == [0, 1, 2]


def test_a_run_that_cannot_be_set_up_leaves_nothing(model, tmp_path):
    wrong = letters.config(model, env=EnvConfig("palestra/MathCode-v0", options={"tusks": 1}))
    with pytest.raises(ValueError, match="tusks"):
        train(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(letters.config(model, steps=1), tmp_path / "run")
    with pytest.raises(ValueError, match=r"with another .* than its config"):
        train(wrong, tmp_path / "run", resume=True)
    assert [r["step"] for r in read_metrics(tmp_path / "run")] == [0, 1]


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="group_size must be at least 2"):
        TrainConfig(group_size=1)
    with pytest.raises(ValueError, match=r"learner\.temperature"):
        TrainConfig(learner=LearnerConfig(temperature=0.7))
    with pytest.raises(ValueError, match=r"sampling\.temperature must be above 0"):
        TrainConfig(sampling=SamplingConfig(temperature=0))


def test_the_learner_follows_the_temperature_of_sampling():
    config = TrainConfig(sampling=SamplingConfig(temperature=0.7))
    assert config.learner_config() == LearnerConfig(temperature=0.7)
