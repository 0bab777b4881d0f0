"""The losses against an independent float64 reference and a closed-form gradient."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.trainers.algorithms import get_algorithm
from palestra.trainers.losses import Metrics, mismatch_metrics, policy_loss

seeds = st.integers(0, 2**32 - 1)


def make(seed, m=12):
    rng = np.random.default_rng(seed)
    arrays = {
        "logprobs": -rng.random(m) * 3,
        "old": -rng.random(m) * 3,
        "advantages": rng.normal(size=m),
        "weights": rng.random(m),
        "reference": -rng.random(m) * 3,
    }
    return {k: torch.tensor(v) for k, v in arrays.items()}


def run(x, algorithm, logprobs=None):
    return policy_loss(
        x["logprobs"] if logprobs is None else logprobs,
        x["old"],
        x["advantages"],
        x["weights"],
        algorithm,
        sequence=torch.zeros(len(x["old"]), dtype=torch.int64),
        reference=x["reference"],
    )


def reference_loss(x, low, high, kl):
    """Token by token, in plain Python."""
    total = 0.0
    for lp, old, a, w, ref in zip(*(x[k].tolist() for k in x), strict=True):
        r = math.exp(lp - old)
        surrogate = min(r * a, min(max(r, 1 - low), 1 + high) * a)
        total += w * (-surrogate + kl * (math.exp(ref - lp) - (ref - lp) - 1))
    return total


@settings(deadline=None)
@given(seeds)
def test_matches_the_float64_reference(seed):
    x = make(seed)
    for name, kl in (("grpo", 0.0), ("dapo", 0.0), ("grpo", 0.04)):
        algorithm = get_algorithm(name, kl=kl)
        loss, _ = run(x, algorithm)
        expected = reference_loss(x, algorithm.clip_low, algorithm.clip_high, kl)
        assert loss.item() == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(seeds)
def test_gradient_matches_finite_differences(seed):
    x = make(seed)
    algorithm = get_algorithm("dapo", kl=0.1)
    # Keep away from the two corners, where no derivative exists.
    ratio = (x["logprobs"] - x["old"]).exp()
    near = ((ratio - 0.8).abs() < 1e-3) | ((ratio - 1.28).abs() < 1e-3)
    x["weights"] = torch.where(near, 0.0, x["weights"])
    logprobs = x["logprobs"].clone().requires_grad_()
    (grad,) = torch.autograd.grad(run(x, algorithm, logprobs)[0], logprobs)
    step = 1e-6
    for t in range(len(grad)):
        shift = torch.zeros_like(grad)
        shift[t] = step
        up = run(x, algorithm, x["logprobs"] + shift)[0]
        down = run(x, algorithm, x["logprobs"] - shift)[0]
        assert grad[t].item() == pytest.approx(((up - down) / (2 * step)).item(), abs=1e-6)


def test_closed_form_gradient_of_a_three_token_policy():
    # L = -A r with r = p_k / old: dL/d logit_j = -A r (1[j = k] - p_j).
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    p = torch.softmax(logits, 0)
    k, advantage = 1, torch.tensor([0.7], dtype=torch.float64)
    old = p[k].detach().log()[None] + 0.05
    loss, _ = policy_loss(
        p.log()[k][None],
        old,
        advantage,
        torch.ones(1, dtype=torch.float64),
        get_algorithm("grpo"),
        sequence=torch.zeros(1, dtype=torch.int64),
    )
    (grad,) = torch.autograd.grad(loss, logits)
    ratio = math.exp(-0.05)
    expected = -0.7 * ratio * (torch.eye(3, dtype=torch.float64)[k] - p.detach())
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [
        (1.25, 1.0, True),  # inside DAPO's higher bound, outside GRPO's
        (1.30, 1.0, False),
        (1.30, -1.0, True),  # moving back is never clipped
        (0.79, -1.0, False),
        (0.79, 1.0, True),
    ],
)
def test_which_tokens_lose_their_gradient(ratio, advantage, moves):
    logprobs = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    loss, metrics = policy_loss(
        logprobs,
        zero,
        one * advantage,
        one,
        get_algorithm("dapo"),
        sequence=torch.zeros(1, dtype=torch.int64),
    )
    (grad,) = torch.autograd.grad(loss, logprobs)
    assert (grad.item() != 0) == moves
    found = metrics.finish()
    assert found["clip_low"] + found["clip_high"] == float(not moves)


def test_the_loss_is_a_sum():
    x = make(5)
    algorithm = get_algorithm("dapo", kl=0.1)
    parts = [run({k: v[i : i + 5] for k, v in x.items()}, algorithm) for i in range(0, 12, 5)]
    whole, metrics = run(x, algorithm)
    assert sum(p[0] for p in parts).item() == pytest.approx(whole.item(), abs=1e-12)
    joined = Metrics()
    for part in parts:
        joined.update(part[1])
    assert joined.finish() == pytest.approx(metrics.finish())


def test_extreme_ratios_stay_finite():
    logprobs = torch.tensor([0.0, -800.0], dtype=torch.float32, requires_grad=True)
    old = torch.tensor([-800.0, 0.0])
    for sign in (1.0, -1.0):
        loss, _ = policy_loss(
            logprobs,
            old,
            torch.full((2,), sign),
            torch.ones(2),
            get_algorithm("grpo", kl=0.1),
            sequence=torch.zeros(2, dtype=torch.int64),
            reference=old,
        )
        (grad,) = torch.autograd.grad(loss, logprobs)
        assert torch.isfinite(loss) and torch.isfinite(grad).all()


def test_kl_without_a_reference_is_an_error():
    x = make(0)
    with pytest.raises(ValueError, match="give the learner a reference model"):
        policy_loss(
            x["logprobs"],
            x["old"],
            x["advantages"],
            x["weights"],
            get_algorithm("grpo", kl=0.04),
            sequence=torch.zeros(12, dtype=torch.int64),
        )


def test_mismatch_metrics_by_hand():
    found = mismatch_metrics(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0]))
    found.sums["tokens"] = torch.tensor(2.0)
    values = found.finish()
    assert values["mismatch"] == pytest.approx(0.75)
    assert values["mismatch_max"] == pytest.approx(1.0)
    assert values["approx_kl_k1"] == pytest.approx(0.25)
    k3 = (math.exp(0.5) - 1.5 + math.exp(-1.0)) / 2
    assert values["approx_kl_k3"] == pytest.approx(k3)


def test_no_tokens_at_all():
    assert Metrics().finish() == {"tokens": 0.0}
    empty = torch.zeros(0)
    loss, metrics = policy_loss(
        empty, empty, empty, empty, get_algorithm("grpo"), sequence=empty.long()
    )
    assert loss.item() == 0.0 and metrics.finish()["tokens"] == 0.0
