"""Rewards of length, in tokens that the model sampled.

What a length counts is the caller's choice, and it matters: tool output must not be charged
to the model (`Trajectory.num_sampled` leaves it out, the number of all tokens does not).
"""

from __future__ import annotations

from collections.abc import Sequence


def soft_overlong(length: int, max_length: int, cache: int) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13), in [-1, 0].

    0 up to L_max - L_cache tokens, then ((L_max - L_cache) - |y|) / L_cache, and -1 beyond
    L_max. DAPO's lengths: L_max 20,480 and L_cache 4,096.

    Raises:
        ValueError: `cache` is not in 1..max_length.
    """
    if not 0 < cache <= max_length:
        raise ValueError(f"need 0 < cache <= max_length, got {cache} and {max_length}")
    free = max_length - cache
    return 0.0 if length <= free else max((free - length) / cache, -1.0)


def exact_length(score: float, length: int, target: int, *, price: float = 3e-4) -> float:
    """L1-Exact (arXiv 2503.04697, eq. 1): score - price * |n_target - n_y|."""
    return score - price * abs(target - length)


def max_length(
    score: float, length: int, budget: int, *, price: float = 3e-4, offset: float = 0.5
) -> float:
    """L1-Max (arXiv 2503.04697, eq. 2): score * clip(price * (n_budget - n_y) + offset, 0, 1).

    With the offset of 0.5 a right answer that is a little over budget still pays something.
    """
    return score * min(1.0, max(0.0, price * (budget - length) + offset))


def group_length(correct: Sequence[bool], lengths: Sequence[int]) -> list[float]:
    """Kimi k1.5's length reward over the answers to one problem (arXiv 2501.12599, 2.3.3).

    lambda_i = 0.5 - (len_i - min) / (max - min); a right answer gets lambda_i, a wrong one
    min(0, lambda_i); all 0 where every length is the same. To be added to the task's reward.

    Raises:
        ValueError: the sequences differ in length.
    """
    if len(correct) != len(lengths):
        raise ValueError(f"need one length per answer, got {len(lengths)} for {len(correct)}")
    if not lengths or min(lengths) == max(lengths):
        return [0.0] * len(lengths)
    low, high = min(lengths), max(lengths)
    ranks = [0.5 - (length - low) / (high - low) for length in lengths]
    return [rank if right else min(0.0, rank) for right, rank in zip(correct, ranks, strict=True)]
