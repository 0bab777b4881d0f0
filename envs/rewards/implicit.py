"""The implicit process reward of PRIME (arXiv 2502.01456), as a scoring interface.

A model trained on outcomes alone, as a reward model r = beta log(pi_phi / pi_ref) of whole
replies, gives a reward for each token without a single step label:

    r_t = beta log( pi_phi(y_t | y_<t) / pi_ref(y_t | y_<t) )

whose sum is the reply's reward. Training pi_phi (`outcome_loss` online, on the policy's own
rollouts) is the learner's affair; here are the scores, the loss's value, and the advantage.

A trap in the authors' code: the script sets a coefficient of 5 for the process rewards that its
RLOO path never reads, and the token scores passed on are the log-ratios without beta. Here
beta and the mix of both sources are explicit.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..types import Group, Invalid, Trajectory
from .group import GroupReward, Values
from .protocol import TokenLogprobs

Floats = NDArray[np.float64]
BETA = 0.05


def implicit_rewards(logprobs: ArrayLike, reference: ArrayLike, *, beta: float = BETA) -> Floats:
    """beta (log pi_phi - log pi_ref) of each token: [T], [T] -> [T].

    Raises:
        ValueError: the shapes differ.
    """
    phi, ref = np.asarray(logprobs, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if phi.shape != ref.shape:
        raise ValueError(f"need two log-probabilities per token, got {phi.shape} and {ref.shape}")
    rewards: Floats = beta * (phi - ref)
    return rewards


def outcome_loss(rewards: Sequence[ArrayLike], correct: Sequence[bool]) -> float:
    """Cross-entropy of sigmoid(sum_t r_t) with the outcome, mean over replies.

    Args:
        rewards: per reply its [T_i] implicit rewards, beta included.
    """
    terms = [
        np.logaddexp(0.0, -total if right else total)
        for total, right in zip((float(np.sum(r)) for r in rewards), correct, strict=True)
    ]
    return math.fsum(terms) / len(terms)


def prime_advantages(
    process: Sequence[ArrayLike],
    outcomes: Sequence[float],
    *,
    process_weight: float = 1.0,
    outcome_weight: float = 1.0,
) -> list[Floats]:
    """Advantages of the n replies to one problem, per token: n arrays [T_i].

    Each source has its own leave-one-out baseline: for outcomes r_i - mean_{j != i} r_j on
    the last token; for process rewards r_t - mean_{j != i} (mean token reward of reply j) at
    each token. Both are summed from t to the end (no discount) and added by weight. PRIME
    whitens the result over the batch, which changes the estimator: that is left to the learner.
    (The authors' code takes n / (n - 1) r_t instead of r_t and means over all replies, which
    adds (r_t - mean of its own reply) / (n - 1); for outcomes it is the same.)

    Raises:
        ValueError: fewer than two replies, another number of outcomes, or an empty reply.
    """
    rewards = [np.asarray(r, dtype=np.float64) for r in process]
    n = len(rewards)
    if n < 2 or len(outcomes) != n or not all(r.size for r in rewards):
        raise ValueError(
            f"need two replies with tokens and an outcome each, got {n} and {len(outcomes)}"
        )
    means = np.array([r.mean() for r in rewards])
    process_baselines = (means.sum() - means) / (n - 1)
    scores = np.asarray(outcomes, dtype=np.float64)
    outcome_baselines = (scores.sum() - scores) / (n - 1)
    advantages = []
    for i, r in enumerate(rewards):
        to_go = np.cumsum((r - process_baselines[i])[::-1])[::-1]
        own = scores[i] - outcome_baselines[i]
        advantages.append(process_weight * to_go + outcome_weight * own)
    return advantages


def implicit_reward(
    logprobs: TokenLogprobs, reference: TokenLogprobs, *, beta: float = BETA
) -> GroupReward:
    """A group reward: beta log(pi_phi(y | x) / pi_ref(y | x)) over each member's own tokens.

    What a tool wrote is conditioned on, not scored. A model that fails is `Invalid("engine")`.
    """

    async def of(trajectory: Trajectory) -> float | Invalid | None:
        if trajectory.reward is None:
            return None
        try:
            return float((await token_rewards(trajectory, logprobs, reference, beta=beta)).sum())
        except Exception as error:  # noqa: BLE001 - the reward boundary: any model may be behind
            return Invalid("engine", f"{type(error).__name__}: {error}")

    async def reward(group: Group) -> Values:
        return await asyncio.gather(*(of(t) for t in group.trajectories))

    return reward


async def token_rewards(
    trajectory: Trajectory,
    logprobs: TokenLogprobs,
    reference: TokenLogprobs,
    *,
    beta: float = BETA,
) -> Floats:
    """The implicit rewards of the tokens that a trajectory sampled: [sum(mask)]."""
    phi, ref = await asyncio.gather(logprobs(trajectory.token_ids), reference(trajectory.token_ids))
    at = np.flatnonzero(trajectory.mask) - 1
    return implicit_rewards(np.asarray(phi)[at], np.asarray(ref)[at], beta=beta)
