"""Rewards of a whole group: rank, diversity, and contrast with siblings.

A group reward takes the finished `Group` of one task and gives one value per trajectory, None
where that trajectory is invalid. It may be `async`. Declare which ones count with

    extras = GroupRewards({"novel": distinct_answers}, weights={"novel": 0.1})
    group = await extras(group)  # rewards and reward parts replaced, nothing else touched

between the rollouts and the advantages. Invalid members enter no statistic, so adding or
removing one changes no sibling's value.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from ..driving import maybe_await
from ..types import Group, Invalid, StopReason, Trajectory
from .efficiency import otc_rewards
from .extraction import DEFAULT_FORMATS, extract_answer
from .judge import transcript
from .length import group_length
from .tournament import Compare, tournament
from .verifiable import normalised

Values = Sequence[float | Invalid | None]
GroupReward = Callable[[Group], Values | Awaitable[Values]]


@dataclass(frozen=True)
class GroupRewards:
    """The group rewards of an environment or a run.

    reward' = base * reward + sum_k weights[k] * value_k. A value without a weight is recorded
    as a part, not counted. `base=0` lets a group reward take the place of the task's.
    A member whose value is `Invalid`, or not a finite number, becomes invalid.
    """

    rewards: Mapping[str, GroupReward]
    weights: Mapping[str, float]
    base: float = 1.0

    def __post_init__(self) -> None:
        if unknown := self.weights.keys() - self.rewards.keys():
            raise ValueError(f"weights for {sorted(unknown)}, but rewards {sorted(self.rewards)}")

    async def __call__(self, group: Group) -> Group:
        """The group with its rewards replaced.

        Raises:
            ValueError: a group reward gave another number of values than there are members.
        """
        columns: dict[str, Values] = {}
        for name, reward in self.rewards.items():
            columns[name] = cast(Values, await maybe_await(reward(group)))
            if len(columns[name]) != len(group.trajectories):
                raise ValueError(
                    f"group reward {name!r} gave {len(columns[name])} values "
                    f"for {len(group.trajectories)} members"
                )
        members = [
            self._member(trajectory, {name: values[i] for name, values in columns.items()})
            for i, trajectory in enumerate(group.trajectories)
        ]
        return replace(group, trajectories=tuple(members))

    def _member(
        self, trajectory: Trajectory, values: Mapping[str, float | Invalid | None]
    ) -> Trajectory:
        if trajectory.reward is None:
            return trajectory
        parts = dict(trajectory.reward_parts)
        for name, value in values.items():
            if value is None or isinstance(value, Invalid) or not math.isfinite(value):
                failure = _failure(value)
                failure = Invalid(failure.kind, f"{name}: {failure.message}")
                return replace(
                    trajectory,
                    reward=None,
                    correct=None,
                    failure=failure,
                    stop_reason=StopReason.ENV_ERROR,
                )
            parts[name] = value
        extra = sum(weight * parts[name] for name, weight in self.weights.items())
        return replace(trajectory, reward=self.base * trajectory.reward + extra, reward_parts=parts)


def _failure(value: float | Invalid | None) -> Invalid:
    if isinstance(value, Invalid):
        return value
    if value is None:
        return Invalid("verifier", "no value for a valid member")
    return Invalid("verifier", f"the value is {value}, not a finite number")


def final_text(trajectory: Trajectory) -> str:
    """The text of the last turn; empty where there was none."""
    return trajectory.turns[-1].action.content if trajectory.turns else ""


def rank_shares(values: Sequence[float], *, descending: bool = True) -> list[float]:
    """Ranks in (0, 1]: (n - rank) / n with rank 0 for the best, ties sharing their mean rank.

    NOVER's shaping (arXiv 2505.16022), which keeps the order and forgets the distances.
    """
    signs = [value if descending else -value for value in values]
    n = len(signs)
    better = [sum(other > value for other in signs) for value in signs]
    equal = [sum(other == value for other in signs) for value in signs]
    return [(n - b - (e - 1) / 2) / n for b, e in zip(better, equal, strict=True)]


def ranked(part: str | None = None) -> GroupReward:
    """Rank shares of the reward, or of one part of it."""

    def reward(group: Group) -> Values:
        values = [
            t.reward_parts[part] if part is not None else cast(float, t.reward) for t in group.valid
        ]
        return _spread(group, rank_shares(values))

    return reward


def distinct_answers(group: Group) -> Values:
    """1 / the number of valid members with the same final answer, so that each different
    answer has a total of 1. Answers are extracted as for grading; without one the text counts.
    """
    answers = [
        normalised(extract_answer(final_text(t), DEFAULT_FORMATS) or final_text(t))
        for t in group.valid
    ]
    count = Counter(answers)
    return _spread(group, [1 / count[answer] for answer in answers])


def ngram_distance(n: int = 3) -> GroupReward:
    """1 - the mean Jaccard similarity of word n-grams with the valid siblings, in [0, 1].

    0 for an only member: it differs from nobody.
    """

    def reward(group: Group) -> Values:
        grams = [_grams(final_text(t).split(), n) for t in group.valid]
        values = []
        for i, own in enumerate(grams):
            others = grams[:i] + grams[i + 1 :]
            alike = [len(own & g) / len(own | g) if own | g else 1.0 for g in others]
            values.append(1 - sum(alike) / len(alike) if alike else 0.0)
        return _spread(group, values)

    return reward


def _grams(words: Sequence[str], n: int) -> set[tuple[str, ...]]:
    size = min(n, len(words)) or 1
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def contrast(
    compare: Compare, *, answer_of: Callable[[str], str] = str, opponents: int | None = None
) -> GroupReward:
    """The win rate of the final answer against its siblings', each pair judged in both orders.

    A member without a single verdict is `Invalid("judge")`; an only member has 0.5.
    """

    async def reward(group: Group) -> Values:
        answers = [answer_of(final_text(t)) for t in group.valid]
        if len(answers) < 2:
            return _spread(group, [0.5] * len(answers))
        asked = transcript(group.task.prompt)
        result = await tournament(asked, answers, compare, opponents=opponents)
        lost = Invalid("judge", "no comparison with a sibling gave a verdict")
        return _spread(group, [lost if rate is None else rate for rate in result.win_rates])

    return reward


def shorter(group: Group) -> Values:
    """`group_length` (Kimi k1.5) over the tokens that each member sampled."""
    correct = [bool(t.correct) for t in group.valid]
    return _spread(group, group_length(correct, [t.num_sampled for t in group.valid]))


def thriftier(*, smooth: float, alpha: float = 1.0) -> GroupReward:
    """`otc_rewards` (OTC-GRPO) over the members' tool calls; meant with `base=0`."""

    def reward(group: Group) -> Values:
        scores = [cast(float, t.reward) for t in group.valid]
        calls = [t.tools.calls for t in group.valid]
        return _spread(group, otc_rewards(scores, calls, smooth=smooth, alpha=alpha))

    return reward


def _spread(group: Group, values: Sequence[float | Invalid]) -> Values:
    """Values of the valid members at the places of all of them."""
    left = iter(values)
    return [None if t.reward is None else next(left) for t in group.trajectories]
