"""Evaluation: run an agent over tasks, and say what the numbers are worth."""

from .report import (
    difference_table,
    results_table,
    suite_difference_table,
    suite_table,
    tasks_table,
)
from .result import EvalResult, Sample, TaskRow, compare, stop_reasons
from .runner import Progress, evaluate, measures, read_samples
from .statistics import (
    Estimate,
    PairedDifference,
    mean_interval,
    mean_of_means,
    paired_difference,
    pass_at_k,
    wilson,
)
from .suite import Exam, SuiteResult, evaluate_suite, suite_folders

__all__ = [
    "Estimate",
    "EvalResult",
    "Exam",
    "PairedDifference",
    "Progress",
    "Sample",
    "SuiteResult",
    "TaskRow",
    "compare",
    "difference_table",
    "evaluate",
    "evaluate_suite",
    "mean_interval",
    "mean_of_means",
    "measures",
    "paired_difference",
    "pass_at_k",
    "read_samples",
    "results_table",
    "stop_reasons",
    "suite_difference_table",
    "suite_folders",
    "suite_table",
    "tasks_table",
    "wilson",
]
