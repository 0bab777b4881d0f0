"""Rewards: graders, format checks, and how parts are put together.

A grader returns a value or `Invalid`; nothing here turns a lost verifier into a zero. What needs
no model can be imported from here; the other families from their files (see README.md):
`reward_model`, `judge`, `rubric`, `group`, `likelihood`, `endogenous`, `process`, `grm`, ...
"""

from .composition import Composed, Gated, Weighted, composed, first_invalid, gated, weighted
from .efficiency import per_call_price
from .extraction import extract_answer
from .format import ends_after, has_one_box, has_one_tag, has_tags_in_order
from .length import soft_overlong
from .math import MathGrade, agrade_math, agrade_math_batch, grade_math, grade_math_batch
from .protocol import JudgeError, Reward, grade_with
from .reasoning import ascore_reasoning, score_reasoning
from .thinking import answer_to_score
from .verifiable import matches_exactly, matches_regex, matches_schema
from .verifier import Verdict, VerifierError, VerifierPool, default_pool

__all__ = [
    "Composed",
    "Gated",
    "JudgeError",
    "MathGrade",
    "Reward",
    "Verdict",
    "VerifierError",
    "VerifierPool",
    "Weighted",
    "agrade_math",
    "agrade_math_batch",
    "answer_to_score",
    "ascore_reasoning",
    "composed",
    "default_pool",
    "ends_after",
    "extract_answer",
    "first_invalid",
    "gated",
    "grade_math",
    "grade_math_batch",
    "grade_with",
    "has_one_box",
    "has_one_tag",
    "has_tags_in_order",
    "matches_exactly",
    "matches_regex",
    "matches_schema",
    "per_call_price",
    "score_reasoning",
    "soft_overlong",
    "weighted",
]
