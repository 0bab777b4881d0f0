"""Rewards: graders, format checks, and how parts are put together."""

from .extraction import extract_answer
from .math import MathGrade, agrade_math, grade_math, grade_math_batch

__all__ = ["MathGrade", "agrade_math", "extract_answer", "grade_math", "grade_math_batch"]
