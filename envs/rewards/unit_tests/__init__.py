"""Unit tests as a reward: a program's answers, held against expected values outside of it."""

from .grading import BUDGET_S, LIMITS, Failure, Report, arun_tests, run_tests
from .inside import NotPlainError, decode, encode
from .spec import (
    Call,
    CheckTests,
    FunctionTests,
    StdioCase,
    StdioTests,
    UnitTests,
    unit_tests_from_json,
    unit_tests_to_json,
)
from .translate import UnsupportedTestError

__all__ = [
    "BUDGET_S",
    "LIMITS",
    "Call",
    "CheckTests",
    "Failure",
    "FunctionTests",
    "NotPlainError",
    "Report",
    "StdioCase",
    "StdioTests",
    "UnitTests",
    "UnsupportedTestError",
    "arun_tests",
    "decode",
    "encode",
    "run_tests",
    "unit_tests_from_json",
    "unit_tests_to_json",
]
