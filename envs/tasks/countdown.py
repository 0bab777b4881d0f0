"""Countdown problems, made on demand: combine given numbers to make a target."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from ..rewards.countdown import OPERATIONS
from ..types import Message, Task
from .arithmetic import DEFAULT_SIZE
from .base import TaskSet, canonical_split, in_split

GRADER = "countdown"  # `metadata["grader"]`: how these answers must be graded
_MAX_ATTEMPTS = 10_000
_ROOM = 2  # how many times the largest target a value on the way may be
_SUM, _PRODUCT, _ATOM = range(3)  # how tightly an expression binds


class _Part(NamedTuple):
    """An expression on the way to the target."""

    value: int
    text: str
    binds: int


class CountdownTasks(TaskSet):
    """Problems with a solution by construction: the target is made from the numbers.

    The rule is to use each number exactly once; fractions on the way are allowed to whoever
    solves it, and never needed. Task `i` is a function of (options, seed, split, i).
    `reference` is one solution of possibly many, `difficulty` the count of the numbers, and
    `metadata` has what `rewards.countdown` needs. A problem is its numbers and its target, in
    whatever order the numbers are told: by a hash of these it belongs to one split.

    Args:
        numbers: how many, or an inclusive (low, high) range from which it is drawn evenly.
        largest: numbers are drawn evenly from 1 to this.
        target: inclusive (low, high) range of the target.
        operations: which of "+", "-", "*" and "/" may be used.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        size: int | None = None,
        seed: int = 0,
        numbers: int | Sequence[int] = (3, 4),
        largest: int = 99,
        target: Sequence[int] = (10, 999),
        operations: str = OPERATIONS,
    ) -> None:
        few, many = (numbers, numbers) if isinstance(numbers, int) else numbers
        low, high = target
        if not 2 <= few <= many <= 10:
            raise ValueError(f"numbers must be within 2 and 10, low to high, got {numbers!r}")
        if largest < 1 or not 1 <= low <= high:
            raise ValueError(
                f"largest and target must be positive, low to high, got {largest} and {target!r}"
            )
        if not operations or set(operations) - set(OPERATIONS):
            raise ValueError(f'operations must be some of "+-*/", got {operations!r}')
        self.split, self.seed = canonical_split(split), seed
        self.size = DEFAULT_SIZE[self.split] if size is None else size
        if self.size < 0:
            raise ValueError(f"size must not be negative, got {size}")
        self.numbers, self.largest, self.target = (few, many), largest, (low, high)
        self.operations = "".join(sorted(set(operations), key=OPERATIONS.index))
        self.name = self._describe()

    def _describe(self) -> str:
        """The options that differ from the defaults: equal names mean equal tasks."""
        few, many = self.numbers
        parts = [] if self.numbers == (3, 4) else [f"numbers={few}" + f"-{many}" * (few < many)]
        parts += [f"largest={self.largest}"] * (self.largest != 99)
        parts += [f"target={self.target[0]}-{self.target[1]}"] * (self.target != (10, 999))
        parts += [f"operations={self.operations}"] * (self.operations != OPERATIONS)
        return f"countdown({','.join(parts)})" if parts else "countdown"

    def __len__(self) -> int:
        return self.size

    def task(self, index: int) -> Task:
        for attempt in range(_MAX_ATTEMPTS):
            key = f"{self.name}/{self.split}/{self.seed}/{index}/{attempt}"
            drawn = self._draw(random.Random(key))
            if drawn is not None and in_split(_identity(*drawn), self.split):
                break
        else:
            raise ValueError(
                f"{self.name!r} has too few different problems to fill its {self.split} split: "
                f"use more or larger numbers, a wider target, or more operations"
            )
        numbers, solution = drawn
        return countdown_task(
            numbers,
            solution.value,
            id=f"{self.name}/{self.split}/{self.seed}/{index}",
            split=self.split,
            operations=self.operations,
            solution=solution.text,
        )

    def _draw(self, rng: random.Random) -> tuple[list[int], _Part] | None:
        """Numbers and an expression over all of them; None when a step or the target fails."""
        numbers = [rng.randint(1, self.largest) for _ in range(rng.randint(*self.numbers))]
        parts = [_Part(number, str(number), _ATOM) for number in numbers]
        while len(parts) > 1:
            rng.shuffle(parts)
            left, right = sorted((parts.pop(), parts.pop()), reverse=True)
            made = [m for sign in self.operations if (m := _combine(left, right, sign))]
            made = [m for m in made if m.value <= _ROOM * self.target[1]]
            if not made:
                return None
            parts.append(rng.choice(made))
        low, high = self.target
        return (numbers, parts[0]) if low <= parts[0].value <= high else None


def countdown_task(
    numbers: Sequence[int],
    target: int,
    *,
    id: str,
    split: str,
    operations: str = OPERATIONS,
    solution: str = "",
) -> Task:
    """The task of making `target` from `numbers`, each used once; see `CountdownTasks`."""
    signs = ", ".join(operations[:-1])
    allowed = f"{signs} and {operations[-1]}" if signs else operations
    question = (
        f"Use each of the numbers {', '.join(map(str, numbers[:-1]))} and {numbers[-1]} "
        f"exactly once to make {target}. Combine them with {allowed}, and parentheses where "
        f"needed. The answer is the expression."
    )
    return Task(
        id=id,
        prompt=(Message("user", question),),
        reference=solution,
        split=split,
        difficulty=float(len(numbers)),
        metadata={
            "grader": GRADER,
            "numbers": list(numbers),
            "target": target,
            "operations": operations,
        },
    )


def _combine(left: _Part, right: _Part, sign: str) -> _Part | None:
    """The larger `left` with `right`, where that is a positive whole number."""
    if sign == "+":
        return _Part(left.value + right.value, f"{left.text} + {right.text}", _SUM)
    if sign == "-":
        if left.value == right.value:
            return None
        text = f"{left.text} - {_bracketed(right, _PRODUCT)}"
        return _Part(left.value - right.value, text, _SUM)
    factor = _bracketed(left, _PRODUCT)
    if sign == "*":
        text = f"{factor} * {_bracketed(right, _PRODUCT)}"
        return _Part(left.value * right.value, text, _PRODUCT)
    if left.value % right.value:
        return None
    return _Part(left.value // right.value, f"{factor} / {_bracketed(right, _ATOM)}", _PRODUCT)


def _bracketed(part: _Part, least: int) -> str:
    return part.text if part.binds >= least else f"({part.text})"


def _identity(numbers: Sequence[int], solution: _Part) -> str:
    return f"{' '.join(map(str, sorted(numbers)))} make {solution.value}"
