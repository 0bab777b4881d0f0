"""Group advantages, invalid members and the soft overlong punishment."""

import math

import numpy as np
import pytest
from episodes import TASK, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.envs.types import Group
from palestra.trainers.advantages import (
    group_advantages,
    has_signal,
    shaped_rewards,
    soft_overlong,
)
from palestra.trainers.algorithms import get_algorithm

GRPO, DR_GRPO = get_algorithm("grpo"), get_algorithm("dr_grpo")
rewards = st.floats(-10, 10, allow_nan=False)


def test_grpo_by_hand():
    # mean 0.25, std (ddof 1) of (1, 0, 0, 0) = 0.5
    values = group_advantages([1.0, 0.0, 0.0, 0.0], get_algorithm("grpo", std_eps=0.0))
    assert values == [1.5, -0.5, -0.5, -0.5]
    population = group_advantages([1.0, 0.0], get_algorithm("grpo", std_eps=0.0, std_ddof=0))
    assert population == [1.0, -1.0]


def test_dr_grpo_does_not_divide():
    assert group_advantages([3.0, 1.0], DR_GRPO) == [1.0, -1.0]


@settings(deadline=None)
@given(st.lists(rewards, min_size=2, max_size=8), st.data())
def test_an_invalid_member_changes_no_sibling_by_a_bit(given_rewards, data):
    places = data.draw(st.lists(st.integers(0, len(given_rewards)), max_size=4))
    mixed: list[float | None] = list(given_rewards)
    for place in sorted(places, reverse=True):
        mixed.insert(place, None)
    for algorithm in (GRPO, DR_GRPO):
        alone = group_advantages(given_rewards, algorithm)
        together = group_advantages(mixed, algorithm)
        assert [a for a, r in zip(together, mixed, strict=True) if r is not None] == alone
        assert all(a == 0.0 for a, r in zip(together, mixed, strict=True) if r is None)


@settings(deadline=None)
@given(st.lists(rewards, min_size=2, max_size=8))
def test_advantages_sum_to_zero_and_keep_the_order(values):
    for algorithm in (GRPO, DR_GRPO):
        advantages = group_advantages(values, algorithm)
        assert abs(sum(advantages)) < 1e-6
        ranked = np.array(advantages)[np.argsort(values)]
        assert (np.diff(ranked) >= 0).all()


@pytest.mark.parametrize(
    "nothing", [[], [1.0], [None, None], [1.0, None], [0.7] * 3, [0.1 + 0.2, 0.3]]
)
def test_no_signal_gives_zeros(nothing):
    assert not has_signal(nothing)
    assert group_advantages(nothing, GRPO) == [0.0] * len(nothing)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_an_error(bad):
    with pytest.raises(ValueError, match="must return Invalid"):
        group_advantages([0.0, bad], GRPO)


def test_soft_overlong_is_equation_13():
    # L_max 20480, L_cache 4096: free up to 16384.
    table = {1: 0.0, 16384: 0.0, 17408: -0.25, 18432: -0.5, 20480: -1.0, 30000: -1.0}
    for length, expected in table.items():
        assert soft_overlong(length, 20480, 4096) == expected


def test_which_length_counts():
    # 2 prompt, 4 sampled, 6 tool tokens.
    member = trajectory(range(1, 13), [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1], 1.0)
    group = Group(TASK, (member, trajectory([1, 2], [0, 1], None)))
    sampled = get_algorithm("dapo", overlong_length=10, overlong_cache=8)
    response = get_algorithm(
        "dapo", overlong_length=10, overlong_cache=8, overlong_counts="response"
    )
    assert shaped_rewards(group, sampled) == [1.0 - 2 / 8, None]
    assert shaped_rewards(group, response) == [1.0 - 1.0, None]
    assert shaped_rewards(group, GRPO) == [1.0, None]


def test_the_punishment_comes_before_the_baseline():
    long, short = ([0] + [1] * n for n in (10, 2))
    members = (trajectory(range(11), long, 1.0), trajectory(range(3), short, 1.0))
    group = Group(TASK, members)
    algorithm = get_algorithm("dapo", overlong_length=10, overlong_cache=8, scale_by_std=False)
    assert group_advantages(shaped_rewards(group, algorithm), algorithm) == [-0.5, 0.5]
