"""Check an answer to a Countdown problem: an expression over given numbers that makes a target.

The expression is parsed here, never evaluated by Python or sympy, and computed with rationals.

    expression := term (("+" | "-") term)*
    term       := factor (("*" | "/") factor)*
    factor     := ("+" | "-")* (number | "(" expression ")" | "[" expression "]"
                                | "\\frac{" expression "}{" expression "}")

Numbers are whole, and operators must be written: `2(3)` is no product. LaTeX and Unicode
spellings of the operators count (`\\times`, `\\cdot`, `\\div`, `×`, `÷`). An answer may end in
`= target`. A sign before a bracket or a number is allowed where `-` is: it makes no positive
target that could not be made without.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from .rationals import normalise

MAX_LENGTH = 1000  # characters of an answer; more than any set of numbers needs
_MAX_DEPTH = 60  # of brackets and signs
OPERATIONS = "+-*/"
_SPELLINGS = (
    (re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])|[×·⋅∗]"), "*"),
    (re.compile(r"\\div(?![A-Za-z])|[÷]"), "/"),
)
_TOKEN = re.compile(r"\s*([0-9]+|\\frac|[-+*/()\[\]{}])")
_CLOSING = {"(": ")", "[": "]"}


class ExpressionError(ValueError):
    """The text is no expression of this kind, or divides by zero."""


@dataclass(frozen=True, slots=True)
class Expression:
    """What an expression comes to, and what it is made of."""

    value: Fraction
    numbers: tuple[int, ...]
    operations: frozenset[str]


def countdown_fault(
    answer: str, numbers: Sequence[int], target: int, operations: str = OPERATIONS
) -> str | None:
    """What is wrong with an answer; None when it is right.

    Right: an expression in `operations` that uses each of `numbers` exactly once (one that
    stands there twice, twice) and no other, and equals `target` exactly.
    """
    text, equals, claimed = answer.partition("=")
    try:
        found = parse_expression(text)
        if equals and parse_expression(claimed) != Expression(Fraction(target), (target,), _NONE):
            return f"what follows the equals sign is not {target}"
    except ExpressionError as error:
        return str(error)
    if Counter(found.numbers) != Counter(numbers):
        return f"uses {sorted(found.numbers)}, not each of {sorted(numbers)} exactly once"
    if found.operations - set(operations):
        return f"uses {' '.join(sorted(found.operations))}, but only {operations} are allowed"
    return None if found.value == target else f"makes {found.value}, not {target}"


def parse_expression(text: str) -> Expression:
    """Read and compute an expression.

    Raises:
        ExpressionError: it is longer than `MAX_LENGTH`, malformed, or divides by zero.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"longer than {MAX_LENGTH} characters")
    text = normalise(text)
    for pattern, sign in _SPELLINGS:
        text = pattern.sub(sign, text)
    parser = _Parser(list(_tokens(text)))
    value = parser.sum()
    if parser.tokens:
        raise ExpressionError(f"{parser.tokens[-1]!r} is not expected there")
    return Expression(value, tuple(parser.numbers), frozenset(parser.operations))


def _tokens(text: str) -> Iterator[str]:
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ExpressionError(f"{text[place : place + 10]!r} is no part of an expression")
        place = match.end()
        yield match[1]


@dataclass
class _Parser:
    """Recursive descent, over the tokens in reverse so that the next one is the last."""

    tokens: list[str]
    numbers: list[int] = field(default_factory=list)
    operations: set[str] = field(default_factory=set)
    depth: int = 0

    def __post_init__(self) -> None:
        self.tokens.reverse()

    def sum(self) -> Fraction:
        return self._chain("+-", self._product)

    def _product(self) -> Fraction:
        return self._chain("*/", self._factor)

    def _chain(self, signs: str, part: Callable[[], Fraction]) -> Fraction:
        value = part()
        while self.tokens and self.tokens[-1] in signs:
            value = self._apply(self.tokens.pop(), value, part())
        return value

    def _apply(self, sign: str, left: Fraction, right: Fraction) -> Fraction:
        self.operations.add(sign)
        if sign == "/":
            if right == 0:
                raise ExpressionError("divides by zero")
            return left / right
        return left + right if sign == "+" else left - right if sign == "-" else left * right

    def _factor(self) -> Fraction:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise ExpressionError("is nested too deep")
        token = self.tokens.pop() if self.tokens else ""
        if token.isdigit():
            value = Fraction(int(token))
            self.numbers.append(int(token))
        elif token in ("+", "-"):
            value = self._signed(token)
        elif token in _CLOSING:
            value = self._until(_CLOSING[token])
        elif token == "\\frac":
            value = self._apply("/", self._braced(), self._braced())
        else:
            raise ExpressionError(f"{token!r} is not expected there" if token else "is incomplete")
        self.depth -= 1
        return value

    def _signed(self, sign: str) -> Fraction:
        if sign == "+":
            return self._factor()
        self.operations.add(sign)
        return -self._factor()

    def _until(self, closing: str) -> Fraction:
        value = self.sum()
        self._expect(closing)
        return value

    def _braced(self) -> Fraction:
        self._expect("{")
        return self._until("}")

    def _expect(self, token: str) -> None:
        if not self.tokens or self.tokens.pop() != token:
            raise ExpressionError(f"{token!r} is missing")


_NONE: frozenset[str] = frozenset()
