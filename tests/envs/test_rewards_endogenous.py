"""The inverse soft Bellman operator: identities, tool output, and the collapse detector."""

import asyncio

import numpy as np
import pytest
from fakes import tiny_model, tiny_tokenizer

from palestra.envs.rewards.endogenous import (
    CollapseDetector,
    endogenous,
    endogenous_rewards,
    slope_t,
    soft_values,
)
from palestra.envs.types import Group, Invalid, Message, StopReason, Task, Trajectory, Turn

RNG = np.random.default_rng(0)


def log_softmax(logits, alpha):
    return (logits - soft_values(logits, alpha)[..., None]) / alpha


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("scale", [1.0, 50.0, 1000.0])
def test_telescoping_identity_and_both_forms(alpha, scale):
    logits = RNG.normal(0, scale, (40, 17))
    tokens = RNG.integers(0, 17, 40)
    chosen, values = logits[np.arange(40), tokens], soft_values(logits, alpha)
    log_pi = log_softmax(logits, alpha)[np.arange(40), tokens]
    for final in (0.0, 3.7):
        rewards = endogenous_rewards(chosen, values, final_value=final)
        after = np.append(values[1:], final)
        assert rewards == pytest.approx(alpha * log_pi + values - after, abs=1e-6)
        total = alpha * log_pi.sum() + values[0] - final
        assert rewards.sum() == pytest.approx(total, abs=1e-6, rel=1e-12)


def test_soft_values_are_maxima_in_the_limit_and_never_overflow():
    logits = np.array([[1.0, 3.0, 2.0], [1e4, -1e4, 0.0]])
    assert soft_values(logits, 1e-6) == pytest.approx([3.0, 1e4])
    assert np.isfinite(soft_values(logits * 1e300)).all()
    assert soft_values(np.zeros(8)) == pytest.approx(np.log(8))
    with pytest.raises(ValueError, match="alpha"):
        soft_values(logits, 0.0)


def test_a_constant_that_softmax_cannot_see_moves_the_tokens_rewards():
    """Shifting state k's logits by c adds c to token k and takes it from token k - 1."""
    logits, tokens = RNG.normal(size=(6, 5)), RNG.integers(0, 5, 6)
    shifts = RNG.normal(size=6)
    shifted = logits + shifts[:, None]
    assert log_softmax(shifted, 1.0) == pytest.approx(log_softmax(logits, 1.0))
    rows = np.arange(6)
    before = endogenous_rewards(logits[rows, tokens], soft_values(logits))
    after = endogenous_rewards(shifted[rows, tokens], soft_values(shifted))
    assert after - before == pytest.approx(shifts - np.append(shifts[1:], 0.0))
    assert after.sum() - before.sum() == pytest.approx(shifts[0])


def test_the_reward_is_the_inverse_of_soft_q_learning():
    """Plan on a small tree with known rewards, take its soft Q as logits: they come back."""
    depth, actions, alpha = 4, 3, 0.7
    truth = {
        prefix: RNG.normal(size=actions)
        for level in range(depth)
        for prefix in np.ndindex(*(actions,) * level)
    }

    def soft_q(prefix):
        after = [
            soft_values(soft_q((*prefix, a)), alpha) if len(prefix) + 1 < depth else 0.0
            for a in range(actions)
        ]
        return truth[prefix] + np.array(after)

    for path in list(np.ndindex(*(actions,) * depth))[::7]:
        logits = np.array([soft_q(path[:h]) for h in range(depth)])
        rewards = endogenous_rewards(logits[range(depth), path], soft_values(logits, alpha))
        assert rewards == pytest.approx([truth[path[:h]][path[h]] for h in range(depth)], abs=1e-9)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="one logit and one value per token"):
        endogenous_rewards([1.0], [1.0, 2.0])


def member(ids, mask, *, stop=StopReason.COMPLETED):
    valid = stop is not StopReason.ENV_ERROR
    return Trajectory(
        task_id="t",
        env_id="e",
        token_ids=tuple(ids),
        mask=tuple(mask),
        logprobs=(0.0,) * len(ids),
        prompt_length=list(mask).index(True) if True in mask else len(ids),
        turns=(Turn((), Message("assistant", "")),),
        stop_reason=stop,
        reward=0.0 if valid else None,
        failure=None if valid else Invalid("sandbox"),
    )


async def real_scores(ids):
    """Logits of a real (small, random) transformer in float64."""
    import torch

    with torch.inference_mode():
        logits = tiny_model().double()(torch.tensor([ids])).logits[0, :-1].numpy()
    return logits[np.arange(len(ids) - 1), list(ids[1:])], soft_values(logits)


TASK = Task("t", (Message("user", "q"),))


def test_the_sum_over_a_trajectory_is_its_likelihood_plus_the_first_value():
    import torch

    ids = tiny_tokenizer().encode("What is 12 + 30? Let me think. The answer is 42, I am sure.")
    n = len(ids)
    assert n > 20
    mask = [4 <= t < 9 or t >= 13 for t in range(n)]  # two turns around a tool's output
    total = endogenous(real_scores, per_token=False)
    mean = endogenous(real_scores)
    group = Group(TASK, (member(ids, mask), member(ids, mask, stop=StopReason.MAX_TOKENS)))
    whole, cut = asyncio.run(total(group))
    with torch.inference_mode():
        logits = tiny_model().double()(torch.tensor([ids])).logits[0, :-1]
    table = logits.log_softmax(-1)
    likelihood = sum(float(table[t - 1, ids[t]]) for t in range(n) if mask[t])
    first = float(logits[3].logsumexp(0))
    assert whole == pytest.approx(likelihood + first, abs=1e-6)
    assert asyncio.run(mean(group))[0] == pytest.approx(whole / sum(mask))
    assert whole - cut == pytest.approx(float(logits[n - 2].logsumexp(0)), abs=1e-6)


def test_members_without_tokens_without_validity_and_without_a_model():
    async def broken(ids):
        raise RuntimeError("gone")

    ids = [1, 2, 3]
    members = (
        member(ids, [False] * 3),
        member(ids, [False, False, True], stop=StopReason.ENV_ERROR),
        member(ids, [False, False, True]),
    )
    values = asyncio.run(endogenous(broken)(Group(TASK, members)))
    assert values == [0.0, None, Invalid("engine", "RuntimeError: gone")]


# The collapse detector.


def curve(seed, *, falls, steps=60, peak=30, noise=0.01):
    """Reward, held-out accuracy and entropy of a run; accuracy may fall after its peak."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps)
    reward = 1 - np.exp(-t / 25)
    risen = 0.4 + 0.3 * np.minimum(t, peak) / peak
    accuracy = risen - (
        0.015 * np.maximum(0, t - peak) if falls else -0.002 * np.maximum(0, t - peak)
    )
    entropy = np.maximum(0.05, 2.0 * np.exp(-t / (18 if falls else 200)))
    jitter = rng.normal(0, noise, (3, steps))
    return zip(reward + jitter[0] / 2, accuracy + jitter[1], entropy + jitter[2], strict=True)


@pytest.mark.parametrize("seed", range(8))
def test_it_warns_before_accuracy_has_fallen_and_names_the_collapse(seed):
    detector, seen = CollapseDetector(), []
    for reward, accuracy, entropy in curve(seed, falls=True):
        seen.append(detector.update(reward=reward, accuracy=accuracy, entropy=entropy))
    assert seen.index("warning") <= 30  # the peak
    assert 30 < seen.index("collapse") < 45


def test_a_healthy_run_raises_no_collapse_and_few_warnings():
    collapses = warnings = 0
    for seed in range(30):
        detector = CollapseDetector()
        for reward, accuracy, entropy in curve(seed, falls=False):
            health = detector.update(reward=reward, accuracy=accuracy, entropy=entropy)
            collapses += health == "collapse"
            warnings += health == "warning"
    assert collapses == 0
    assert warnings < 0.1 * 30 * 60


def test_its_state_is_plain_numbers():
    import json
    from dataclasses import asdict

    detector = CollapseDetector(window=3)
    assert detector.health == "fine"
    for value in range(3):
        detector.update(reward=value, accuracy=-value, entropy=1.0)
    assert detector.health == "collapse"
    again = CollapseDetector(**json.loads(json.dumps(asdict(detector))))
    assert again.health == "collapse"
    with pytest.raises(ValueError, match="finite"):
        detector.update(reward=float("nan"), accuracy=0.0, entropy=0.0)


def test_slopes():
    assert slope_t([1.0, 1.0, 1.0]) == 0.0
    assert slope_t([1.0, 2.0, 3.0]) == np.inf and slope_t([3.0, 2.0, 1.0]) == -np.inf
    y = np.array([0.0, 1.0, 1.0, 3.0])
    # by hand: slope 0.9, residuals -0.8+..., t = slope / sqrt(RSS / 2 / 5)
    x = np.arange(4) - 1.5
    rss = ((y - y.mean() - 0.9 * x) ** 2).sum()
    assert slope_t(y) == pytest.approx(0.9 / np.sqrt(rss / 2 / 5))
