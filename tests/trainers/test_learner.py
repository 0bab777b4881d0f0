"""The learner: the same gradient however the batch is cut, and the same bits every time."""

import numpy as np
import pytest
import torch
from episodes import TASK, random_groups, sampled_by, tiny_model, trajectory
from transformers import GPT2Config, GPT2LMHeadModel

from palestra.agents.engines.base import SamplingParams
from palestra.envs.types import Group
from palestra.trainers.algorithms import get_algorithm
from palestra.trainers.batching import build_batch
from palestra.trainers.config import LearnerConfig
from palestra.trainers.learner import Learner

GRPO = get_algorithm("grpo")


def learner(algorithm=GRPO, model=None, reference=None, **config):
    options = {"dtype": "float64", "lr": 1e-3, "device": "cpu"} | config
    return Learner(model or tiny_model(), LearnerConfig(**options), algorithm, reference)


def batch_of(seed=0, algorithm=GRPO, **kwargs):
    return build_batch(random_groups(np.random.default_rng(seed), **kwargs), algorithm)


def weights(it):
    return torch.cat([p.detach().flatten().double() for p in it.model.parameters()])


def gradient(algorithm, batch, **config):
    """The gradient that one update would apply."""
    it = learner(algorithm, max_grad_norm=0.0, **config)
    seen = []
    it.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([m.grad.flatten().double() for m in it.masters]))
    )
    it.step(batch)
    (found,) = seen
    return found


CUTS = [
    {"micro_batch_tokens": 1},
    {"micro_batch_tokens": 120},
    {"micro_batch_tokens": 300, "min_shared": 3},
    {"share_prefix": False},
    {"share_prefix": False, "micro_batch_tokens": 70},
    {"skip_zero_advantage": False},
    {"activation_checkpointing": True},
    {"entropy": False},
]


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo"])
def test_the_gradient_does_not_depend_on_how_the_batch_is_cut(name):
    algorithm = get_algorithm(name)
    batch = batch_of(algorithm=algorithm)
    whole = gradient(algorithm, batch)
    assert whole.norm() > 1e-3
    for cut in CUTS:
        other = gradient(algorithm, batch, **cut)
        assert (other - whole).abs().max() < 1e-11 * max(1.0, float(whole.abs().max())), cut


def test_the_gradient_is_that_of_the_plain_loss():
    """Against padded transformers, log_softmax and the formulae written out."""
    algorithm = get_algorithm("dapo")
    batch = batch_of(algorithm=algorithm)
    model = tiny_model().eval()
    total = torch.zeros((), dtype=torch.float64)
    for start, length in zip(batch.starts, batch.lengths, strict=True):
        rows = slice(start + 1, start + length)
        ids = torch.as_tensor(batch.token_ids[start : start + length])[None]
        logs = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
        ratio = torch.exp(logs - torch.as_tensor(batch.sampler_logprobs[rows]))
        a = torch.as_tensor(batch.advantages[rows])
        loss = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a)
        total = total + loss[torch.as_tensor(batch.loss_mask[rows])].sum()
    total = total / batch.num_trained
    expected = torch.cat(
        [g.flatten() for g in torch.autograd.grad(total, list(model.parameters()))]
    )
    it = learner(algorithm, max_grad_norm=0.0)
    metrics = it.step(batch)
    assert metrics["train/loss"] == pytest.approx(total.item(), abs=1e-12)
    assert metrics["train/grad_norm"] == pytest.approx(expected.norm().item(), rel=1e-10)
    found = gradient(algorithm, batch)
    assert (found - expected).abs().max() < 1e-11


def test_activation_checkpointing_runs_layers_twice():
    def calls(**config):
        it, count = learner(**config), []
        it.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: count.append(1))
        it.step(batch_of())
        return len(count)

    assert calls(activation_checkpointing=True) == 2 * calls()


def test_an_invalid_member_changes_no_bit_of_the_update():
    groups = random_groups(np.random.default_rng(3))
    broken = trajectory([3, 4, 5, 6], [0, 0, 1, 1], None)
    mixed = [Group(TASK, (broken, *g.trajectories, broken)) for g in groups]
    one, two = learner(), learner()
    one.step(build_batch(groups, GRPO))
    two.step(build_batch(mixed, GRPO))
    assert torch.equal(weights(one), weights(two))


def test_two_runs_from_the_same_state_are_the_same_to_the_bit():
    def run():
        it = learner(dtype="float32", updates_per_batch=2, micro_batch_tokens=200)
        for seed in range(3):
            it.step(batch_of(seed))
        return weights(it)

    assert torch.equal(run(), run())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_state_continues_to_the_bit(dtype):
    it = learner(dtype=dtype, warmup_updates=4)
    it.step(batch_of(0))
    saved = _copy(it.state_dict())
    it.step(batch_of(1))
    other = learner(dtype=dtype, warmup_updates=4)
    other.load_state_dict(saved)
    assert other.version == 1
    other.step(batch_of(1))
    assert torch.equal(weights(it), weights(other))


def _copy(value):
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def test_states_of_other_models_are_refused():
    state = learner().state_dict()
    with pytest.raises(ValueError, match="another model"):
        learner(model=tiny_model("qwen2")).load_state_dict(state)
    with pytest.raises(ValueError, match="another dtype"):
        learner(dtype="bfloat16").load_state_dict(state)


def test_on_its_own_samples_the_learner_sees_no_mismatch():
    model = tiny_model(dtype=torch.float32)
    batch = batch_of()
    own = sampled_by(model.eval(), batch)
    groups, at = [], 0
    for group in random_groups(np.random.default_rng(0)):
        members = []
        for t in group.trajectories:
            n = len(t.token_ids)
            members.append(
                trajectory(t.token_ids, t.mask, t.reward, logprobs=own[at : at + n].tolist())
            )
            at += n
        groups.append(Group(TASK, tuple(members)))
    metrics = learner(model=model, dtype="float32").step(build_batch(groups, GRPO))
    assert metrics["train/mismatch_max"] < 1e-4
    assert metrics["train/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["train/clip_low"] == metrics["train/clip_high"] == 0.0
    assert abs(metrics["train/approx_kl_k3"]) < 1e-8
    assert 0 < metrics["train/entropy"] < np.log(61)


def test_updates_per_batch_and_recomputed_old_logprobs():
    batch = batch_of(groups=4)
    it = learner(updates_per_batch=2, old_logprobs="recompute")
    own = torch.as_tensor(sampled_by(it.model, batch))
    torch.testing.assert_close(it.logprobs(batch), own, rtol=0, atol=1e-10)
    metrics = it.step(batch)
    assert (it.updates, it.version, metrics["train/updates"]) == (2, 1, 2.0)
    # The first half is at ratio 1; the second has moved.
    assert metrics["train/ratio_max"] > 1.0
    single = learner(old_logprobs="recompute").step(batch)
    assert single["train/ratio_max"] == 1.0


def test_zero_advantage_sequences_are_not_forwarded_but_still_count():
    groups = random_groups(np.random.default_rng(0))
    flat = [
        Group(TASK, tuple(trajectory(t.token_ids, t.mask, 1.0) for t in groups[0].trajectories)),
        *groups[1:],
    ]
    batch = build_batch(flat, GRPO)
    lean, full = learner(), learner(skip_zero_advantage=False)
    a, b = lean.step(batch), full.step(batch)
    assert a["train/forwarded_tokens"] < b["train/forwarded_tokens"]
    assert a["train/loss"] == pytest.approx(b["train/loss"], abs=1e-12)
    torch.testing.assert_close(weights(lean), weights(full), rtol=0, atol=1e-11)
    assert a["train/groups_without_signal"] == 1


def test_a_batch_without_signal_is_still_an_update_and_an_empty_one_is_not():
    same = [trajectory([1, 2, 3 + i], [0, 0, 1], 1.0) for i in range(2)]
    for skip in (True, False):
        it = learner(skip_zero_advantage=skip)
        it.step(batch_of(0))
        before = weights(it)
        it.step(build_batch([Group(TASK, tuple(same))], GRPO))
        assert it.version == 2 and not torch.equal(weights(it), before)  # Adam's momentum
    before = weights(it)
    none = [Group(TASK, (trajectory([1, 2], [0, 1], None),))]
    metrics = it.step(build_batch(none, GRPO))
    assert metrics["train/skipped"] == 1.0 and it.version == 2
    assert torch.equal(weights(it), before)


def test_the_kl_term_pulls_towards_the_reference():
    algorithm = get_algorithm("grpo", kl=0.5)
    same = [trajectory([1, 2, 3 + i], [0, 0, 1], 1.0) for i in range(4)]
    batch = build_batch([Group(TASK, tuple(same))], algorithm)
    reference = tiny_model()
    with torch.no_grad():
        for p in reference.parameters():
            p.mul_(0.5)
    it = learner(algorithm, reference=reference)
    first = it.step(batch)["train/kl"]
    for _ in range(5):
        last = it.step(batch)["train/kl"]
    assert 0 < last < first
    with pytest.raises(ValueError, match="pass the reference model"):
        learner(algorithm)


def test_learning_raises_the_probability_of_what_was_rewarded():
    good, bad = trajectory([1, 2, 7], [0, 0, 1], 1.0), trajectory([1, 2, 8], [0, 0, 1], 0.0)
    batch = build_batch([Group(TASK, (good, bad))], GRPO)
    it = learner(lr=1e-2, old_logprobs="recompute")
    before = it.logprobs(batch)
    for _ in range(5):
        it.step(batch)
    change = (it.logprobs(batch) - before)[torch.as_tensor(batch.loss_mask)]
    assert change[0] > 0.1 and change[1] < -0.1


def test_warmup_and_gradient_clipping():
    it = learner(warmup_updates=4, max_grad_norm=1e-3)
    rates = [it.step(batch_of(s))["train/lr"] for s in range(5)]
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])
    # Adam's first step is the rate times a sign, so a quarter of the rate moves a quarter.
    start, slow, fast = learner(), learner(warmup_updates=4), learner()
    for it in (slow, fast):
        it.step(batch_of())
    moved = (weights(slow) - weights(start)) / (weights(fast) - weights(start))
    assert moved.nanmedian().item() == pytest.approx(0.25, rel=1e-3)


def test_dropout_is_off_even_where_layers_need_training_mode():
    def model():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=61, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.5, attn_pdrop=0.5
        )
        return GPT2LMHeadModel(config)

    plain = learner(model=model()).step(batch_of())["train/grad_norm"]
    again = learner(model=model(), activation_checkpointing=True).step(batch_of())
    assert again["train/grad_norm"] == pytest.approx(plain, rel=1e-6)


def test_bfloat16_keeps_small_updates_in_the_masters():
    it = learner(dtype="bfloat16")
    for seed in range(3):
        it.step(batch_of(seed))
    assert {p.dtype for p in it.weights} == {torch.bfloat16}
    assert all(m.dtype == torch.float32 for m in it.masters)
    pairs = list(zip(it.masters, it.weights, strict=True))
    assert any(not torch.equal(m, w.float()) for m, w in pairs)
    assert all(torch.equal(m.bfloat16(), w) for m, w in pairs)
    assert not torch.equal(weights(it), weights(learner(dtype="bfloat16")))


@pytest.mark.parametrize(("dtype", "close"), [("bfloat16", 0.98), ("autocast", 0.98)])
def test_low_precision_gradients_point_the_same_way(dtype, close):
    batch = batch_of()
    exact, rough = gradient(GRPO, batch), gradient(GRPO, batch, dtype=dtype)
    assert torch.nn.functional.cosine_similarity(exact, rough, dim=0) > close


def test_publish_names_and_version():
    it = learner()
    version, tensors = it.publish()
    assert version == 0 and "lm_head.weight" not in tensors  # tied
    assert set(tensors) == {n for n, _ in it.model.named_parameters()}
    assert not any(t.requires_grad for t in tensors.values())
    it.step(batch_of())
    assert it.publish()[0] == 1


def test_check_refuses_what_it_cannot_score():
    it = learner(temperature=0.7)
    it.check(SamplingParams(temperature=0.7))
    with pytest.raises(ValueError, match=r"top_p=0\.9"):
        it.check(SamplingParams(temperature=0.7, top_p=0.9))
    with pytest.raises(ValueError, match=r"temperature 1\.0"):
        it.check(SamplingParams())


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change():
    model = tiny_model()
    it = learner(model=model)
    with torch.no_grad():
        model.model.norm.weight[0] = float("inf")
    before = weights(it)
    with pytest.raises(FloatingPointError, match="gradient norm"):
        it.step(batch_of())
    assert torch.equal(torch.nan_to_num(weights(it)), torch.nan_to_num(before))


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"micro_batch_tokens": 0}, {"max_grad_norm": -1}])
def test_config_refuses_nonsense(bad):
    with pytest.raises(ValueError, match="got"):
        LearnerConfig(**bad)
