"""Rewards: graders, format checks, and how parts are put together.

A grader returns a value or `Invalid`; nothing here turns a lost verifier into a zero.
"""

from .composition import Gated, Weighted, first_invalid, gated, weighted
from .extraction import extract_answer
from .format import ends_after, has_one_box, has_one_tag, has_tags_in_order
from .math import MathGrade, agrade_math, agrade_math_batch, grade_math, grade_math_batch
from .reasoning import ascore_reasoning, score_reasoning
from .verifier import Verdict, VerifierError, VerifierPool, default_pool

__all__ = [
    "Gated",
    "MathGrade",
    "Verdict",
    "VerifierError",
    "VerifierPool",
    "Weighted",
    "agrade_math",
    "agrade_math_batch",
    "ascore_reasoning",
    "default_pool",
    "ends_after",
    "extract_answer",
    "first_invalid",
    "gated",
    "grade_math",
    "grade_math_batch",
    "has_one_box",
    "has_one_tag",
    "has_tags_in_order",
    "score_reasoning",
    "weighted",
]
