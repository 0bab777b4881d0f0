"""The controllers, as rows of one table (`CONTROLLERS`). Each names its source and its rule.

What each settles at, for a binary reward with success rate p at the level played:

| controller | rule | settles where |
| --- | --- | --- |
| Bands | up above 0.7, down below 0.3 | 0.3 < p < 0.7 |
| Window | up at 0.9 at the frontier, never down | p near 0.9 at the frontier |
| AdaRFT | integrates tanh(alpha (mean reward - beta)) | p = beta = 0.5 |
| Bandit | samples levels by their mean absolute advantage | around p = 0.5 |
| Replay | samples levels by rank of their L1 value loss | around p = 0.5 |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from statistics import fmean
from typing import Any

import numpy as np

from .base import Controller, Feedback

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class Bands(Controller):
    """One level at a time, moved when the mean score leaves a band.

    Source: Reasoning Gym's coaching (arXiv:2505.24760): after `last_k` scores at a level, a
    mean above `high` raises it by one and a mean below `low` lowers it by one.
    """

    high: float = 0.7
    low: float = 0.3
    last_k: int = 32
    level: int = 0
    scores: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._need(
            (self.low <= self.high, "low <= high"),
            (self.last_k >= 1, "last_k >= 1"),
            (0 <= self.level < self.levels, "a level below levels"),
        )

    def sample(self, random: np.random.Generator) -> int:
        return self.level

    def update(self, feedback: Sequence[Feedback]) -> None:
        for group in feedback:
            if group.level == self.level:
                self.scores += group.rewards
        if len(self.scores) < self.last_k:
            return
        mean = fmean(self.scores[-self.last_k :])
        move = (mean > self.high) - (mean < self.low)
        target = min(max(self.level + move, 0), self.levels - 1)
        # A level that stays keeps its last scores only, so that old skill is forgotten.
        self.scores = [] if target != self.level else self.scores[-self.last_k :]
        self.level = target

    @property
    def difficulty(self) -> float:
        return float(self.level)


@dataclass
class Window(Controller):
    """A window of levels whose upper end moves up and never down.

    Source: RLVE (arXiv:2511.07317): levels are drawn uniformly from the `width` that end at
    the frontier h; only groups at h are counted; after `prompts` of them an accuracy of at
    least `threshold` makes it h + 1, and the count starts again either way.
    """

    width: int = 4
    prompts: int = 8
    threshold: float = 0.9
    frontier: int = 0
    counted: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._need(
            (self.width >= 1, "width >= 1"),
            (self.prompts >= 1, "prompts >= 1"),
            (0 <= self.frontier < self.levels, "a frontier below levels"),
        )

    def sample(self, random: np.random.Generator) -> int:
        return int(random.integers(self._lowest, self.frontier + 1))

    def update(self, feedback: Sequence[Feedback]) -> None:
        for group in feedback:
            if group.level != self.frontier:
                continue
            self.counted.append(group.mean)
            if len(self.counted) >= self.prompts:
                passed = fmean(self.counted) >= self.threshold
                self.frontier = min(self.frontier + passed, self.levels - 1)
                self.counted = []

    @property
    def difficulty(self) -> float:
        return (self._lowest + self.frontier) / 2

    @property
    def _lowest(self) -> int:
        return max(0, self.frontier - self.width + 1)


@dataclass
class AdaRFT(Controller):
    """A target difficulty that integrates how far the mean reward is from the goal.

    Source: AdaRFT (arXiv:2504.05520): T <- clip(T + eta tanh(alpha (R - beta)), 0, 100), and
    the tasks nearest to T are played. The paper's eta of 50 moves T by 38 of its 100 points
    after one batch that is all correct, which oscillates; the default here is 2.
    """

    beta: float = 0.5
    alpha: float = 2.0
    eta: float = 2.0
    target: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._need(
            (self.alpha > 0 and self.eta > 0, "alpha > 0 and eta > 0"),
            (0 <= self.target <= 100, "a target in 0..100"),
        )

    def sample(self, random: np.random.Generator) -> int:
        # Between two levels, in proportion: with few levels "the nearest" would jump.
        below = int(self.difficulty)
        above = min(below + 1, self.levels - 1)
        return above if random.random() < self.difficulty - below else below

    def update(self, feedback: Sequence[Feedback]) -> None:
        if feedback:
            error = fmean(group.mean for group in feedback) - self.beta
            self.target += self.eta * math.tanh(self.alpha * error)
            self.target = min(max(self.target, 0.0), 100.0)

    @property
    def difficulty(self) -> float:
        return self.target / 100 * (self.levels - 1)


@dataclass
class Bandit(Controller):
    """A non-stationary bandit over levels, paid with the mean absolute advantage.

    Source: SEC (arXiv:2505.14970): Q <- (1 - a) Q + a mean|A|, levels drawn with probability
    proportional to exp(Q / temperature). With rewards normalised by the group's standard
    deviation, E|A| = 2 sqrt(p (1 - p)) for a binary reward: greatest at p = 0.5. Every Q
    starts at 1, the greatest there is, so that each level is tried.
    """

    learning_rate: float = 0.3
    temperature: float = 0.1
    values: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.values = self.values or [1.0] * self.levels
        self._need(
            (0 < self.learning_rate <= 1, "a learning_rate in (0, 1]"),
            (self.temperature > 0, "temperature > 0"),
            (len(self.values) == self.levels, "one value per level"),
        )

    def sample(self, random: np.random.Generator) -> int:
        return int(random.choice(self.levels, p=self._shares))

    def update(self, feedback: Sequence[Feedback]) -> None:
        seen: dict[int, list[float]] = {}
        for group in feedback:
            deviation = float(np.std(group.rewards))
            size = group.spread / deviation if deviation > 0 else 0.0
            seen.setdefault(group.level, []).append(size)
        for level, sizes in seen.items():
            change = self.learning_rate * (fmean(sizes) - self.values[level])
            self.values[level] += change

    @property
    def difficulty(self) -> float:
        return float(self._shares @ np.arange(self.levels))

    @property
    def _shares(self) -> Floats:
        weights = np.exp((np.array(self.values) - max(self.values)) / self.temperature)
        return np.asarray(weights / weights.sum(), dtype=np.float64)


@dataclass
class Replay(Controller):
    """Prioritized level replay: by rank of the L1 value loss, mixed with staleness.

    Source: PLR (arXiv:2010.03934): while levels are unseen, one of them is drawn with
    probability 1 - `replay`; else P = (1 - s) P_score + s P_stale, with P_score proportional
    to rank^(-1 / temperature) by score, P_stale to the draws since a level was last played.
    The score of a level is the mean |R - group mean| of its last group.
    """

    replay: float = 0.5
    temperature: float = 0.1
    staleness: float = 0.1
    draws: int = 0
    scores: list[float | None] = field(default_factory=list)
    played: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.scores = self.scores or [None] * self.levels
        self.played = self.played or [0] * self.levels
        self._need(
            (0 <= self.replay <= 1, "replay in 0..1"),
            (self.temperature > 0, "temperature > 0"),
            (0 <= self.staleness <= 1, "staleness in 0..1"),
            (len(self.scores) == len(self.played) == self.levels, "one score per level"),
        )

    def sample(self, random: np.random.Generator) -> int:
        unseen = [level for level, score in enumerate(self.scores) if score is None]
        if unseen and (len(unseen) == self.levels or random.random() >= self.replay):
            level = int(random.choice(unseen))
        else:
            level = int(random.choice(self.levels, p=self._shares))
        self.draws += 1
        self.played[level] = self.draws
        return level

    def update(self, feedback: Sequence[Feedback]) -> None:
        for group in feedback:
            self.scores[group.level] = group.spread

    @property
    def difficulty(self) -> float:
        if all(score is None for score in self.scores):
            return (self.levels - 1) / 2
        return float(self._shares @ np.arange(self.levels))

    @property
    def _shares(self) -> Floats:
        """Of the levels seen so far."""
        seen = np.array([score is not None for score in self.scores])
        scores = np.array([-1.0 if score is None else score for score in self.scores])
        ranks = np.empty(self.levels)
        ranks[np.argsort(-scores, kind="stable")] = np.arange(1, self.levels + 1)
        by_score = np.where(seen, ranks ** (-1 / self.temperature), 0.0)
        stale = np.where(seen, self.draws - np.array(self.played), 0.0)
        shares = by_score / by_score.sum()
        if stale.sum() > 0:
            shares = (1 - self.staleness) * shares + self.staleness * stale / stale.sum()
        return np.asarray(shares, dtype=np.float64)


# What success rates each is after, for `accept`.
TARGETS = {
    "bands": (0.3, 0.7),
    "window": (0.9, 0.9),
    "adarft": (0.5, 0.5),
    "bandit": (0.5, 0.5),
    "replay": (0.5, 0.5),
}
CONTROLLERS: dict[str, type[Controller]] = {
    "bands": Bands,
    "window": Window,
    "adarft": AdaRFT,
    "bandit": Bandit,
    "replay": Replay,
}


def controller_class(name: str) -> type[Controller]:
    """The controller of that name in `CONTROLLERS`.

    Raises:
        ValueError: there is none; the nearest is told.
    """
    if name not in CONTROLLERS:
        near = get_close_matches(name, CONTROLLERS, 1, 0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no curriculum {name!r}, but {', '.join(CONTROLLERS)}{hint}")
    return CONTROLLERS[name]


def make_controller(name: str, levels: int, **options: Any) -> Controller:
    """A controller by its name in `CONTROLLERS`; `options` are its dataclass fields.

    Raises:
        ValueError: unknown name (the nearest is told) or option, or one that cannot work.
    """
    kind = controller_class(name)
    try:
        return kind(levels, **options)
    except TypeError as error:
        raise ValueError(f"curriculum {name!r} cannot be made with {options}: {error}") from error
