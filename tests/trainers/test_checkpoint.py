"""Checkpoints: whole or absent, loadable by transformers, exact to the bit."""

import json

import numpy as np
import pytest
import torch
from episodes import random_groups, tiny_model
from fakes import tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from palestra.trainers.algorithms import get_algorithm
from palestra.trainers.batching import build_batch
from palestra.trainers.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from palestra.trainers.config import LearnerConfig
from palestra.trainers.learner import Learner

GRPO = get_algorithm("grpo")


def learner(dtype="float32"):
    config = LearnerConfig(dtype=dtype, lr=1e-3, device="cpu", warmup_updates=3)
    return Learner(tiny_model(dtype=torch.float32), config, GRPO)


def batch_of(seed):
    return build_batch(random_groups(np.random.default_rng(seed)), GRPO)


def weights(it):
    parts = [*it.model.parameters(), *it.masters]
    return torch.cat([p.detach().flatten().double() for p in parts])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_save_load_continue_equals_uninterrupted_to_the_bit(tmp_path, dtype):
    straight = learner(dtype)
    for seed in range(2):
        straight.step(batch_of(seed))
    save_checkpoint(tmp_path, 2, straight, {"cursor": 7, "rng": [1, 2, 3]})
    for seed in range(2, 4):
        straight.step(batch_of(seed))

    resumed = learner(dtype)
    state = load_checkpoint(latest_checkpoint(tmp_path), resumed)
    assert state == {"cursor": 7, "rng": [1, 2, 3]}
    assert (resumed.version, resumed.updates) == (2, 2)
    for seed in range(2, 4):
        resumed.step(batch_of(seed))
    assert torch.equal(weights(straight), weights(resumed))


def test_a_checkpoint_is_an_ordinary_model_folder(tmp_path):
    it = learner()
    it.step(batch_of(0))
    path = save_checkpoint(tmp_path, 1, it, {}, tokenizer=tiny_tokenizer())
    assert path == tmp_path / "checkpoints" / "step-1"
    model = AutoModelForCausalLM.from_pretrained(path)
    assert "palestra" not in (path / "config.json").read_text()
    ids = torch.arange(1, 9)[None]
    torch.testing.assert_close(model(ids).logits, it.model(ids).logits, rtol=0, atol=1e-5)
    assert AutoTokenizer.from_pretrained(path).decode([40]) == tiny_tokenizer().decode([40])


def test_torn_checkpoints_are_passed_over(tmp_path):
    it = learner()
    whole = save_checkpoint(tmp_path, 9, it, {})
    save_checkpoint(tmp_path, 10, it, {})
    (tmp_path / "checkpoints/step-10/state.json").unlink()
    (tmp_path / "checkpoints/.tmp-step-11-1").mkdir()
    (tmp_path / "checkpoints/step-notes").mkdir()
    assert latest_checkpoint(tmp_path) == whole
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        load_checkpoint(tmp_path / "checkpoints/step-10", it)


def test_order_is_by_number_and_old_ones_go(tmp_path):
    it = learner()
    assert latest_checkpoint(tmp_path) is None
    for step in (2, 9, 10):
        save_checkpoint(tmp_path, step, it, {"step": step}, keep=2)
    assert latest_checkpoint(tmp_path).name == "step-10"
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-10", "step-9"]


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path):
    it = learner()
    save_checkpoint(tmp_path, 1, it, {"a": 1})
    with pytest.raises(FileExistsError, match="never overwritten"):
        save_checkpoint(tmp_path, 1, it, {"a": 2})
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 2, it, {"a": object()})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-1"]


def test_another_format_is_refused(tmp_path):
    it = learner()
    path = save_checkpoint(tmp_path, 1, it, {})
    record = json.loads((path / "state.json").read_text()) | {"format": 99}
    (path / "state.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="format 99"):
        load_checkpoint(path, it)
