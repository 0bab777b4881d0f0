"""The endogenous reward: what a language model's logits already say about its tokens.

"Generalist Reward Models: Found Inside Large Language Models" (arXiv 2506.23235): next-token
training solves offline inverse RL with the logits as Q, so the inverse soft Bellman operator
gives the reward

    r(s_h, a_h) = Q(s_h, a_h) - V(s_{h+1}) = alpha log pi(a_h | s_h) + V(s_h) - V(s_{h+1})

with V(s) = alpha logsumexp(Q(s, .) / alpha), pi = softmax(Q / alpha), and V = 0 after the end.

What it is not: summed over a reply it telescopes to alpha log pi(y | x) + V(s_1), the
likelihood plus a potential of the prompt; there is no more in it than that at the level of
sequences. And softmax cannot see a constant added to all logits of a state, but V can: per-token
rewards hold only for the head the model was trained with, not for any that gives the same
probabilities. As an objective it sharpens what the policy believes: accuracy rises, then falls,
which is what `CollapseDetector` watches for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..types import Group, Invalid, Trajectory
from .group import GroupReward, Values

Floats = NDArray[np.float64]

# [T] ids -> Q(s_t, id_t) [T - 1] and V(s_t) [T - 1] for ids 1.., both from one model's logits.
LogitScores = Callable[[Sequence[int]], Awaitable[tuple[ArrayLike, ArrayLike]]]


def soft_values(logits: ArrayLike, alpha: float = 1.0) -> Floats:
    """V = alpha logsumexp(logits / alpha) over the last axis: [..., K] -> [...].

    Raises:
        ValueError: `alpha` is not positive.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    scaled = np.asarray(logits, dtype=np.float64) / alpha
    top = scaled.max(axis=-1, keepdims=True)
    values: Floats = alpha * (np.log(np.exp(scaled - top).sum(axis=-1)) + top[..., 0])
    return values


def endogenous_rewards(chosen: ArrayLike, values: ArrayLike, *, final_value: float = 0.0) -> Floats:
    """r_h = Q(s_h, a_h) - V(s_{h+1}): [H].

    Args:
        chosen: [H] the logit of each token that was chosen.
        values: [H] V of the state that it was chosen in (`soft_values`).
        final_value: V after the last token: 0 where the reply ended, the next state's V where
            it was cut off (else being cut off would be worth V).

    Raises:
        ValueError: the shapes differ.
    """
    q, v = np.asarray(chosen, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if q.shape != v.shape or q.ndim != 1:
        raise ValueError(f"need one logit and one value per token, got {q.shape} and {v.shape}")
    rewards: Floats = q - np.append(v[1:], final_value)
    return rewards


def endogenous(scores: LogitScores, *, per_token: bool = True) -> GroupReward:
    """A group reward: the mean (or sum) endogenous reward of each member's sampled tokens.

    Tool output is part of the states, not of the actions: what follows the last token of a
    turn is the state after the tool has answered. A member that was cut off bootstraps from
    its last known value. A model that fails is `Invalid("engine")`.
    """

    async def of(trajectory: Trajectory) -> float | Invalid | None:
        sampled = [t for t, mine in enumerate(trajectory.mask) if mine]
        if trajectory.reward is None or not sampled:
            return None if trajectory.reward is None else 0.0
        try:
            q, v = await scores(trajectory.token_ids)
        except Exception as error:  # noqa: BLE001 - the reward boundary: any model may be behind
            return Invalid("engine", f"{type(error).__name__}: {error}")
        at = np.array(sampled) - 1
        chosen, values = np.asarray(q)[at], np.asarray(v)[at]
        final = 0.0 if trajectory.outcome == "valid" else float(values[-1])
        rewards = endogenous_rewards(chosen, values, final_value=final)
        return float(rewards.mean() if per_token else rewards.sum())

    async def reward(group: Group) -> Values:
        return await asyncio.gather(*(of(t) for t in group.trajectories))

    return reward


Health = Literal["fine", "warning", "collapse"]


@dataclass(slots=True)
class CollapseDetector:
    """Watches a run on an intrinsic reward for the fall that follows the rise.

    Over the last `window` checks, by the t value of a least-squares slope:
    - collapse: the reward rises (t > `threshold`) while held-out accuracy falls (t < -threshold);
    - warning: the policy's entropy is under `entropy_floor` of what it was at first, or the
      reward rises while accuracy does not (t <= 0). It comes before the fall, not always with one.

    `history` is all its state: plain numbers, to be saved with a checkpoint.
    """

    window: int = 8
    threshold: float = 2.0
    entropy_floor: float = 0.3
    history: list[tuple[float, float, float]] = field(default_factory=list)

    def update(self, *, reward: float, accuracy: float, entropy: float) -> Health:
        """Take one check: mean reward, held-out accuracy and mean token entropy (nats).

        Raises:
            ValueError: one of them is not finite.
        """
        if not all(map(math.isfinite, (reward, accuracy, entropy))):
            raise ValueError(f"need finite numbers, got {reward}, {accuracy} and {entropy}")
        self.history.append((reward, accuracy, entropy))
        return self.health

    @property
    def health(self) -> Health:
        if not self.history:
            return "fine"
        low = self.history[-1][2] < self.entropy_floor * self.history[0][2]
        if len(self.history) < self.window:
            return "warning" if low else "fine"
        recent = np.array(self.history[-self.window :])
        rising = slope_t(recent[:, 0]) > self.threshold
        accuracy = slope_t(recent[:, 1])
        if rising and accuracy < -self.threshold:
            return "collapse"
        return "warning" if low or (rising and accuracy <= 0) else "fine"


def slope_t(values: ArrayLike) -> float:
    """The t value of the least-squares slope of equally spaced values; 0 where they are equal,
    infinite where they lie on a line. Needs three values."""
    y = np.asarray(values, dtype=np.float64)
    x = np.arange(len(y)) - (len(y) - 1) / 2
    slope = float(x @ y / (x @ x))
    residuals = y - y.mean() - slope * x
    error = math.sqrt(float(residuals @ residuals) / max(1, len(y) - 2) / float(x @ x))
    if abs(slope) <= 1e-12 * max(1.0, float(np.abs(y).max())):
        return 0.0
    return slope / error if error > 1e-12 * abs(slope) else math.copysign(math.inf, slope)
