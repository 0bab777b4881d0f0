"""Lengths and tool calls: each formula against its paper's cases, estimates against truth."""

import math
import random
from dataclasses import replace
from operator import attrgetter

import pytest

from palestra.envs.rewards.efficiency import (
    marginal_values,
    optimal_calls,
    otc_rewards,
    per_call_price,
    within_task_gains,
    within_task_slope,
)
from palestra.envs.rewards.length import exact_length, group_length, max_length, soft_overlong
from palestra.envs.types import Group, Message, StopReason, Task, ToolStats, Trajectory


def test_soft_overlong_is_dapos_equation_13():
    longest, cache = 20480, 4096
    for length in (0, 16384, 16385, 18432, 20480, 20481, 99999):
        if length <= longest - cache:
            expected = 0.0
        elif length <= longest:
            expected = ((longest - cache) - length) / cache
        else:
            expected = -1.0
        assert soft_overlong(length, longest, cache) == expected
    assert soft_overlong(18432, longest, cache) == -0.5
    with pytest.raises(ValueError, match="cache"):
        soft_overlong(1, 10, 11)


def test_l1_lengths():
    assert exact_length(1.0, 1500, 1000) == pytest.approx(1 - 0.0003 * 500)
    assert exact_length(0.0, 500, 1000) == pytest.approx(-0.15)
    assert max_length(1.0, 1000, 1000) == 0.5  # the offset
    assert max_length(1.0, 0, 10**6) == 1.0 and max_length(1.0, 10**6, 0) == 0.0
    assert max_length(0.0, 0, 1000) == 0.0


def test_group_length_is_kimi_k15s():
    correct, lengths = [True, True, False, False], [100, 300, 150, 300]
    # lambda: 0.5, -0.5, 0.25, -0.5; wrong answers are never paid for being short
    assert group_length(correct, lengths) == [0.5, -0.5, 0.0, -0.5]
    assert group_length([True, False], [7, 7]) == [0.0, 0.0]
    assert group_length([], []) == []
    with pytest.raises(ValueError, match="one length per answer"):
        group_length([True], [])


def test_calls_never_lower_a_penalty():
    assert otc_rewards([-1.0, -1.0, -1.0], [0, 3, 8], smooth=4) == [-1.0, -1.0, -1.0]
    right, wrong = otc_rewards([1.0, -1.0], [2, 9], smooth=4, alpha=0.5)
    assert (right, wrong) == (0.5, -0.5)


def test_price_per_call():
    assert per_call_price(1.0, 3) == pytest.approx(0.85)
    assert per_call_price(1.0, 3, price=0.1, free_calls=2) == pytest.approx(0.9)
    assert per_call_price(0.0, 1, free_calls=2) == 0.0
    with pytest.raises(ValueError, match="negative"):
        per_call_price(1.0, 1, price=-1)


def test_optimal_calls_is_otcs_three_cases():
    assert optimal_calls(0, 0, smooth=4) == 1.0
    for m in range(1, 6):
        assert optimal_calls(m, 0, smooth=4) == math.cos(m * math.pi / (2 * m + 4))
    for n in range(1, 6):
        values = [optimal_calls(m, n, smooth=4) for m in range(12)]
        assert values.index(max(values)) == n and values[n] == 1.0 and values[0] == 0.0
        assert all(0 <= v <= 1 for v in values)
        for m in range(1, 12):
            f = 2 * n * m / (m + n)
            assert values[m] == math.sin(f * math.pi / (2 * n))


def test_otc_pays_the_thriftiest_right_answer_most():
    rewards = otc_rewards([1.0, 1.0, 0.0, 1.0], [2, 4, 1, 3], smooth=4)
    assert rewards[0] == 1.0 and rewards[2] == 0.0
    assert rewards[0] > rewards[3] > rewards[1] > 0
    assert otc_rewards([0.0, 0.0], [1, 2], smooth=4) == [0.0, 0.0]
    assert otc_rewards([], [], smooth=4) == []


def table(rng, cap, value, tasks=400):
    """Tasks of own difficulty whose score rises by `value` per call, up to `cap` calls."""
    rows = {}
    for number in range(tasks):
        base = random.Random(number).random() * 0.4
        calls = min(cap, random.Random(number).choice([1, 2, 3]))
        rows[str(number)] = (base + value * calls + rng.gauss(0, 0.05), calls)
    return rows


def test_marginal_values_recover_what_calls_cause():
    rng = random.Random(0)
    zero, one, two = (table(rng, cap, 0.15) for cap in (0, 1, 2))
    first, second = marginal_values({0: zero, 1: one, 2: two})
    assert (first.low_cap, first.high_cap, first.extra_calls) == (0, 1, 1.0)
    for estimate in (first, second):
        assert abs(estimate.value - 0.15) < 3 * estimate.stderr
        assert estimate.value == pytest.approx(estimate.gain / estimate.extra_calls)


def test_marginal_value_by_hand():
    (only,) = marginal_values({0: {"a": (0, 0), "b": (1, 0)}, 1: {"a": (1, 1), "b": (1, 1)}})
    # gains 1, 0 at one call each: value 0.5, residuals +-0.5, sqrt(0.5 / 2) / 1
    assert (only.gain, only.value, only.stderr) == (0.5, 0.5, pytest.approx(0.5))


def test_marginal_value_without_more_calls_or_tasks():
    (unused,) = marginal_values({0: {"a": (0.0, 0.0)}, 1: {"a": (1.0, 0.0)}})
    assert unused.value is None and unused.gain == 1.0
    with pytest.raises(ValueError, match="two caps"):
        marginal_values({0: {}})
    with pytest.raises(ValueError, match="in common"):
        marginal_values({0: {"a": (0, 0)}, 1: {"b": (0, 0)}})


def played(task, pairs):
    members = [
        Trajectory(
            task_id=task,
            env_id="e",
            token_ids=(),
            mask=(),
            logprobs=(),
            prompt_length=0,
            turns=(),
            stop_reason=StopReason.COMPLETED if score is not None else StopReason.ENV_ERROR,
            reward=score,
            reward_parts={} if score is None else {"answer": 2 * score},
            tools=ToolStats(calls=calls, ok=calls),
        )
        for calls, score in pairs
    ]
    return Group(Task(task, (Message("user", "?"),)), tuple(members))


def test_slope_within_tasks_is_not_fooled_by_hard_tasks_drawing_more_calls():
    easy = played("easy", [(0, 0.9), (1, 1.0)])
    hard = played("hard", [(4, 0.0), (5, 0.1), (9, None)])
    reward = attrgetter("reward")
    assert within_task_slope([easy, hard], reward) == pytest.approx(0.1)
    doubled = within_task_slope([easy, hard], lambda t: t.reward_parts["answer"])
    assert doubled == pytest.approx(0.2)
    assert within_task_slope([played("flat", [(1, 0.0), (1, 1.0)])], reward) is None
    assert within_task_slope([], reward) is None


def test_correctness_is_the_score_unless_another_is_given():
    priced = played("priced", [(0, 0.0), (1, 0.95), (2, -0.1)])
    assert within_task_slope([priced]) is None  # nobody said which are correct
    verdicts = [False, True, False]
    judged = replace(
        priced,
        trajectories=tuple(
            replace(t, correct=c) for t, c in zip(priced.trajectories, verdicts, strict=True)
        ),
    )
    assert within_task_slope([judged]) == pytest.approx(0.0)
    assert within_task_gains([judged]) == [0.5]


def test_gains_compare_siblings_only():
    reward = attrgetter("reward")
    both = played("both", [(0, 0.25), (0, 0.75), (1, 1.0), (3, None)])
    never, always = played("never", [(0, 0.0), (0, 1.0)]), played("always", [(1, 0.0), (2, 0.0)])
    assert within_task_gains([both, never, always], reward) == [0.5]
    assert within_task_gains([], reward) == []
