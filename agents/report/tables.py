"""The tables of a report: results with intervals, before and after, task by task."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.report import LABELS, format_estimate, format_p, suite_cells
from ..evaluation.result import EvalResult, compare
from ..evaluation.statistics import Estimate
from ..evaluation.suite import SuiteResult

Row = dict[str, Any]
MAX_TASKS = 500


def result_rows(result: EvalResult) -> list[Row]:
    """Each measure with its interval, and as a bar where it is a share."""
    return [_row(name, estimate) for name, estimate in result.estimates.items()]


def suite_rows(result: SuiteResult) -> list[Row]:
    """Each environment of a suite, then the mean of their scores."""
    rows = []
    for name, one in result.results.items():
        score, truncated, invalid = suite_cells(one)
        rows.append({"name": name, "id": one.env_id, "truncated": truncated, "invalid": invalid})
        rows[-1] |= _value(score) | {"tasks": len(one.rows), "samples": one.num_samples}
    mean = format_estimate("score", result.aggregate)
    blank = dict.fromkeys(("id", "truncated", "invalid", "tasks", "samples"), "")
    return [*rows, {"name": "mean of the scores", **blank, **_value(mean)}]


def before_after(folder: Path, metrics: Sequence[Mapping[str, Any]]) -> Row | None:
    """The first held-out evaluation beside the last; None with fewer than two.

    The difference is paired by task where the evaluations were kept whole.
    """
    kept = _kept_evaluations(folder)
    if len(kept) >= 2:
        (first, before), (last, after) = kept[0], kept[-1]
        estimates = (before.estimates, after.estimates)
        differences = [
            _difference(before, after, metric)
            for metric in ("score", "accuracy")
            if metric in before.estimates and metric in after.estimates
        ]
    else:
        steps = [m for m in metrics if any(k.startswith("eval/") for k in m)]
        if len(steps) < 2:
            return None
        first, last = steps[0]["step"], steps[-1]["step"]
        estimates = (_logged(steps[0]), _logged(steps[-1]))
        differences = []
    names = [name for name in estimates[0] if name in estimates[1]]
    rows = [
        {
            "label": LABELS.get(name, name),
            "before": _row(name, estimates[0][name]),
            "after": _row(name, estimates[1][name]),
        }
        for name in names
    ]
    return {"first": first, "last": last, "rows": rows, "differences": differences}


def task_rows(result: EvalResult, prefix: str = "") -> list[Row]:
    """Tasks, the lowest mean reward first."""
    rows = sorted(result.rows, key=lambda r: (math.isnan(r.mean_reward), r.mean_reward))
    return [
        {
            "task": f"{prefix}{row.task_id}",
            "reward": "-" if math.isnan(row.mean_reward) else f"{row.mean_reward:.3f}",
            "correct": f"{sum(row.judged)}/{len(row.judged)}" if row.judged else "-",
            "calls": sum(s.calls for s in row.samples),
            "ended": ", ".join(sorted({s.stop_reason.value for s in row.samples})),
        }
        for row in rows[:MAX_TASKS]
    ]


def _kept_evaluations(folder: Path) -> list[tuple[int, EvalResult]]:
    files = sorted((folder / "evaluations").glob("step-*.json"))
    ends = [files[0], files[-1]] if len(files) >= 2 else []
    return [
        (int(p.stem.removeprefix("step-")), EvalResult.from_dict(json.loads(p.read_text("utf-8"))))
        for p in ends
    ]


def _difference(before: EvalResult, after: EvalResult, metric: str) -> Row:
    d = compare(before, after, metric)
    scale, digits, unit = (100, 1, " points") if metric == "accuracy" else (1, 3, "")
    row = {"label": LABELS.get(metric, metric), "interval": ""}
    row["value"] = f"{scale * d.value:+.{digits}f}{unit}"
    if not math.isnan(d.low):
        low, high = (f"{scale * bound:+.{digits}f}" for bound in (d.low, d.high))
        p = format_p(d.p_value)
        row["interval"] = f"[{low}, {high}], p {p}" if "<" in p else f"[{low}, {high}], p = {p}"
    return row


def _logged(record: Mapping[str, Any]) -> dict[str, Estimate]:
    """Estimates from a step's flat `eval/` metrics."""

    def number(name: str) -> float:
        value = record.get(name)
        return float(value) if isinstance(value, (int, float)) else math.nan

    names = [
        k.removeprefix("eval/")
        for k in record
        if k.startswith("eval/") and not k.endswith(("_low", "_high")) and k.count("/") == 1
    ]
    return {
        name: Estimate(
            number(f"eval/{name}"), number(f"eval/{name}_low"), number(f"eval/{name}_high")
        )
        for name in names
    }


def _row(name: str, estimate: Estimate) -> Row:
    text = format_estimate(name, estimate)
    row: Row = {"label": LABELS.get(name, name), "bar": None, **_value(text)}
    if "%" in text:
        low = estimate.value if math.isnan(estimate.low) else estimate.low
        high = estimate.value if math.isnan(estimate.high) else estimate.high
        row["bar"] = [round(100 * x, 2) for x in (low, high, estimate.value)]
    return row


def _value(text: str) -> Row:
    """What `format_estimate` writes, in two."""
    value, _, interval = text.partition(" [")
    return {"value": value, "interval": f"[{interval}" if interval else ""}
