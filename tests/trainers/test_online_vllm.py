"""Training through vLLM: after each update the next token comes from the new weights."""

import pytest

pytest.importorskip("vllm")

import letters

from palestra.agents.runlog import read_groups, read_metrics, trajectory_files
from palestra.trainers.config import EvalConfig
from palestra.trainers.online import train

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


def test_five_steps_through_vllm(tmp_path):
    """The learner scores every sampled token with its own, current weights. Were a token
    sampled from older ones, its log-prob would differ by far more than rounding."""
    model = letters.save_model(tmp_path / "model")
    config = letters.config(
        model,
        engine="vllm",
        engine_options={"dtype": "float32", "cache_gb": 1, "enforce_eager": True},
        steps=5,
        eval=EvalConfig(every=0, tasks=2),
    )
    folder = train(config, tmp_path / "run")
    steps = read_metrics(folder)[1:]
    assert [m["step"] for m in steps] == [1, 2, 3, 4, 5]
    assert all(m["train/grad_norm"] > 0 for m in steps)
    assert max(m["train/mismatch_max"] for m in steps) < 1e-3
    for step, path in trajectory_files(folder).items():
        versions = {t.policy_version for g in read_groups(path) for t in g.trajectories}
        assert versions == {step - 1}
