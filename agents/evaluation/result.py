"""What an evaluation found: estimates with intervals, and the row of each task behind them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Self

from ...envs.types import Group, Outcome, StopReason, Trajectory
from .statistics import (
    Estimate,
    PairedDifference,
    mean_interval,
    paired_difference,
    pass_at_k_interval,
)


@dataclass(frozen=True, slots=True)
class TaskRow:
    """The samples of one task, one entry each, in order of their index."""

    task_id: str
    rewards: tuple[float | None, ...]
    correct: tuple[bool | None, ...]
    stop_reasons: tuple[str, ...]
    calls: tuple[int, ...]
    passed: tuple[int, ...]
    model_tokens: tuple[int, ...]
    tool_tokens: tuple[int, ...]

    @classmethod
    def of(cls, group: Group) -> Self:
        members = group.trajectories
        return cls(
            group.task.id,
            tuple(t.reward for t in members),
            tuple(t.correct for t in members),
            tuple(t.stop_reason.value for t in members),
            tuple(t.tools.calls for t in members),
            tuple(t.tools.ok for t in members),
            tuple(t.num_sampled for t in members),
            tuple(t.num_observed for t in members),
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        lists = {name: tuple(data[name]) for name in cls.__slots__ if name != "task_id"}
        return cls(task_id=data["task_id"], **lists)

    @property
    def mean_reward(self) -> float:
        """Over the valid samples; NaN without any."""
        rewards = [r for r in self.rewards if r is not None]
        return fmean(rewards) if rewards else math.nan


@dataclass(frozen=True, slots=True)
class EvalResult:
    """An evaluated agent on one task set.

    `estimates` holds, each with its interval clustered by task: `score` (mean reward),
    `accuracy` and `pass@k` (where a verifier judged), `tool_share`, `calls`, `model_tokens`,
    `tool_tokens` and `truncated` over the valid samples, `pass_ratio` over the executed
    calls, and `invalid` over all samples. Invalid samples enter nothing but `invalid`.
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
        groups: Iterable[Group],
        *,
        name: str = "",
        level: float = 0.95,
        settings: Mapping[str, Any] | None = None,
    ) -> Self:
        """Summarise finished groups (one per task)."""
        groups = list(groups)
        members = [t for group in groups for t in group.trajectories]
        env_id = next((t.env_id for t in members), "")
        estimates = _estimates(groups, level)
        rows = tuple(TaskRow.of(group) for group in groups)
        return cls(name or env_id, env_id, estimates, rows, level, dict(settings or {}))

    @property
    def score(self) -> Estimate:
        return self.estimates["score"]

    @property
    def num_samples(self) -> int:
        return sum(len(row.rewards) for row in self.rows)

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


def _values(row: TaskRow, metric: str) -> list[float]:
    values: Sequence[float | None] = row.rewards if metric == "score" else row.correct
    valid = (value for value, reward in zip(values, row.rewards, strict=True) if reward is not None)
    return [float(value) for value in valid if value is not None]


def _estimates(groups: Sequence[Group], level: float) -> dict[str, Estimate]:
    def over_valid(measure: Callable[[Trajectory], float | None]) -> Estimate:
        values = [[measure(t) for t in group.valid] for group in groups]
        return mean_interval([[v for v in task if v is not None] for task in values], level)

    estimates = {"score": over_valid(lambda t: t.reward)}
    judged = [[t.correct for t in group.valid if t.correct is not None] for group in groups]
    if any(judged):
        estimates["accuracy"] = over_valid(lambda t: t.correct)
        for k in _ks(judged):
            estimates[f"pass@{k}"] = pass_at_k_interval(judged, k, level)
    estimates["tool_share"] = over_valid(lambda t: t.tools.calls > 0)
    estimates["calls"] = over_valid(lambda t: t.tools.calls)
    estimates["pass_ratio"] = _pass_ratio(groups)
    estimates["model_tokens"] = over_valid(lambda t: t.num_sampled)
    estimates["tool_tokens"] = over_valid(lambda t: t.num_observed)
    estimates["truncated"] = over_valid(lambda t: t.outcome is Outcome.TRUNCATED)
    everything = [[float(t.outcome is Outcome.INVALID) for t in g.trajectories] for g in groups]
    estimates["invalid"] = mean_interval(everything, level)
    return estimates


def _ks(judged: Sequence[Sequence[bool]]) -> list[int]:
    """2, 4, 8, ... and the number of samples itself; k = 1 is the accuracy."""
    most = max(len(task) for task in judged)
    return sorted({k for k in (*(2**i for i in range(1, 20)), most) if 2 <= k <= most})


def _pass_ratio(groups: Sequence[Group]) -> Estimate:
    """A ratio of sums, so given without an interval."""
    used = [group for group in groups if any(t.tools.calls for t in group.valid)]
    calls = sum(t.tools.calls for group in used for t in group.valid)
    passed = sum(t.tools.ok for group in used for t in group.valid)
    return Estimate(passed / calls if calls else math.nan, count=len(used))


def stop_reasons(result: EvalResult) -> dict[str, int]:
    """How many samples ended for each reason, the most frequent first, absent ones left out."""
    ended = [reason for row in result.rows for reason in row.stop_reasons]
    counts = {reason.value: ended.count(reason.value) for reason in StopReason}
    return {r: n for r, n in sorted(counts.items(), key=lambda item: -item[1]) if n}
