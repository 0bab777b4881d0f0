"""From rewards to advantages: one number per member of a group.

Invalid members (reward None) are left out before anything is computed, so adding or
removing one changes no sibling's advantage by a single bit. All arithmetic is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..envs.rewards.length import soft_overlong
from ..envs.types import Group, Trajectory
from .algorithms import Algorithm

Floats = NDArray[np.float64]


def _mean_baseline(rewards: Floats) -> Floats:
    centred: Floats = rewards - rewards.mean()
    return centred


# rewards [n] of the valid members -> rewards minus their baseline [n].
BASELINES: dict[str, Callable[[Floats], Floats]] = {"mean": _mean_baseline}


def group_advantages(rewards: Sequence[float | None], algorithm: Algorithm) -> list[float]:
    """Advantages of the members of one group.

    A_i = R_i - mean(R), divided by (std(R) + eps) when `algorithm.scale_by_std` (GRPO,
    arXiv 2402.03300, section 4.1.2; without it Dr. GRPO, 2503.20783). Statistics are over
    valid members only.

    Args:
        rewards: one per member; None marks an invalid member.

    Returns:
        One advantage per member, in order; 0.0 for invalid members, and for everybody
        when fewer than two members are valid or all rewards are equal.

    Raises:
        ValueError: a reward is NaN or infinite.
    """
    if not has_signal(rewards):
        return [0.0] * len(rewards)
    valid = _valid(rewards)
    advantages = BASELINES[algorithm.baseline](valid)
    if algorithm.scale_by_std:
        advantages = advantages / (valid.std(ddof=algorithm.std_ddof) + algorithm.std_eps)
    values = iter(advantages.tolist())
    return [0.0 if r is None else next(values) for r in rewards]


def has_signal(rewards: Sequence[float | None]) -> bool:
    """Whether a group can teach anything: two valid members with different rewards.

    This is DAPO's dynamic-sampling rule (0 < correct < G, eq. 11), extended to graded
    rewards. Differences below 1e-9 of the largest reward are rounding, not signal.
    """
    valid = _valid(rewards)
    if len(valid) < 2:
        return False
    spread = float(valid.max() - valid.min())
    return spread > 1e-9 * max(1.0, float(np.abs(valid).max()))


def overlong_tokens(trajectory: Trajectory, algorithm: Algorithm) -> int:
    """The length that the punishment looks at.

    By default the tokens the model sampled: it cannot help how much a tool prints.
    `overlong_counts="response"` counts everything after the first prompt.
    """
    if algorithm.overlong_counts == "sampled":
        return trajectory.num_sampled
    return len(trajectory.token_ids) - trajectory.prompt_length


def shaped_rewards(group: Group, algorithm: Algorithm) -> list[float | None]:
    """Rewards of the members with the soft overlong punishment added; None stays None."""
    rewards = [t.reward for t in group.trajectories]
    if not algorithm.overlong_length:
        return rewards
    shaped: list[float | None] = []
    for trajectory, reward in zip(group.trajectories, rewards, strict=True):
        length = overlong_tokens(trajectory, algorithm)
        penalty = soft_overlong(length, algorithm.overlong_length, algorithm.overlong_cache)
        shaped.append(None if reward is None else reward + penalty)
    return shaped


def _valid(rewards: Sequence[float | None]) -> Floats:
    valid = [float(r) for r in rewards if r is not None]
    for reward in valid:
        if not math.isfinite(reward):
            raise ValueError(
                f"rewards must be finite, got {reward} in {list(rewards)}: a verifier that "
                f"cannot score an episode must return Invalid (reward None) instead"
            )
    return np.asarray(valid, dtype=np.float64)
