"""Intervals that an evaluation can stand behind. Only numpy and the standard library.

Several samples of one task are not independent, so the task is the unit: a mean is the mean
of the task means, and its interval comes from their spread. With the same number of samples
for each task this is the clustered standard error of Miller, "Adding Error Bars to Evals"
(arXiv 2411.00640), section 2.2, with Student's t in place of the normal quantile.

An interval that the data cannot support is NaN, never of zero width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `count` tasks with its interval (NaN where there is nothing to go by)."""

    value: float
    low: float = math.nan
    high: float = math.nan
    count: int = 0

    def to_dict(self) -> dict[str, Any]:
        return _without_nan(asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Estimate:
        value, low, high = (
            math.nan if data[k] is None else float(data[k]) for k in ("value", "low", "high")
        )
        return cls(value, low, high, data["count"])


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Second minus first, over the tasks that both have.

    `p_value` is two-sided, of Student's paired t test on the task means.
    `left_out` counts tasks that only one of the two has a value for.
    """

    value: float
    low: float
    high: float
    p_value: float
    count: int
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        return _without_nan(asdict(self))


def mean_interval(
    by_task: Sequence[Sequence[float]],
    level: float = 0.95,
    *,
    proportion: bool = False,
    least: float = -math.inf,
) -> Estimate:
    """Mean of the task means with an interval at `level`, clustered by task.

    Args:
        by_task: the values of each task's samples; tasks without any are left out.
        proportion: the values lie in [0, 1], and so must the interval. It is then Wilson's,
            with the task as the unit, where each task has one value of 0 or 1, and where all
            tasks are at 0 or all at 1 (there Student's interval would have no width).
        least: no value can be below it (0 for a count), and so neither is the interval.

    Raises:
        ValueError: a value of a proportion is outside [0, 1].
    """
    means = np.array([float(np.mean(values)) for values in by_task if len(values)])
    if not len(means):
        return Estimate(math.nan)
    low, high = float(means.min()), float(means.max())
    if proportion:
        if low < 0 or high > 1:
            raise ValueError(f"a proportion has values in [0, 1], got means {low:g} to {high:g}")
        single = all(len(values) <= 1 for values in by_task) and np.isin(means, (0, 1)).all()
        if single or low == 1 or high == 0:
            return wilson(int(means.sum()), len(means), level)
    mean = float(means.mean())
    if low == high:  # one task, or tasks without spread: no interval can be given
        return Estimate(mean, count=len(means))
    low, high = _t_interval(means, level)
    if proportion:
        low, high = max(low, 0.0), min(high, 1.0)
    return Estimate(mean, max(low, least), high, len(means))


def wilson(successes: int, count: int, level: float = 0.95) -> Estimate:
    """Wilson's score interval of a proportion of independent trials (Wilson 1927).

    Raises:
        ValueError: `successes` is not in 0..count.
    """
    if not 0 <= successes <= count:
        raise ValueError(f"successes must be in 0..{count}, got {successes}")
    if not count:
        return Estimate(math.nan)
    z = NormalDist().inv_cdf(0.5 + _check_level(level) / 2)
    share, z2 = successes / count, z * z
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    low = 0.0 if successes == 0 else centre - half  # exact ends, free of rounding
    high = 1.0 if successes == count else centre + half
    return Estimate(share, low, high, count)


def mean_of_means(estimates: Sequence[Estimate]) -> Estimate:
    """The unweighted mean of independent means, each of which comes with its interval.

    The distances to the interval's ends add up like standard errors, each side on its own:
    with m the mean of K means m_i in [l_i, u_i], the interval runs from
    m - sqrt(sum (m_i - l_i)^2) / K to m + sqrt(sum (u_i - m_i)^2) / K. This is MOVER (Zou and
    Donner, Statistics in Medicine 27, 2008, and Zou, Huang and Zhang, CSDA 53, 2009, for
    proportions), which lets a mean of zeros keep the width that Wilson gives it. The means
    stand for themselves only: nothing is said about others that might have been chosen.

    `count` is the number of means. The value is NaN if one of the means is, the interval if
    one of the intervals is.
    """
    if not estimates:
        return Estimate(math.nan)
    k = len(estimates)
    value = sum(e.value for e in estimates) / k
    below = math.sqrt(sum((e.value - e.low) ** 2 for e in estimates)) / k
    above = math.sqrt(sum((e.high - e.value) ** 2 for e in estimates)) / k
    return Estimate(value, value - below, value + above, k)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased chance that at least one of k samples is correct: 1 - C(n-c, k) / C(n, k).

    From n = `samples` of which c = `correct` (Chen et al., arXiv 2107.03374, equation 1),
    as a product that neither overflows nor cancels.

    Raises:
        ValueError: unless 1 <= k <= samples and 0 <= correct <= samples.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@k needs 1 <= k <= samples, got k={k} with {samples} samples")
    if not 0 <= correct <= samples:
        raise ValueError(f"correct must be in 0..{samples}, got {correct}")
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1 - k / i for i in range(samples - correct + 1, samples + 1))


def pass_at_k_interval(by_task: Sequence[Sequence[bool]], k: int, level: float = 0.95) -> Estimate:
    """Mean of `pass_at_k` over the tasks that have k samples or more, with its interval."""
    values = [[pass_at_k(len(task), sum(task), k)] for task in by_task if len(task) >= k]
    return mean_interval(values, level, proportion=True)


def paired_difference(
    first: Mapping[str, Sequence[float]],
    second: Mapping[str, Sequence[float]],
    level: float = 0.95,
) -> PairedDifference:
    """How much better `second` is than `first` on the same tasks, with an interval.

    Args:
        first, second: task id to the values of its samples (the numbers may differ).

    Raises:
        ValueError: no task has a value in both.
    """
    shared = sorted(t for t in first.keys() & second.keys() if len(first[t]) and len(second[t]))
    left_out = len({t for side in (first, second) for t, v in side.items() if len(v)}) - len(shared)
    if not shared:
        raise ValueError(
            f"the two results share no task ({len(first)} and {len(second)} tasks): "
            f"a paired difference needs results on the same task set"
        )
    steps = np.array([np.mean(second[t]) - np.mean(first[t]) for t in shared])
    mean, count = float(steps.mean()), len(steps)
    if np.ptp(steps) < 1e-12:  # every task moved alike: only the sign test has something to say
        p_value = 1.0 if abs(mean) < 1e-12 else 2.0 ** (1 - count)
        return PairedDifference(mean, math.nan, math.nan, p_value, count, left_out)
    low, high = _t_interval(steps, level)
    t = mean / (float(steps.std(ddof=1)) / math.sqrt(count))
    p_value = min(1.0, 2 * student_t_cdf(-abs(t), count - 1))
    return PairedDifference(mean, low, high, p_value, count, left_out)


def student_t_cdf(t: float, df: float) -> float:
    """P(T <= t) for Student's t with `df` > 0 degrees of freedom."""
    if df <= 0:
        raise ValueError(f"Student's t needs df > 0, got {df}")
    tail = 0.5 * incomplete_beta(df / 2, 0.5, df / (df + t * t))
    return tail if t < 0 else 1 - tail


def student_t_quantile(p: float, df: float) -> float:
    """The t with P(T <= t) = p, by bisection on the tail (to about 12 digits)."""
    if not 0 < p < 1:
        raise ValueError(f"a quantile needs 0 < p < 1, got {p}")
    if p < 0.5:
        return -student_t_quantile(1 - p, df)
    if p == 0.5:
        return 0.0
    tail, low, high = 1 - p, 0.0, 1.0
    while student_t_cdf(-high, df) > tail:
        low, high = high, 2 * high
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if student_t_cdf(-middle, df) > tail else (low, middle)
    return (low + high) / 2


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction.

    Modified Lentz evaluation (Numerical Recipes, third edition, section 6.4; DLMF 8.17.22).
    """
    if not 0 <= x <= 1:
        raise ValueError(f"the incomplete beta function needs 0 <= x <= 1, got {x}")
    if x in (0, 1):
        return float(x)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast only below the mean
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _beta_fraction(a, b, x) / a


def _beta_fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d, tiny)
            c = _away_from_zero(1 + term / c, tiny)
            result *= d * c
        if abs(d * c - 1) < 1e-15:
            return result
    raise ArithmeticError(f"the incomplete beta fraction did not converge: a={a}, b={b}, x={x}")


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny


def _without_nan(numbers: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: null stands for what is not known."""
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}


def _t_interval(values: np.ndarray[Any, np.dtype[np.float64]], level: float) -> tuple[float, float]:
    t = student_t_quantile(0.5 + _check_level(level) / 2, len(values) - 1)
    mean, half = float(values.mean()), t * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half


def _check_level(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"an interval's level must be in (0, 1), such as 0.95, got {level}")
    return level
