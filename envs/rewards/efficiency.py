"""Tool efficiency: what a call costs, how many were needed, and what one more was worth.

A price or an optimum goes into the reward; the marginal value is measured and logged. Two
measurements: `marginal_values` compares the same tasks under different caps, the only one
that says what calls *cause*; `within_task_gains` and `within_task_slope` read it off ordinary
groups at no cost, at every step of training, but an agent that calls when it is lost will make
calls look useless there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..types import Group, Trajectory


def per_call_price(score: float, calls: int, *, price: float = 0.05, free_calls: int = 0) -> float:
    """score - price * max(0, calls - free_calls).

    The default price is the per-call penalty of 0.05 that is reported to cut calls by 61 to
    67% at an accuracy change of -1.1 to +0.9 points. Wrong answers are charged too, so giving
    up early is cheaper than failing with tools: keep the price times the cap well below 1.

    Raises:
        ValueError: `price` or `free_calls` is negative.
    """
    if price < 0 or free_calls < 0:
        raise ValueError(f"price and free_calls must not be negative, got {price}, {free_calls}")
    return score - price * max(0, calls - free_calls)


def optimal_calls(calls: int, optimum: int, *, smooth: float) -> float:
    """OTC-GRPO's tool reward (arXiv 2504.14870), in [0, 1] and 1 at the optimum.

    With m calls and an optimum of n, f(m, n) = 2nm / (m + n):
    1 where m = n = 0; cos(m pi / (2m + c)) where n = 0; sin(f(m, n) pi / (2n)) otherwise.

    Args:
        optimum: fewest calls among the answers known to be right.
        smooth: the constant c of the cosine, which is also OTC-PPO's reward when no optimum
            is known (`optimum=0`). The larger, the milder; the call cap is a usual choice.

    Raises:
        ValueError: a count is negative, or `smooth` is not positive.
    """
    if calls < 0 or optimum < 0 or smooth <= 0:
        raise ValueError(
            f"need calls >= 0, optimum >= 0 and smooth > 0, got {calls}, {optimum}, {smooth}"
        )
    if optimum == 0:
        return 1.0 if calls == 0 else math.cos(calls * math.pi / (2 * calls + smooth))
    harmonic = 2 * optimum * calls / (calls + optimum)
    return math.sin(harmonic * math.pi / (2 * optimum))


def otc_rewards(
    scores: Sequence[float],
    calls: Sequence[int],
    *,
    smooth: float,
    alpha: float = 1.0,
    correct_from: float = 1.0,
) -> list[float]:
    """OTC-GRPO over the answers to one problem: alpha * r_tool(m_i, n) * score_i.

    The product is made for scores from 0 up. A negative score is not scaled by r_tool, which
    would lower the penalty of a wrong answer with every further call.

    n is the fewest calls among the right answers; where none is right every product is that
    of a wrong answer, so n is taken as the fewest calls of all.

    Raises:
        ValueError: the sequences differ in length.
    """
    if len(scores) != len(calls):
        raise ValueError(f"need one call count per score, got {len(calls)} for {len(scores)}")
    right = [m for m, score in zip(calls, scores, strict=True) if score >= correct_from]
    optimum = min(right or calls, default=0)
    return [
        alpha * (optimal_calls(m, optimum, smooth=smooth) if score > 0 else 1.0) * score
        for m, score in zip(calls, scores, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class MarginalValue:
    """What a call was worth between two caps, over the same tasks.

    `value` is gain / extra_calls (score per call), `stderr` its standard error over tasks;
    both None where the higher cap brought no more calls.
    """

    low_cap: int
    high_cap: int
    gain: float
    extra_calls: float
    value: float | None
    stderr: float | None


def marginal_values(
    by_cap: Mapping[int, Mapping[str, tuple[float, float]]],
) -> list[MarginalValue]:
    """The marginal value of a call between each two neighbouring caps.

    The tasks are the clusters: value = sum(d score) / sum(d calls) over the tasks that both
    caps have, its standard error by the delta method for a ratio of means,
    sqrt(sum e_i^2 / (n (n - 1))) / mean(d calls) with e_i = d score_i - value * d calls_i.

    Args:
        by_cap: call cap -> task id -> (mean score, mean calls) of that task under the cap.

    Raises:
        ValueError: fewer than two caps, or two neighbours share no task.
    """
    caps = sorted(by_cap)
    if len(caps) < 2:
        raise ValueError(f"need the results of two caps or more, got {caps}")
    return [_between(low, by_cap[low], high, by_cap[high]) for low, high in pairwise(caps)]


def _between(
    low_cap: int,
    low: Mapping[str, tuple[float, float]],
    high_cap: int,
    high: Mapping[str, tuple[float, float]],
) -> MarginalValue:
    shared = sorted(low.keys() & high.keys())
    if not shared:
        raise ValueError(f"caps {low_cap} and {high_cap} have no task in common")
    gains = [high[task][0] - low[task][0] for task in shared]
    extras = [high[task][1] - low[task][1] for task in shared]
    n = len(shared)
    gain, extra = sum(gains) / n, sum(extras) / n
    if extra <= 0:
        return MarginalValue(low_cap, high_cap, gain, extra, None, None)
    value = gain / extra
    squares = sum((g - value * e) ** 2 for g, e in zip(gains, extras, strict=True))
    stderr = math.sqrt(squares / (n * (n - 1))) / extra if n > 1 else None
    return MarginalValue(low_cap, high_cap, gain, extra, value, stderr)


Score = Callable[[Trajectory], float | None]


def is_correct(trajectory: Trajectory) -> float | None:
    """1 or 0 as the verifier said, whatever price the reward includes; None where it did not."""
    return None if trajectory.correct is None else float(trajectory.correct)


def within_task_slope(groups: Sequence[Group], score: Score = is_correct) -> float | None:
    """Score per call by least squares with one intercept per task; None without variation.

    sum (c - mean c)(s - mean s) / sum (c - mean c)^2 with means over a group's valid members,
    so that hard tasks, which draw more calls, do not count against calls. An association.
    """
    products = squares = 0.0
    for pairs in map(_calls_and_scores(score), groups):
        if not pairs:
            continue
        calls = sum(c for c, _ in pairs) / len(pairs)
        mean = sum(s for _, s in pairs) / len(pairs)
        products += sum((c - calls) * (s - mean) for c, s in pairs)
        squares += sum((c - calls) ** 2 for c, _ in pairs)
    return products / squares if squares > 0 else None


def within_task_gains(groups: Sequence[Group], score: Score = is_correct) -> list[float]:
    """Mean score with a call minus mean score without one, of each group that has both.

    The siblings are compared on one task, so that it is not the tasks that differ; but who
    calls may be who is lost. An association, as `within_task_slope` is.
    """
    gains = []
    for pairs in map(_calls_and_scores(score), groups):
        used, unused = ([s for c, s in pairs if (c > 0) is called] for called in (True, False))
        if used and unused:
            gains.append(sum(used) / len(used) - sum(unused) / len(unused))
    return gains


def _calls_and_scores(score: Score) -> Callable[[Group], list[tuple[int, float]]]:
    """Of the valid members of a group that have a score."""

    def pairs(group: Group) -> list[tuple[int, float]]:
        scored = ((t.tools.calls, score(t)) for t in group.valid)
        return [(calls, value) for calls, value in scored if value is not None]

    return pairs
