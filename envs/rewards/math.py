"""Grade a mathematical answer against a reference.

Four steps, each only when the one before is undecided: the same text, the same number by
exact arithmetic (`rationals.py`, microseconds), what counts as it is written (`written.py`), and
math-verify (Hugging Face, the field's usual grader) in a worker process with a hard limit
(`verifier.py`, milliseconds).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..types import Invalid
from .extraction import DEFAULT_FORMATS, extract_answer, last_boxed
from .rationals import MAX_LENGTH, normalise, parse_value, same_value
from .verifier import Verdict, VerifierError, VerifierPool, default_pool
from .written import as_written

Method = Literal["exact", "rational", "written", "math-verify", "none"]


@dataclass(frozen=True, slots=True)
class MathGrade:
    """A verdict, what was graded, and which step decided (`none`: nothing could)."""

    correct: bool
    extracted: str | None
    method: Method


def grade_math(
    answer_text: str,
    reference: str,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    pool: VerifierPool | None = None,
) -> MathGrade | Invalid:
    """Whether the final answer in `answer_text` equals `reference`.

    No answer, an answer that math-verify cannot read, and one that makes it exceed its
    limit are not correct (method `none`). A lost verifier is `Invalid("verifier", ...)`.
    Safe in any thread. `formats` is explained at `extract_answer`.
    """
    grade = _grade_cheaply(answer_text, reference, formats)
    if grade.method != "none" or not _worth_asking(grade.extracted):
        return grade
    assert grade.extracted is not None
    try:
        request = _request(grade.extracted, reference)
        verdict = (pool or default_pool()).ask("math-verify", request)
    except VerifierError as error:
        return Invalid("verifier", str(error))
    return _conclude(grade, verdict)


async def agrade_math(
    answer_text: str,
    reference: str,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    pool: VerifierPool | None = None,
) -> MathGrade | Invalid:
    """`grade_math` for an event loop, which it never blocks on math-verify."""
    grade = _grade_cheaply(answer_text, reference, formats)
    if grade.method != "none" or not _worth_asking(grade.extracted):
        return grade
    assert grade.extracted is not None
    try:
        request = _request(grade.extracted, reference)
        verdict = await (pool or default_pool()).aask("math-verify", request)
    except VerifierError as error:
        return Invalid("verifier", str(error))
    return _conclude(grade, verdict)


def grade_math_batch(
    answer_texts: Sequence[str],
    references: Sequence[str],
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    pool: VerifierPool | None = None,
) -> list[MathGrade | Invalid]:
    """`grade_math` for many pairs, with every worker of the pool kept busy."""
    if len(answer_texts) != len(references):
        raise ValueError(
            f"need one reference per answer: got {len(answer_texts)} answers "
            f"and {len(references)} references"
        )
    pool = pool or default_pool()
    return list(
        pool.threads.map(
            lambda pair: grade_math(*pair, formats=formats, pool=pool),
            zip(answer_texts, references, strict=True),
        )
    )


def _reference(reference: str) -> str:
    """References come as bare answers, and in some files still inside their box."""
    return last_boxed(reference) or reference


def _grade_cheaply(text: str, reference: str, formats: Sequence[str]) -> MathGrade:
    extracted = extract_answer(text, formats)
    if extracted is None:
        return MathGrade(False, None, "none")
    answer, gold = normalise(extracted), normalise(_reference(reference))
    if answer and answer == gold:
        return MathGrade(True, extracted, "exact")
    answer_value, gold_value = parse_value(answer), parse_value(gold)
    if answer_value is not None and gold_value is not None:
        verdict = same_value(gold_value, answer_value)
        if verdict is not None:
            return MathGrade(verdict, extracted, "rational")
    verdict = as_written(answer, gold)
    return MathGrade(bool(verdict), extracted, "none" if verdict is None else "written")


def _worth_asking(extracted: str | None) -> bool:
    # A parser's time grows steeply with length, and no answer of that size is right.
    return extracted is not None and len(extracted) <= MAX_LENGTH


def _request(extracted: str, reference: str) -> dict[str, str]:
    return {"answer": normalise(extracted), "reference": normalise(_reference(reference))}


def _conclude(grade: MathGrade, verdict: Verdict) -> MathGrade:
    if verdict.status != "ok":
        return grade
    return MathGrade(bool(verdict.value), grade.extracted, "math-verify")


async def agrade_math_batch(
    answer_texts: Sequence[str],
    references: Sequence[str],
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    pool: VerifierPool | None = None,
) -> list[MathGrade | Invalid]:
    """`grade_math_batch` for an event loop."""
    pairs = zip(answer_texts, references, strict=True)
    return await asyncio.gather(*(agrade_math(a, r, formats=formats, pool=pool) for a, r in pairs))
