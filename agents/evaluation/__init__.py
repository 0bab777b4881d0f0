"""Evaluation: run an agent over tasks, and say what the numbers are worth."""

from .report import difference_table, results_table, tasks_table
from .result import EvalResult, Sample, TaskRow, compare, stop_reasons
from .runner import Progress, evaluate, read_samples
from .statistics import (
    Estimate,
    PairedDifference,
    mean_interval,
    paired_difference,
    pass_at_k,
    wilson,
)

__all__ = [
    "Estimate",
    "EvalResult",
    "PairedDifference",
    "Progress",
    "Sample",
    "TaskRow",
    "compare",
    "difference_table",
    "evaluate",
    "mean_interval",
    "paired_difference",
    "pass_at_k",
    "read_samples",
    "results_table",
    "stop_reasons",
    "tasks_table",
    "wilson",
]
