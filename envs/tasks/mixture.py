"""Several task sets as one, in fixed proportions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from math import gcd

from ..types import Task
from .base import HELDOUT, TaskSet

_MAX_PERIOD = 10_000


class MixtureTasks(TaskSet):
    """A mixture of task sets of one split: any run of tasks has the sets in proportion.

    Sets take turns by smooth weighted round robin: over one period each comes exactly as
    often as its weight says, spread out evenly. Task `i` of the mixture is the next task of
    the set whose turn it is.

    Held-out tasks come once: such a mixture ends where the first set is used up, so that an
    average over it is of independent tasks in the proportions asked. In training a set that is
    used up starts again, until no task of any set is left out; a task that comes again has its
    round behind its id (`ID#2`).

    Args:
        sets: task sets by name, all of one split.
        weights: positive, by the same names; integers or simple decimals.

    Raises:
        ValueError: no sets, different splits, bad weights.
    """

    def __init__(
        self, sets: Mapping[str, TaskSet], weights: Mapping[str, float] | None = None
    ) -> None:
        if not sets:
            raise ValueError("a mixture needs at least one task set")
        weights = dict.fromkeys(sets, 1.0) if weights is None else dict(weights)
        if set(weights) != set(sets) or not all(w > 0 for w in weights.values()):
            raise ValueError(
                f"expected one positive weight for each of {sorted(sets)}, got {weights}"
            )
        splits = {tasks.split for tasks in sets.values()}
        if len(splits) > 1:
            raise ValueError(f"the sets of a mixture must be of one split, got {sorted(splits)}")
        empty = [name for name, tasks in sets.items() if not len(tasks)]
        if empty:
            raise ValueError(f"these sets of the mixture have no tasks: {empty}")
        self.split = splits.pop()
        self.sets = list(sets.values())
        counts = _counts([weights[name] for name in sets])
        self.name = "+".join(f"{c}*{n}" for c, n in zip(counts, sets, strict=True))
        self._order = _round_robin(counts)
        self._counts = counts
        self._places: list[list[int]] = [[] for _ in counts]
        for place, member in enumerate(self._order):
            self._places[member].append(place)

    def __len__(self) -> int:
        if self.split == HELDOUT:
            return min(self._place(m, len(tasks)) for m, tasks in enumerate(self.sets))
        turns = (-(-len(s) // c) for s, c in zip(self.sets, self._counts, strict=True))
        return max(turns) * len(self._order)

    def task(self, index: int) -> Task:
        turn, place = divmod(index, len(self._order))
        member = self._order[place]
        before = bisect_right(self._places[member], place) - 1
        tasks = self.sets[member]
        again, number = divmod(turn * self._counts[member] + before, len(tasks))
        task = tasks[number]
        return replace(task, id=f"{task.id}#{again + 1}") if again else task

    def _place(self, member: int, number: int) -> int:
        """Where a set has its turn for the `number`th time, from 0."""
        turn, rest = divmod(number, self._counts[member])
        return turn * len(self._order) + self._places[member][rest]


def _counts(weights: list[float]) -> list[int]:
    """Weights as small integers in the same proportion, to three digits."""
    scaled = [max(1, round(weight / max(weights) * 1000)) for weight in weights]
    if all(float(weight).is_integer() for weight in weights):
        scaled = [int(weight) for weight in weights]
    divisor = gcd(*scaled)
    counts = [count // divisor for count in scaled]
    if sum(counts) > _MAX_PERIOD:
        raise ValueError(f"weights {weights} make a period of {sum(counts)} tasks: simplify them")
    return counts


def _round_robin(counts: list[int]) -> list[int]:
    """One period: each turn goes to the member furthest behind its share (first on ties)."""
    period, credit, order = sum(counts), [0] * len(counts), []
    for _ in range(period):
        credit = [have + count for have, count in zip(credit, counts, strict=True)]
        chosen = max(range(len(counts)), key=credit.__getitem__)
        credit[chosen] -= period
        order.append(chosen)
    return order
