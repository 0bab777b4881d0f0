"""A whole suite of environments (`envs/suites`): played into one folder, shown in one table.

runs/<name>/
  config.json, environment.json, result.json     as of any evaluation
  environments/<name>/                           of each: its samples and its result
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

from ...envs.core import ChatEnv
from ...envs.registration import maker
from ...envs.suites import Entry, Suite
from ...envs.types import Task
from ..agent import Agent
from ..engines.base import Engine, SamplingParams
from ..rollout import EnvPool, RolloutLimits
from ..runlog import write_json
from .result import EvalResult
from .runner import Progress, evaluate
from .statistics import Estimate, mean_of_means

OnProgress = Callable[[str, Progress], None]


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """An evaluated agent on a suite.

    Attributes:
        name: of the agent.
        suite: the suite's name.
        results: of each environment, by its name in the suite.
        reward_ranges: the lowest and the highest reward of each.
    """

    name: str
    suite: str
    results: Mapping[str, EvalResult]
    reward_ranges: Mapping[str, tuple[float, float]]

    @property
    def aggregate(self) -> Estimate:
        """The mean of the environments' scores, each counting the same; see `mean_of_means`.

        NaN where an environment has no score, as all its episodes were invalid, and where the
        rewards have different ranges, or none: these have no mean.
        """
        ranges = set(self.reward_ranges.values())
        if len(ranges) != 1 or not all(map(math.isfinite, ranges.pop())):
            return Estimate(math.nan)
        return mean_of_means([result.score for result in self.results.values()])

    @property
    def level(self) -> float:
        """Of every interval."""
        return next(iter(self.results.values())).level

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "suite": self.suite,
            "level": self.level,
            "aggregate": self.aggregate.to_dict(),
            "environments": {
                name: {"reward_range": list(self.reward_ranges[name]), **result.to_dict()}
                for name, result in self.results.items()
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        found = data["environments"]
        return cls(
            data["name"],
            data["suite"],
            {name: EvalResult.from_dict(one) for name, one in found.items()},
            {name: _range(one["reward_range"]) for name, one in found.items()},
        )


@dataclass(frozen=True, slots=True)
class Exam:
    """One environment with the tasks and limits of its entry, ready to be played."""

    entry: Entry
    pool: EnvPool
    tasks: Sequence[Task]
    reward_range: tuple[float, float]

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Make the environment and take its first tasks.

        Raises:
            EnvNotFoundError, ValueError: it is unknown, or cannot be made with these options.
        """
        make = maker(entry.id, **entry.settings())
        first = cast("ChatEnv", make().unwrapped)
        pool = EnvPool(lambda: cast("ChatEnv", make().unwrapped), first)
        tasks = [first.tasks[i] for i in range(min(entry.tasks, len(first.tasks)))]
        return cls(entry, pool, tasks, first.reward_range)

    async def play(
        self, engine: Engine, *, opponent: Engine | None = None, **options: Any
    ) -> EvalResult:
        """Evaluate the model in `engine`, in a game against that in `opponent` (default: itself);
        `options` are those of `evaluate`."""
        entry = self.entry
        sampling = SamplingParams(entry.max_tokens, entry.temperature)
        return await evaluate(
            self.pool,
            Agent(engine, sampling),
            self.tasks,
            samples=entry.samples,
            limits=RolloutLimits(entry.max_tokens, entry.timeout_s),
            opponents=Agent(opponent, sampling) if opponent else None,
            **options,
        )

    def close(self) -> None:
        self.pool.close()


async def evaluate_suite(
    suite: Suite,
    engine: Engine,
    *,
    name: str = "",
    folder: Path | None = None,
    progress: OnProgress | None = None,
    **options: Any,
) -> SuiteResult:
    """Play every environment of a suite, one after the other, and summarise.

    All are made before the first is played, so that a mistake in the last is told at once.

    Args:
        name: of the agent, for tables (default: the engine's).
        folder: where everything goes; None keeps nothing.
        progress: called after each sample with the environment's name.
        options: `seed`, `concurrency`, `resume` and `level` of `evaluate`.

    Raises:
        EnvNotFoundError, ValueError: an environment is unknown or cannot be made so.
        FileExistsError: `folder` holds samples and `resume` is not set.
    """
    name = name or engine.name
    results = {}
    with ExitStack() as opened:
        exams = {
            key: opened.enter_context(closing(Exam.of(entry)))
            for key, entry in suite.environments.items()
        }
        for key, exam in exams.items():
            results[key] = await exam.play(
                engine,
                name=name,
                folder=folder / "environments" / key if folder else None,
                progress=partial(progress, key) if progress else None,
                **options,
            )
    ranges = {key: exam.reward_range for key, exam in exams.items()}
    result = SuiteResult(name, suite.name, results, ranges)
    if folder:
        write_json(folder / "result.json", result.to_dict())
    return result


def suite_folders(folder: Path) -> dict[str, Path]:
    """The evaluations in the run folder of a suite, by name, as far as they were begun."""
    samples = (folder / "environments").glob("*/trajectories/samples.jsonl")
    return {path.parents[1].name: path.parents[1] for path in sorted(samples)}


def _range(stored: list[float | None]) -> tuple[float, float]:
    """JSON has no infinity: null stands for it."""
    low, high = stored
    return -math.inf if low is None else low, math.inf if high is None else high
