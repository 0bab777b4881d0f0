"""Answers whose writing counts: numbers, words, times of day, and numerals in a base.

math-verify compares values. To it `636 * 60` is the answer to "What is 636 * 60?", a word is a
product of letters in any order, and what stands in `\\text{...}` is nothing. Where the reference
is of one of these kinds, an answer has to be of it as well; the rest stays undecided.
"""

from __future__ import annotations

import re

from .rationals import NUMBER, Scalar, parse_value, same

_TEXT = re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
# A number and then, at most, words: units that `rationals` does not know. Digits, operators and
# other commands would be something to work out.
_SETTLED = re.compile(
    rf"\s*[+-]?\s*[$€£¥]?\s*[+-]?\s*(?:{NUMBER})(?P<words>[A-Za-z%°$€£¥ ,.'/()-]*)", re.VERBOSE
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_WORD = re.compile(r"[A-Za-z]{4,}|[A-Z]{2,}")  # shorter ones may be products of variables
_TIME = re.compile(r"\d{1,2}:\d{2}")
_BASED = re.compile(r"([0-9A-Za-z]+) ?_ ?(?:\{\s*(\d+)\s*\}|(\d+))")


def as_written(answer: str, reference: str) -> bool | None:
    """Whether a normalised answer is right; None where its value has to decide."""
    if isinstance(number := parse_value(reference), Scalar):
        return _number(answer, number)
    if based := _BASED.fullmatch(_plain(reference)):
        return _based(_plain(answer), based)
    plain = _plain(reference)
    if _TIME.search(plain) or (_WORDS.fullmatch(plain) and _is_text(reference, plain)):
        return _letters(answer) == _letters(reference)
    return None


def _number(answer: str, reference: Scalar) -> bool | None:
    """Of `x = 5`, and of `2 + 3 = 5`, what stands last is the answer."""
    last = answer.rpartition("=")[2].strip()
    value = parse_value(last)
    if isinstance(value, Scalar):
        return same(reference, value)
    return None if _SETTLED.fullmatch(_plain(last)) else False


def _based(answer: str, reference: re.Match[str]) -> bool:
    digits, base = reference[1], reference[2] or reference[3]
    given = _BASED.fullmatch(answer)
    if given is None:  # the question has named the base
        return answer.casefold() == digits.casefold()
    return (given[1].casefold(), given[2] or given[3]) == (digits.casefold(), base)


def _is_text(reference: str, plain: str) -> bool:
    return plain != reference or _WORD.search(plain) is not None


def _plain(text: str) -> str:
    """Without the commands that say that something is text."""
    return " ".join(_TEXT.sub(r" \1 ", text).split())


def _letters(text: str) -> str:
    """What two texts are compared by: case, spacing and stops are nobody's mistake."""
    return re.sub(r"[\s.,;:!?'\"()-]+", "", _plain(text)).casefold()
