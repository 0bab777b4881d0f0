"""Put the named parts of a reward together: by weight, or behind a gate.

    total = gated("format", weighted({"answer": 1.0, "brevity": 0.1}))
    total({"format": 1.0, "answer": 1.0, "brevity": 0.5})  # 1.05

A part that is `Invalid` makes the whole invalid: there is no reward to speak of.

`composed` does the same for rewards instead of values, and is a reward itself:

    reward = composed({"answer": judge, "format": neat}, weighted({"answer": 1.0, "format": 0.1}))
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..episode import Grade
from ..types import Invalid, Task
from .protocol import Messages, Reward, grade_with

Parts = Mapping[str, float | Invalid]
Composition = Callable[[Parts], float | Invalid]


def first_invalid(parts: Parts) -> Invalid | None:
    """The first part that is invalid, if one is."""
    return next((part for part in parts.values() if isinstance(part, Invalid)), None)


def _part(parts: Parts, name: str) -> float:
    value = parts.get(name)
    if value is None or isinstance(value, Invalid):
        raise ValueError(f"the reward needs a part {name!r}, but got {sorted(parts)}")
    return value


@dataclass(frozen=True)
class Weighted:
    """The sum of weight times part. Parts without a weight are recorded, not counted."""

    weights: Mapping[str, float]

    def __call__(self, parts: Parts) -> float | Invalid:
        if (invalid := first_invalid(parts)) is not None:
            return invalid
        return sum(weight * _part(parts, name) for name, weight in self.weights.items())


@dataclass(frozen=True)
class Gated:
    """`inner` where part `gate` is at least `threshold`, else `otherwise`."""

    gate: str
    inner: Composition
    threshold: float = 1.0
    otherwise: float = 0.0

    def __call__(self, parts: Parts) -> float | Invalid:
        if (invalid := first_invalid(parts)) is not None:
            return invalid
        return self.inner(parts) if _part(parts, self.gate) >= self.threshold else self.otherwise


def weighted(weights: Mapping[str, float]) -> Weighted:
    """A weighted sum, e.g. `weighted({"answer": 1.0, "format": 0.1})`.

    Raises:
        ValueError: there are no weights. Calling the result raises it for a missing part.
    """
    if not weights:
        raise ValueError('expected at least one weight, e.g. weighted({"answer": 1.0})')
    return Weighted(dict(weights))


def gated(
    gate: str, inner: Composition, *, threshold: float = 1.0, otherwise: float = 0.0
) -> Gated:
    """`inner`, paid only where the part `gate` reaches `threshold`."""
    return Gated(gate, inner, threshold, otherwise)


@dataclass(frozen=True)
class Composed:
    """A reward made of rewards. Make one with `composed`."""

    rewards: Mapping[str, Reward]
    total: Composition
    correct: str | None = None

    async def __call__(self, task: Task, messages: Messages) -> Grade | Invalid:
        grades = await asyncio.gather(
            *(grade_with(reward, task, messages) for reward in self.rewards.values())
        )
        named = dict(zip(self.rewards, grades, strict=True))
        for name, grade in named.items():
            if isinstance(grade, Invalid):
                return Invalid(grade.kind, f"{name}: {grade.message}")
        valid = {name: grade for name, grade in named.items() if isinstance(grade, Grade)}
        total = self.total({name: grade.reward for name, grade in valid.items()})
        if isinstance(total, Invalid):
            return total
        parts: dict[str, float] = {}
        for name, grade in valid.items():
            parts[name] = grade.reward
            parts |= {f"{name}/{part}": value for part, value in grade.parts.items()}
        return Grade(total, parts, valid[self.correct].correct if self.correct else None)


def composed(
    rewards: Mapping[str, Reward], total: Composition, *, correct: str | None = None
) -> Composed:
    """Evaluate named rewards side by side and put them together with `total`.

    Their values become the parts of the grade; a part's own parts are kept as `name/part`.
    `correct` names the reward whose verdict says whether the answer is correct.

    Raises:
        ValueError: there are no rewards, or `correct` is none of them.
    """
    if not rewards:
        raise ValueError('expected at least one reward, e.g. composed({"answer": grade}, ...)')
    if correct is not None and correct not in rewards:
        raise ValueError(f"correct={correct!r} is none of the rewards {sorted(rewards)}")
    return Composed(dict(rewards), total, correct)
