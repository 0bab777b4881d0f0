"""Grade an answer the way its task asks for: by its value, or by the rules of its kind.

Most tasks have a reference, and an answer is right when it equals that. Two kinds have answers
of which many are right, and say so in their metadata: Countdown problems, and those of
reasoning-gym families, whose own scorers decide.
"""

from __future__ import annotations

from ..rewards.countdown import countdown_fault
from ..rewards.extraction import extract_answer
from ..rewards.math import agrade_math
from ..rewards.rationals import Scalar, normalise, parse_value
from ..rewards.reasoning import ascore_reasoning
from ..tasks.countdown import GRADER
from ..types import Invalid, Task


async def is_right(text: str, task: Task) -> bool | Invalid:
    """Whether the final answer in `text` (see `extract_answer`) solves `task`."""
    if task.metadata.get("grader") == GRADER:
        return _solves(extract_answer(text), task)
    if "family" in task.metadata and "entry" in task.metadata:
        return await _scores_in_full(text, task)
    verdict = await agrade_math(text, task.reference)
    return verdict if isinstance(verdict, Invalid) else verdict.correct


def _solves(answer: str | None, task: Task) -> bool:
    rules = task.metadata
    if answer is None:
        return False
    fault = countdown_fault(answer, rules["numbers"], rules["target"], rules["operations"])
    return fault is None


async def _scores_in_full(text: str, task: Task) -> bool | Invalid:
    """The family's scorer gives all; or the reference is a number, and the answer is that one.

    Scorers compare numbers as text, and refuse 1,234 for 1234.
    """
    if isinstance(parse_value(normalise(task.reference)), Scalar):
        verdict = await agrade_math(text, task.reference)
        if isinstance(verdict, Invalid) or verdict.correct:
            return verdict if isinstance(verdict, Invalid) else True
    score = await ascore_reasoning(extract_answer(text), task)
    return score if isinstance(score, Invalid) else score >= 1.0
