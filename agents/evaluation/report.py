"""Evaluation results as tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from .result import EvalResult, compare
from .statistics import Estimate
from .suite import SuiteResult

LABELS = {
    "score": "score (mean reward)",
    "tool_share": "responses with a tool call",
    "calls": "calls per response",
    "pass_ratio": "calls without error",
    "model_tokens": "model tokens per response",
    "tool_tokens": "tool tokens per response",
    "truncated": "truncated (budget used up)",
    "invalid": "invalid (not in the score)",
}
SHARES = ("accuracy", "pass@", "tool_share", "pass_ratio", "truncated", "invalid")


def results_table(results: Sequence[EvalResult]) -> Table:
    """One or several results side by side: a row for each measure, with its interval."""
    level = f"{100 * results[0].level:g} % intervals by task" if results else ""
    table = Table(title=_title(results), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(level)
    for result in results:
        table.add_column(Text(result.name), justify="right")
    table.add_row("tasks x samples", *(_size(r) for r in results))
    for name in _in_order(results):
        cells = (r.estimates.get(name) for r in results)
        table.add_row(LABELS.get(name, name), *(format_estimate(name, cell) for cell in cells))
    return table


def difference_table(first: EvalResult, second: EvalResult) -> Table:
    """How much `second` is better than `first` on the tasks that both have, paired."""
    table = _differences(f"{second.name} minus {first.name}", first.level)
    for metric in ("score", "accuracy"):
        if metric in first.estimates and metric in second.estimates:
            table.add_row(*_difference(metric, first, second, metric))
    return table


def _differences(what: str, level: float) -> Table:
    title = Text(f"{what}, paired by task")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("", "difference", f"{100 * level:g} % interval", "p", "tasks", "left out"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    return table


def _difference(label: str, first: EvalResult, second: EvalResult, metric: str) -> tuple[str, ...]:
    d = compare(first, second, metric)
    interval = "-" if math.isnan(d.low) else f"{d.low:+.3f}, {d.high:+.3f}"
    return label, f"{d.value:+.3f}", interval, format_p(d.p_value), str(d.count), str(d.left_out)


def suite_table(result: SuiteResult) -> Table:
    """A suite: a row for each environment, and the mean of their scores."""
    title = Text(f"{result.name} on the suite {result.suite}")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(f"{100 * result.level:g} % intervals by task", no_wrap=True)
    for column in ("score", "truncated", "invalid", "tasks"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, one in result.results.items():
        table.add_row(Text(name), *suite_cells(one), _size(one))
    table.add_section()
    table.add_row("mean of the scores", format_estimate("score", result.aggregate))
    return table


def suite_cells(result: EvalResult) -> tuple[str, str, str]:
    """The score with its interval, and the truncated and the invalid share without theirs."""
    shares = (Estimate(result.estimates[name].value) for name in ("truncated", "invalid"))
    truncated, invalid = map(format_estimate, ("truncated", "invalid"), shares)
    return format_estimate("score", result.score), truncated, invalid


def suite_difference_table(first: SuiteResult, second: SuiteResult) -> Table:
    """How much better `second` scores, environment by environment, paired by task.

    Raises:
        ValueError: the two have no environment with tasks in common.
    """
    shared = [name for name in first.results if name in second.results]
    if not shared:
        raise ValueError(f"{first.suite} and {second.suite} share no environment")
    table = _differences(f"score of {second.name} minus {first.name}", first.level)
    for name in shared:
        table.add_row(*_difference(name, first.results[name], second.results[name], "score"))
    return table


def tasks_table(result: EvalResult, limit: int = 20) -> Table:
    """The tasks with the lowest mean reward first, `limit` of them."""
    rows = sorted(result.rows, key=lambda row: (math.isnan(row.mean_reward), row.mean_reward))
    title = f"{min(limit, len(rows))} of {len(rows)} tasks, lowest reward first"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("task", "mean reward", "correct", "calls", "ended"):
        table.add_column(name, justify="left" if name in ("task", "ended") else "right")
    for row in rows[:limit]:
        correct = f"{sum(row.judged)}/{len(row.judged)}" if row.judged else "-"
        reward = "-" if math.isnan(row.mean_reward) else f"{row.mean_reward:.3f}"
        calls = sum(s.calls for s in row.samples)
        ended = ", ".join(sorted({s.stop_reason.value for s in row.samples}))
        table.add_row(Text(row.task_id), reward, correct, str(calls), ended)
    return table


def format_estimate(name: str, estimate: Estimate | None) -> str:
    """`0.412 [0.350, 0.474]`, in per cent for shares; `-` where nothing is known."""
    if estimate is None or math.isnan(estimate.value):
        return "-"
    share = name.startswith(SHARES)
    scale, digits = (100, 1) if share else (1, 3 if name == "score" else 2)
    value = f"{scale * estimate.value:.{digits}f}" + (" %" if share else "")
    if math.isnan(estimate.low):
        return value
    return f"{value} [{scale * estimate.low:.{digits}f}, {scale * estimate.high:.{digits}f}]"


def format_p(p: float) -> str:
    """Two digits of a p-value; the assumptions behind it carry no further than a millionth."""
    return "< 1e-6" if p < 1e-6 else f"{p:.2g}"


def _title(results: Sequence[EvalResult]) -> Text:
    return Text(", ".join(dict.fromkeys(r.env_id for r in results)))


def _size(result: EvalResult) -> str:
    most = max((len(row.samples) for row in result.rows), default=0)
    return f"{len(result.rows)} x {most}"


def _in_order(results: Sequence[EvalResult]) -> list[str]:
    """Names in the order of the result that has most of them (pass@k may differ)."""
    fullest = max(results, key=lambda r: len(r.estimates), default=None)
    names = dict.fromkeys(fullest.estimates if fullest else ())
    for result in results:
        names |= dict.fromkeys(result.estimates)
    return list(names)
