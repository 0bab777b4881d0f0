"""Group rewards: rank, diversity, contrast; and that invalid members touch nobody."""

import asyncio
import itertools

import pytest

from palestra.envs.rewards.efficiency import otc_rewards
from palestra.envs.rewards.group import (
    GroupRewards,
    contrast,
    distinct_answers,
    ngram_distance,
    rank_shares,
    ranked,
    shorter,
    thriftier,
)
from palestra.envs.rewards.length import group_length
from palestra.envs.types import (
    Group,
    Invalid,
    Message,
    Outcome,
    StopReason,
    Task,
    ToolStats,
    Trajectory,
    Turn,
)
from palestra.trainers.advantages import group_advantages
from palestra.trainers.algorithms import get_algorithm

TASK = Task("t", (Message("user", "Greet me."),), "hi")


def member(text, reward=0.0, *, calls=0, sampled=1, parts=None):
    """A finished trajectory; reward None makes it invalid."""
    turn = Turn(TASK.prompt, Message("assistant", text), reward=reward or 0.0)
    return Trajectory(
        task_id="t",
        env_id="e",
        token_ids=(1,) * sampled,
        mask=(True,) * sampled,
        logprobs=(0.0,) * sampled,
        prompt_length=0,
        turns=(turn,),
        stop_reason=StopReason.ENV_ERROR if reward is None else StopReason.COMPLETED,
        reward=reward,
        reward_parts=parts or {},
        correct=None if reward is None else reward >= 1,
        failure=Invalid("sandbox") if reward is None else None,
        tools=ToolStats(calls=calls, ok=calls),
    )


def group(*members):
    return Group(TASK, members)


def longer(question, first, second):
    async def answer():
        return 0.5 if len(first) == len(second) else float(len(first) > len(second))

    return answer()


def test_rank_shares_are_novers_and_ties_share():
    assert rank_shares([3.0, 1.0, 2.0]) == [1.0, pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert rank_shares([3.0, 1.0, 2.0], descending=False)[1] == 1.0
    assert rank_shares([5.0, 5.0]) == [0.75, 0.75]
    for values in itertools.permutations([0.1, 0.2, 0.7, 0.9]):
        best_first = sorted(values, reverse=True)
        assert rank_shares(values) == [(4 - best_first.index(v)) / 4 for v in values]


def test_ranks_of_the_reward_or_of_a_part():
    g = group(
        member("a", 0.9, parts={"x": 1.0}), member("b", None), member("c", 0.1, parts={"x": 2.0})
    )
    assert ranked()(g) == [1.0, None, 0.5]
    assert ranked("x")(g) == [0.5, None, 1.0]


def test_each_different_answer_has_one_to_share():
    g = group(
        member("so \\boxed{4}"),
        member("thus \\boxed{ 4 }"),
        member("\\boxed{5}"),
        member("\\boxed{5}", None),
        member("no idea"),
    )
    assert distinct_answers(g) == [0.5, 0.5, 1.0, None, 1.0]


def test_ngram_distance_by_hand():
    g = group(member("a b c d"), member("a b c e"), member("x y z w"), member("a b c d", None))
    # 3-grams: {abc, bcd}, {abc, bce}, {xyz, yzw}; Jaccard 1/3, 0, 0
    assert ngram_distance(3)(g) == [pytest.approx(5 / 6), pytest.approx(5 / 6), 1.0, None]
    assert ngram_distance()(group(member("same"), member("same"))) == [0.0, 0.0]
    assert ngram_distance()(group(member("alone"))) == [0.0]
    assert ngram_distance()(group(member(""), member(""))) == [0.0, 0.0]


def test_contrast_is_the_win_rate_among_siblings():
    g = group(member("aaa"), member("a"), member("x", None), member("aa"))
    assert asyncio.run(contrast(longer)(g)) == [1.0, 0.0, None, 0.5]
    assert asyncio.run(contrast(longer)(group(member("a"), member("b", None)))) == [0.5, None]


def test_group_rewards_are_added_to_the_tasks_reward_and_kept_as_parts():
    g = group(
        member("\\boxed{4}", 1.0, parts={"answer": 1.0}), member("\\boxed{5}"), member("?", None)
    )
    extras = GroupRewards(
        {"novel": distinct_answers, "contrast": contrast(longer)}, weights={"novel": 0.1}
    )
    after = asyncio.run(extras(g))
    assert [t.reward for t in after.trajectories] == [pytest.approx(1.1), pytest.approx(0.1), None]
    assert after.trajectories[0].reward_parts == {"answer": 1.0, "novel": 1.0, "contrast": 0.5}
    assert after.trajectories[2] is g.trajectories[2]
    assert after.trajectories[0].correct is True and after.task is TASK
    assert g.trajectories[0].reward == 1.0  # the group given is as it was


def test_a_member_without_a_verdict_becomes_invalid_and_leaves_the_statistics():
    async def compare(question, first, second):
        return Invalid("judge", "?") if "z" in first + second else float(first > second)

    g = group(member("a", 1.0), member("b", 1.0), member("z", 1.0))
    after = asyncio.run(GroupRewards({"c": contrast(compare)}, {"c": 1.0})(g))
    assert [t.outcome for t in after.trajectories] == [
        Outcome.VALID,
        Outcome.VALID,
        Outcome.INVALID,
    ]
    failure = after.trajectories[2].failure
    assert failure.kind == "judge" and failure.message.startswith("c: ")
    advantages = group_advantages([t.reward for t in after.trajectories], get_algorithm("dr_grpo"))
    assert advantages == [-0.5, 0.5, 0.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_makes_its_member_invalid(value):
    extras = GroupRewards({"x": lambda g: [value, 0.5]}, {"x": 1.0})
    broken, sound = asyncio.run(extras(group(member("a", 1.0), member("b", 1.0)))).trajectories
    assert broken.outcome is Outcome.INVALID and broken.reward is None
    assert broken.failure.kind == "verifier" and "not a finite number" in broken.failure.message
    assert sound.reward == 1.5


@pytest.mark.parametrize(
    "reward", [ranked(), distinct_answers, ngram_distance(), shorter, thriftier(smooth=4.0)]
)
def test_an_invalid_member_changes_no_siblings_value(reward):
    members = [
        member("\\boxed{1} a b", 1.0, calls=2, sampled=5),
        member("\\boxed{1} a c", 1.0, calls=1, sampled=9),
        member("\\boxed{2} d", 0.0, calls=3, sampled=7),
    ]
    alone = list(reward(group(*members)))
    for at in range(4):
        lost = member("\\boxed{1} a b", None, calls=0, sampled=1)
        values = list(reward(group(*members[:at], lost, *members[at:])))
        assert values.pop(at) is None and values == alone


def test_lengths_and_calls_of_members():
    members = [
        member("a", 1.0, calls=2, sampled=5),
        member("b", 1.0, calls=1, sampled=9),
        member("c", 0.0, calls=3, sampled=7),
    ]
    assert shorter(group(*members)) == group_length([True, True, False], [5, 9, 7])
    assert thriftier(smooth=4)(group(*members)) == otc_rewards([1, 1, 0], [2, 1, 3], smooth=4)
    replaced = GroupRewards({"otc": thriftier(smooth=4)}, {"otc": 1.0}, base=0.0)
    after = asyncio.run(replaced(group(*members)))
    assert [t.reward for t in after.trajectories] == otc_rewards([1, 1, 0], [2, 1, 3], smooth=4)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"weights for \['y'\]"):
        GroupRewards({"x": distinct_answers}, {"y": 1.0})
    with pytest.raises(ValueError, match="gave 1 values for 2 members"):
        asyncio.run(GroupRewards({"x": lambda g: [1.0]}, {})(group(member("a"), member("b"))))
