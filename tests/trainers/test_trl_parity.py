"""Our advantages, losses and gradients against what TRL's GRPOTrainer computed.

The reference is made by `scripts/make_trl_reference`, which drives TRL's own methods. Each
case is also computed a third time here, in float64 numpy written from the papers.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from episodes import TASK, trajectory
from transformers import Qwen3Config, Qwen3ForCausalLM

from palestra.envs.types import Group
from palestra.trainers.advantages import group_advantages, shaped_rewards
from palestra.trainers.algorithms import get_algorithm
from palestra.trainers.batching import build_batch, token_weights
from palestra.trainers.config import LearnerConfig
from palestra.trainers.learner import Learner
from palestra.trainers.losses import policy_loss

REFERENCE = json.loads((Path(__file__).parent / "data/trl_reference.json").read_text())
CASES = REFERENCE["cases"]
GROUP = 4
ATOL = 1e-5


def algorithm_of(name, case):
    """Our row of the same name, with TRL's constants where they are not the papers'."""
    overrides = {"std_eps": 1e-4, "kl": case.get("beta", 0.0)}
    overrides["kl_correction"] = case["config"].get("use_bias_correction_kl", False)
    if "dr_grpo" in name:
        overrides["constant_length"] = case["config"]["max_completion_length"]
    length, cache = case.get("overlong", (0, 0))
    # TRL's punishment sees all completion ids, tool output included.
    overrides |= {"overlong_length": length, "overlong_cache": cache}
    overrides["overlong_counts"] = "response"
    base = "dr_grpo" if name.startswith("dr_") else name.split("_")[0]
    return get_algorithm(base, **overrides)


def groups_of(case, key="old_logprobs"):
    old = case.get("old_logprobs") or [e[key] for e in case["episodes"]]
    members = []
    for episode, logprobs in zip(case["episodes"], old, strict=True):
        prompt = episode["prompt_ids"]
        members.append(
            trajectory(
                prompt + episode["completion_ids"],
                [0] * len(prompt) + episode["env_mask"],
                episode["reward"],
                logprobs=[0.0] * len(prompt) + logprobs,
            )
        )
    return [Group(TASK, tuple(members[i : i + GROUP])) for i in range(0, len(members), GROUP)]


def on_batch(case, batch, key):
    """[T] values of an episode field laid out as in the batch (valid episodes only)."""
    rows = [
        [0.0] * len(e["prompt_ids"]) + e[key] for e in case["episodes"] if e["reward"] is not None
    ]
    values = np.concatenate(rows)
    assert len(values) == batch.num_tokens
    return values


@pytest.mark.parametrize("name", CASES)
def test_advantages(name):
    case = CASES[name]
    algorithm = algorithm_of(name, case)
    ours = [
        a
        for g in groups_of(case)
        for a in group_advantages(shaped_rewards(g, algorithm), algorithm)
    ]
    assert ours == pytest.approx(case["advantages"], abs=ATOL)


@pytest.mark.parametrize("name", [n for n in CASES if not CASES[n].get("model")])
def test_loss_gradient_and_clip_fractions(name):
    case = CASES[name]
    algorithm = algorithm_of(name, case)
    batch = build_batch(groups_of(case), algorithm)
    mask = batch.loss_mask
    leaf = torch.tensor(on_batch(case, batch, "logprobs"), requires_grad=True)

    def take(values):
        return torch.as_tensor(values[mask])

    loss, metrics = policy_loss(
        leaf[torch.as_tensor(mask)],
        take(batch.sampler_logprobs),
        take(batch.advantages),
        take(token_weights(batch, algorithm)),
        algorithm,
        sequence=take(batch.sequence_ids),
        reference=take(on_batch(case, batch, "ref_logprobs")) if algorithm.kl else None,
    )
    loss.backward()
    # TRL keeps unscorable episodes in its denominators; here they are not there at all.
    share = batch.num_sequences / len(case["episodes"])
    assert loss.item() * share == pytest.approx(case["loss"], abs=ATOL)
    rows = [
        [0.0] * len(e["prompt_ids"]) + g
        for e, g in zip(case["episodes"], case["grad"], strict=True)
        if e["reward"] is not None
    ]
    np.testing.assert_allclose(leaf.grad.numpy() * share, np.concatenate(rows), atol=ATOL)
    if share == 1:
        found = metrics.finish()
        assert found["clip_low"] == pytest.approx(case["clip_low"], abs=ATOL)
        assert found["clip_high"] == pytest.approx(case["clip_high"], abs=ATOL)
        assert 0 < found["clip_low"] + found["clip_high"] < 1


def numpy_loss(case, kind, low, high, beta, constant):
    """The objective, episode by episode in float64, from the papers alone."""
    episodes, total, tokens = case["episodes"], 0.0, 0
    for i, e in enumerate(episodes):
        family = [x["reward"] for x in episodes[i // GROUP * GROUP :][:GROUP]]
        if "overlong" in case:
            full, cache = case["overlong"]
            lengths = [len(x["env_mask"]) for x in episodes[i // GROUP * GROUP :][:GROUP]]
            family = [
                r - np.clip((n - full + cache) / cache, 0, 1)
                for r, n in zip(family, lengths, strict=True)
            ]
        a = family[i % GROUP] - np.mean(family)
        if kind != "dr_grpo":
            a /= np.std(family, ddof=1) + 1e-4
        m = np.array(e["env_mask"], dtype=np.float64)
        lp, old, ref = (np.array(e[k]) for k in ("logprobs", "old_logprobs", "ref_logprobs"))
        r = np.exp(lp - old)
        term = -np.minimum(r * a, np.clip(r, 1 - low, 1 + high) * a)
        kl = np.exp(ref - lp) - (ref - lp) - 1
        term += beta * kl * (r if case["config"].get("use_bias_correction_kl") else 1.0)
        tokens += m.sum()
        total += (term * m).sum() / (m.sum() if kind == "grpo" else 1.0)
    return (
        total / {"grpo": len(episodes), "dapo": tokens, "dr_grpo": len(episodes) * constant}[kind]
    )


@pytest.mark.parametrize(
    ("name", "kind", "high", "beta"),
    [
        ("grpo", "grpo", 0.2, 0.0),
        ("grpo_kl", "grpo", 0.2, 0.04),
        ("grpo_kl_corrected", "grpo", 0.2, 0.04),
        ("dr_grpo", "dr_grpo", 0.2, 0.0),
        ("dapo", "dapo", 0.28, 0.0),
        ("dapo_overlong", "dapo", 0.28, 0.0),
    ],
)
def test_trl_and_numpy_agree(name, kind, high, beta):
    """Three ways of computing one number: TRL's is here held against the papers' formula."""
    expected = numpy_loss(CASES[name], kind, 0.2, high, beta, 16)
    assert CASES[name]["loss"] == pytest.approx(expected, abs=ATOL)


def formula_model():
    """The model of `scripts/make_trl_reference`."""
    config = Qwen3Config(**REFERENCE["model"], bos_token_id=None, eos_token_id=1, pad_token_id=0)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for i, (_, p) in enumerate(sorted(model.named_parameters())):
            wave = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 0.7 + i)
            p.copy_((1 + 0.1 * wave if p.dim() == 1 else 0.3 * wave).reshape(p.shape))
    return model


@pytest.mark.parametrize("name", [n for n in CASES if CASES[n].get("model")])
def test_whole_update_through_a_model(name):
    """Padded batches and fused head there, packing and tiles here: the same gradients."""
    case = CASES[name]
    algorithm = algorithm_of(name, case)
    batch = build_batch(groups_of(case), algorithm)
    config = LearnerConfig(device="cpu", max_grad_norm=0.0, min_shared=2)
    it = Learner(formula_model(), config, algorithm)
    assert it.packed
    theirs = np.concatenate(
        [
            [0.0] * len(e["prompt_ids"]) + row
            for e, row in zip(case["episodes"], case["logprobs"], strict=True)
        ]
    )
    mask = batch.loss_mask
    np.testing.assert_allclose(it.logprobs(batch).numpy()[mask], theirs[mask], atol=ATOL)
    grads = {}
    it.optimizer.register_step_pre_hook(
        lambda *_: grads.update({n: p.grad.clone() for n, p in it.model.named_parameters()})
    )
    metrics = it.step(batch)
    assert metrics["train/loss"] == pytest.approx(case["loss"], abs=ATOL)
    assert metrics["train/clip_low"] == pytest.approx(case["clip_low"], abs=ATOL)
    assert metrics["train/clip_high"] == pytest.approx(case["clip_high"], abs=ATOL)
    assert grads.keys() == case["grad_norms"].keys()
    for n, norm in case["grad_norms"].items():
        assert grads[n].norm().item() == pytest.approx(norm, rel=1e-4, abs=ATOL)
    np.testing.assert_allclose(
        grads["model.norm.weight"].numpy(), case["final_norm_grad"], atol=ATOL
    )
