"""Does a controller give harder goals to stronger agents? Simulated agents of known skill say.

An agent of skill s solves a task of level l with probability sigmoid(s - d(l)), where d is
the known difficulty of the level (item response theory with one parameter). The points:

1. ordered: the difficulty it settles at does not fall as skill rises;
2. on target: the success rate at the levels played is within 0.05 of the controller's own
   target, for every skill that the levels can challenge;
3. recovers: after a sudden loss of skill the success rate comes back to the target;
4. steady: once settled, the expected level wanders by less than a tenth of the range;
5. resumable: a copy made from `state_dict` goes on exactly as the original.

That evaluation never asks a controller is a property of the training loop, and tested there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean, pstdev

import numpy as np

from .base import Controller, Feedback

LEVELS = 21
SPACING = 0.5  # difficulty of level l: SPACING * (l - middle), so -5 to 5
SKILLS = (-3.0, -1.5, 0.0, 1.5, 3.0)
GROUPS, MEMBERS = 16, 16
WARM_UP, LOOK = 300, 200  # steps until settled; steps looked at
TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Which points hold, and the figures behind them (by skill, in the order of `SKILLS`)."""

    ordered: bool
    on_target: bool
    recovers: bool
    steady: bool
    resumable: bool
    difficulties: tuple[float, ...]
    success_rates: tuple[float, ...]
    wander: float
    recovered_rate: float

    def points(self) -> dict[str, bool]:
        return {name: value for name, value in asdict(self).items() if isinstance(value, bool)}


def solves(skill: float, level: int) -> float:
    """The probability that an agent solves a task."""
    return float(1 / (1 + np.exp(SPACING * (level - LEVELS // 2) - skill)))


class Student:
    """An agent of known skill that is trained by nothing, under one controller."""

    def __init__(self, controller: Controller, skill: float, seed: int) -> None:
        self.controller, self.skill = controller, skill
        self.random = np.random.default_rng(seed)

    def step(self) -> float:
        """One training step; the share of episodes solved."""
        groups = []
        for _ in range(GROUPS):
            level = self.controller.sample(self.random)
            won = self.random.random(MEMBERS) < solves(self.skill, level)
            groups.append(Feedback(level, tuple(map(float, won))))
        self.controller.update(groups)
        return fmean(group.mean for group in groups)

    def settle(self, steps: int = WARM_UP) -> None:
        for _ in range(steps):
            self.step()

    def watch(self) -> tuple[float, float, float]:
        """Mean difficulty, success rate and standard deviation of the difficulty."""
        rates, levels = [], []
        for _ in range(LOOK):
            rates.append(self.step())
            levels.append(self.controller.difficulty)
        return fmean(levels), fmean(rates), pstdev(levels)


def accept(
    make: Callable[[int], Controller], target: tuple[float, float], *, seed: int = 0
) -> Acceptance:
    """Put the controllers that `make(levels)` gives through the five points.

    Args:
        target: the lowest and highest success rate that count as its target, before the
            tolerance of 0.05: twice the same for one value.
    """
    low, high = target[0] - TOLERANCE, target[1] + TOLERANCE
    found = []
    for number, skill in enumerate(SKILLS):
        student = Student(make(LEVELS), skill, seed + number)
        student.settle()
        found.append(student.watch())
    difficulties, rates, wanders = map(tuple, zip(*found, strict=True))
    fallen = Student(make(LEVELS), SKILLS[-1], seed + 100)
    fallen.settle()
    fallen.skill -= 3.0
    fallen.settle()
    recovered = fallen.watch()[1]
    return Acceptance(
        ordered=_ordered(difficulties),
        on_target=all(low <= rate <= high for rate in rates),
        recovers=low <= recovered <= high,
        steady=max(wanders) < 0.1 * (LEVELS - 1),
        resumable=_resumable(make, seed),
        difficulties=difficulties,
        success_rates=rates,
        wander=max(wanders),
        recovered_rate=recovered,
    )


def _ordered(difficulties: Sequence[float]) -> bool:
    return all(a <= b for a, b in pairwise(difficulties))


def _resumable(make: Callable[[int], Controller], seed: int) -> bool:
    original = Student(make(LEVELS), 0.0, seed)
    original.settle(20)
    copy = Student(make(LEVELS), 0.0, seed)
    copy.controller.load_state_dict(json.loads(json.dumps(original.controller.state_dict())))
    copy.random.bit_generator.state = original.random.bit_generator.state
    rates = [(original.step(), copy.step()) for _ in range(20)]
    same = original.controller.state_dict() == copy.controller.state_dict()
    return same and all(a == b for a, b in rates)
