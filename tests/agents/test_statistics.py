"""Evaluation statistics against tables, closed forms, brute force and simulation."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from palestra.agents.evaluation.statistics import (
    Estimate,
    incomplete_beta,
    mean_interval,
    paired_difference,
    pass_at_k,
    pass_at_k_interval,
    student_t_cdf,
    student_t_quantile,
    wilson,
)

# Abramowitz and Stegun, table 26.10, and closed forms for one and two degrees of freedom.
T_TABLE = [
    (0.975, 1, 12.7062047361747),
    (0.975, 2, 4.30265272974946),
    (0.95, 3, 2.35336343480183),
    (0.995, 5, 4.03214298355523),
    (0.975, 10, 2.22813885198627),
    (0.9, 15, 1.34060560785046),
    (0.975, 30, 2.04227245630124),
    (0.975, 120, 1.97993040508242),
    (0.9995, 4, 8.61030158137928),
]


@pytest.mark.parametrize(("p", "df", "expected"), T_TABLE)
def test_student_t_quantile_matches_tables(p, df, expected):
    assert student_t_quantile(p, df) == pytest.approx(expected, rel=1e-10)
    assert student_t_quantile(1 - p, df) == pytest.approx(-expected, rel=1e-8)


@pytest.mark.parametrize("p", [0.5, 0.6, 0.9, 0.99, 0.9999, 1e-6])
def test_student_t_quantile_closed_forms_and_normal_limit(p):
    cauchy = math.tan(math.pi * (p - 0.5))
    two = (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    assert student_t_quantile(p, 1) == pytest.approx(cauchy, rel=1e-9, abs=1e-12)
    assert student_t_quantile(p, 2) == pytest.approx(two, rel=1e-9, abs=1e-12)
    assert student_t_quantile(p, 1e7) == pytest.approx(NormalDist().inv_cdf(p), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("df", [0.7, 1, 2.5, 9, 200, 5000])
def test_student_t_cdf_inverts_the_quantile(df):
    for p in (0.01, 0.3, 0.5, 0.8, 0.999):
        assert student_t_cdf(student_t_quantile(p, df), df) == pytest.approx(p, abs=1e-11)


@pytest.mark.parametrize("df", [3, 7.5, 60])
def test_student_t_cdf_equals_the_integral_of_its_density(df):
    x = np.linspace(-1.7, 0.9, 200_001)
    log_front = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    density = np.exp(log_front - (df + 1) / 2 * np.log1p(x * x / df))
    area = student_t_cdf(0.9, df) - student_t_cdf(-1.7, df)
    assert area == pytest.approx(np.trapezoid(density, x), abs=1e-10)


def test_incomplete_beta_closed_forms():
    for x in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert incomplete_beta(1, 1, x) == pytest.approx(x)
        assert incomplete_beta(3, 1, x) == pytest.approx(x**3)
        assert incomplete_beta(1, 4, x) == pytest.approx(1 - (1 - x) ** 4)
        binomial = sum(math.comb(6, j) * x**j * (1 - x) ** (6 - j) for j in range(3, 7))
        assert incomplete_beta(3, 4, x) == pytest.approx(binomial)


def test_bad_arguments_say_what_was_expected():
    with pytest.raises(ValueError, match="0 < p < 1, got 1"):
        student_t_quantile(1, 3)
    with pytest.raises(ValueError, match="df > 0, got 0"):
        student_t_cdf(0.0, 0)
    with pytest.raises(ValueError, match=r"in \(0, 1\), such as 0.95, got 95"):
        wilson(1, 2, level=95)
    with pytest.raises(ValueError, match=r"successes must be in 0\.\.2, got 3"):
        wilson(3, 2)
    with pytest.raises(ValueError, match="k=5 with 4 samples"):
        pass_at_k(4, 1, 5)
    with pytest.raises(ValueError, match=r"correct must be in 0\.\.4, got 5"):
        pass_at_k(4, 5, 1)


def test_wilson_solves_its_defining_equation():
    for successes, count in ((1, 10), (5, 10), (37, 50), (0, 7), (7, 7)):
        interval = wilson(successes, count)
        z = 1.959963984540054
        for bound in (interval.low, interval.high):
            if 0 < bound < 1:
                spread = z * math.sqrt(bound * (1 - bound) / count)
                assert abs(successes / count - bound) == pytest.approx(spread)
    assert wilson(0, 10).low == 0
    assert wilson(0, 10).high == pytest.approx(z * z / (10 + z * z))
    assert wilson(10, 10).high == 1


def test_wilson_coverage_is_near_its_level_by_exact_summation():
    count, covered = 40, []
    for p in np.linspace(0.05, 0.95, 19):
        hits = 0.0
        for s in range(count + 1):
            interval = wilson(s, count)
            if interval.low <= p <= interval.high:
                hits += math.comb(count, s) * p**s * (1 - p) ** (count - s)
        covered.append(hits)
    assert 0.94 < np.mean(covered) < 0.965
    assert min(covered) > 0.90


@pytest.mark.parametrize(("n", "c"), [(5, 0), (5, 1), (6, 3), (7, 6), (4, 4)])
def test_pass_at_k_equals_brute_force_over_subsets(n, c):
    outcomes = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(outcomes, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_is_unbiased_and_stable_for_many_samples():
    p, n, k = 0.2, 8, 3
    expected = sum(
        math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1)
    )
    assert expected == pytest.approx(1 - (1 - p) ** k)
    assert pass_at_k(10_000, 27, 1) == pytest.approx(0.0027)
    exact = 1 - math.comb(9_973, 1000) / math.comb(10_000, 1000)
    assert pass_at_k(10_000, 27, 1000) == pytest.approx(exact)


def test_pass_at_k_interval_leaves_out_tasks_with_too_few_samples():
    estimate = pass_at_k_interval([[True, False], [False, False], [True]], 2)
    assert estimate.count == 2
    assert estimate.value == 0.5


def test_mean_interval_by_hand():
    estimate = mean_interval([[1.0, 2.0], [2.0], [6.0, 0.0, 0.0]])
    means = [1.5, 2.0, 2.0]
    half = 4.30265272974946 * np.std(means, ddof=1) / math.sqrt(3)
    assert estimate.value == pytest.approx(np.mean(means))
    assert estimate.low == pytest.approx(np.mean(means) - half)
    assert estimate.high == pytest.approx(np.mean(means) + half)
    assert estimate.count == 3


def test_mean_interval_never_claims_what_it_cannot_know():
    assert math.isnan(mean_interval([]).value)
    one = mean_interval([[0.2, 0.4]])
    assert one.value == pytest.approx(0.3) and math.isnan(one.low)
    flat = mean_interval([[0.5], [0.5], [0.5]])
    assert flat.value == 0.5 and math.isnan(flat.high)
    counts = mean_interval([[1], [1], [1]])  # counts, not a proportion: may exceed 1
    assert math.isnan(counts.high)
    wrong = mean_interval([[0, 0, 0]] * 10, proportion=True)  # not [0, 0]: ten tasks can't say so
    assert wrong == wilson(0, 10)
    assert mean_interval([[1], [0], [1]], proportion=True) == wilson(2, 3)
    mixed = mean_interval([[1, 0], [1, 1], [1, 1]], proportion=True)
    assert mixed.high == 1.0 and mixed.low > 0
    with pytest.raises(ValueError, match=r"values in \[0, 1\], got means 0 to 2"):
        mean_interval([[2], [0]], proportion=True)


def test_the_interval_of_a_count_ends_at_zero():
    counts = [[0], [0], [0], [9]]
    assert mean_interval(counts).low < 0
    assert mean_interval(counts, least=0.0).low == 0.0
    assert mean_interval(counts, least=0.0).high == mean_interval(counts).high


def test_clustered_interval_covers_where_the_naive_one_does_not():
    rng = np.random.default_rng(5)
    runs, tasks, samples, clustered, naive = 600, 25, 8, 0, 0
    for _ in range(runs):
        chance = rng.beta(0.6, 0.9, size=tasks)  # tasks differ much in difficulty
        values = rng.random((tasks, samples)) < chance[:, None]
        interval = mean_interval(values.astype(float).tolist())
        clustered += interval.low <= 0.4 <= interval.high
        pretend = wilson(int(values.sum()), values.size)
        naive += pretend.low <= 0.4 <= pretend.high
    assert 0.93 < clustered / runs < 0.975
    assert naive / runs < 0.75


def test_paired_difference_by_hand_and_left_out_tasks():
    first = {"a": [0.0, 1.0], "b": [0.0], "c": [1.0], "only": [1.0], "empty": []}
    second = {"a": [1.0], "b": [0.0, 0.0], "c": [1.0], "empty": [1.0]}
    result = paired_difference(first, second)
    steps = [0.5, 0.0, 0.0]
    error = np.std(steps, ddof=1) / math.sqrt(3)
    assert result.value == pytest.approx(np.mean(steps))
    assert result.high == pytest.approx(np.mean(steps) + 4.30265272974946 * error)
    assert result.count == 3
    assert result.left_out == 2
    t = np.mean(steps) / error  # two degrees of freedom: the tail is closed-form
    assert result.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t))


def test_paired_difference_when_all_tasks_move_alike():
    same = paired_difference({"a": [1.0], "b": [0.0]}, {"a": [1.0], "b": [0.0]})
    assert (same.value, same.p_value) == (0.0, 1.0)
    assert math.isnan(same.low)
    up = paired_difference({t: [0.0] for t in "abcde"}, {t: [1.0] for t in "abcde"})
    assert up.p_value == 2 / 2**5
    with pytest.raises(ValueError, match="share no task"):
        paired_difference({"a": [1.0]}, {"b": [1.0]})


def test_paired_interval_covers_and_is_narrower_than_two_separate_ones():
    rng = np.random.default_rng(11)
    runs, covered, false_alarms, width, apart = 500, 0, 0, 0.0, 0.0
    for _ in range(runs):
        base = rng.normal(0.5, 0.3, size=20)
        first = base + rng.normal(0, 0.1, size=20)
        second = base + rng.normal(0.05, 0.1, size=20)
        a, b, null = (
            {str(i): [v] for i, v in enumerate(x)} for x in (first, second, second - 0.05)
        )
        result = paired_difference(a, b)
        covered += result.low <= 0.05 <= result.high
        false_alarms += paired_difference(a, null).p_value < 0.05
        width += result.high - result.low
        separate = mean_interval([[v] for v in second])
        apart += separate.high - separate.low
    assert 0.925 < covered / runs < 0.975
    assert 0.025 < false_alarms / runs < 0.075
    assert width < 0.6 * apart


def test_estimate_round_trip_keeps_missing_bounds():
    one = mean_interval([[0.25, 0.75]])
    assert one.to_dict() == {"value": 0.5, "low": None, "high": None, "count": 1}
    assert math.isnan(Estimate.from_dict(one.to_dict()).low)
    assert Estimate.from_dict(wilson(1, 3).to_dict()) == wilson(1, 3)
