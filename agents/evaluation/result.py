"""What an evaluation found: estimates with intervals, and the row of each task behind them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Self

from ...envs.types import Group, Outcome, StopReason, Task, Trajectory
from ..matches import SEAT
from .statistics import (
    Estimate,
    PairedDifference,
    mean_interval,
    paired_difference,
    pass_at_k_interval,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the statistics need of one response; its transcript stays in the run folder."""

    reward: float | None
    correct: bool | None
    stop_reason: StopReason
    calls: int
    passed: int
    model_tokens: int
    tool_tokens: int
    parts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, trajectory: Trajectory) -> Self:
        return cls(
            trajectory.reward,
            trajectory.correct,
            trajectory.stop_reason,
            trajectory.tools.calls,
            trajectory.tools.ok,
            trajectory.num_sampled,
            trajectory.num_observed,
            dict(trajectory.reward_parts),
        )

    @property
    def outcome(self) -> Outcome:
        return Outcome.of(self.stop_reason)

    @property
    def unfit(self) -> bool:
        """Whether the first prompt alone filled the model's context, so that nothing was said."""
        return self.stop_reason is StopReason.CONTEXT_OVERFLOW and not self.model_tokens


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task and its samples, in order of their index."""

    task_id: str
    samples: tuple[Sample, ...]
    seat: str = ""  # whose side was played, in a game with seats

    @classmethod
    def of(cls, task: Task, samples: Iterable[Sample]) -> Self:
        return cls(task.id, tuple(samples), task.metadata.get(SEAT, ""))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        samples = ({**s, "stop_reason": StopReason(s["stop_reason"])} for s in data["samples"])
        return cls(data["task_id"], tuple(Sample(**s) for s in samples), data.get("seat", ""))

    @property
    def valid(self) -> tuple[Sample, ...]:
        return tuple(s for s in self.samples if s.reward is not None)

    @property
    def rewards(self) -> list[float]:
        """Of the valid samples."""
        return [s.reward for s in self.samples if s.reward is not None]

    @property
    def judged(self) -> list[bool]:
        """Whether each valid sample is correct, where a verifier said so or not."""
        return [s.correct for s in self.valid if s.correct is not None]

    @property
    def mean_reward(self) -> float:
        """Over the valid samples; NaN without any."""
        return fmean(self.rewards) if self.rewards else math.nan


@dataclass(frozen=True, slots=True)
class EvalResult:
    """An evaluated agent on one task set.

    `estimates` holds, each with its interval clustered by task: `score` (mean reward),
    `accuracy` and `pass@k` (where a verifier judged), `tool_share`, `calls`, `model_tokens`,
    `tool_tokens` and `truncated` over the valid samples, `pass_ratio` over the executed
    calls, and `invalid` over all samples. Invalid samples enter nothing but `invalid`.
    `part/NAME` is the mean of a part of the reward, which need not be paid, where it is not
    the reward itself; `score/SEAT` that of one side of a game; and without an interval, as they
    are not estimated, come the figures that the environment itself measures of the policy.
    """

    name: str
    env_id: str
    estimates: Mapping[str, Estimate]
    rows: tuple[TaskRow, ...]
    level: float = 0.95
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        rows: Iterable[TaskRow],
        *,
        name: str = "",
        env_id: str = "",
        level: float = 0.95,
        settings: Mapping[str, Any] | None = None,
        measures: Mapping[str, float] | None = None,
    ) -> Self:
        """Summarise rows; `measures` are figures of the policy as a whole."""
        rows = tuple(rows)
        estimates = _estimates(rows, level)
        estimates |= {key: Estimate(value) for key, value in (measures or {}).items()}
        return cls(name or env_id, env_id, estimates, rows, level, settings or {})

    @classmethod
    def of_groups(cls, groups: Sequence[Group], **options: Any) -> Self:
        """Summarise groups already played, one per task; `options` are those of `of`."""
        rows = [TaskRow.of(g.task, map(Sample.of, g.trajectories)) for g in groups]
        env_id = next((t.env_id for g in groups for t in g.trajectories), "")
        return cls.of(rows, env_id=env_id, **options)

    @property
    def score(self) -> Estimate:
        return self.estimates["score"]

    @property
    def num_samples(self) -> int:
        return sum(len(row.samples) for row in self.rows)

    def metrics(self, prefix: str = "eval/") -> dict[str, float]:
        """Flat numbers for a training step's record: `<name>`, `<name>_low`, `<name>_high`."""
        flat: dict[str, float] = {}
        for name, estimate in self.estimates.items():
            flat[f"{prefix}{name}"] = estimate.value
            if not math.isnan(estimate.low):
                flat |= {
                    f"{prefix}{name}_low": estimate.low,
                    f"{prefix}{name}_high": estimate.high,
                }
        return flat

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "env_id": self.env_id,
            "level": self.level,
            "num_tasks": len(self.rows),
            "num_samples": self.num_samples,
            "estimates": {name: e.to_dict() for name, e in self.estimates.items()},
            "settings": dict(self.settings),
            "rows": [asdict(row) for row in self.rows],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            data["name"],
            data["env_id"],
            {name: Estimate.from_dict(e) for name, e in data["estimates"].items()},
            tuple(TaskRow.from_dict(row) for row in data["rows"]),
            data["level"],
            data["settings"],
        )


def compare(first: EvalResult, second: EvalResult, metric: str = "score") -> PairedDifference:
    """The paired difference second minus first in `score` or `accuracy`.

    Raises:
        ValueError: another metric, or results that share no task.
    """
    if metric not in ("score", "accuracy"):
        raise ValueError(f"results are compared by 'score' or 'accuracy', got {metric!r}")
    sides = [{row.task_id: _values(row, metric) for row in r.rows} for r in (first, second)]
    return paired_difference(sides[0], sides[1], level=first.level)


def _values(row: TaskRow, metric: str) -> Sequence[float]:
    return row.rewards if metric == "score" else row.judged


def _estimates(rows: Sequence[TaskRow], level: float) -> dict[str, Estimate]:
    def count(measure: Callable[[Sample], int]) -> Estimate:
        return mean_interval([[measure(s) for s in row.valid] for row in rows], level, least=0.0)

    def share(measure: Callable[[Sample], bool]) -> Estimate:
        values = [[measure(s) for s in row.valid] for row in rows]
        return mean_interval(values, level, proportion=True)

    judged = [row.judged for row in rows]
    rewards = [row.rewards for row in rows]
    same = judged == rewards  # the reward is whether the answer is correct
    estimates = {"score": mean_interval(rewards, level, proportion=same)}
    for seat in dict.fromkeys(row.seat for row in rows if row.seat):
        sides = [row.rewards for row in rows if row.seat == seat]
        estimates[f"score/{seat}"] = mean_interval(sides, level)
    if any(judged):
        estimates["accuracy"] = mean_interval(judged, level, proportion=True)
        for k in _ks(judged):
            estimates[f"pass@{k}"] = pass_at_k_interval(judged, k, level)
    estimates["tool_share"] = share(lambda s: s.calls > 0)
    estimates["calls"] = count(lambda s: s.calls)
    estimates["pass_ratio"] = _pass_ratio(rows)
    estimates["model_tokens"] = count(lambda s: s.model_tokens)
    estimates["tool_tokens"] = count(lambda s: s.tool_tokens)
    estimates["truncated"] = share(lambda s: s.outcome is Outcome.TRUNCATED)
    everything = [[s.outcome is Outcome.INVALID for s in row.samples] for row in rows]
    estimates["invalid"] = mean_interval(everything, level, proportion=True)
    return estimates | _parts(rows, level)


def _parts(rows: Sequence[TaskRow], level: float) -> dict[str, Estimate]:
    """The parts of the reward, each over the samples that have it."""
    found: dict[str, Estimate] = {}
    for name in dict.fromkeys(n for row in rows for s in row.valid for n in s.parts):
        had = [[s for s in row.valid if name in s.parts] for row in rows]
        if any(s.parts[name] != s.reward for row in had for s in row):
            values = [[s.parts[name] for s in row] for row in had]
            found[f"part/{name}"] = mean_interval(values, level)
    return found


def _ks(judged: Sequence[Sequence[bool]]) -> list[int]:
    """2, 4, 8, ... and the number of samples itself; k = 1 is the accuracy."""
    most = max(len(task) for task in judged)
    return sorted({k for k in (*(2**i for i in range(1, 20)), most) if 2 <= k <= most})


def _pass_ratio(rows: Sequence[TaskRow]) -> Estimate:
    """A ratio of sums, so given without an interval."""
    used = [row for row in rows if any(s.calls for s in row.valid)]
    calls = sum(s.calls for row in used for s in row.valid)
    passed = sum(s.passed for row in used for s in row.valid)
    return Estimate(passed / calls if calls else math.nan, count=len(used))


def stop_reasons(result: EvalResult) -> dict[str, int]:
    """How many samples ended for each reason, the most frequent first, absent ones left out."""
    counts = Counter(s.stop_reason.value for row in result.rows for s in row.samples)
    return dict(counts.most_common())
