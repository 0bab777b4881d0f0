"""What is decided about an answer before its family's scorer sees it.

Some scorers evaluate the answer: by Python's `eval` or by sympy's parser, which is `eval` too.
An answer that were a program would share a process with its own verdict, whatever the walls
around both, and a function such as `Integral` can restate the question. So an answer to
these families must be plain data or plain algebra: anything else scores 0, unevaluated.

The families were found by reading the scorers of reasoning-gym 0.1: those not named here
compare text or numbers, or read JSON.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping
from typing import Any

from ..countdown import countdown_fault

MAX_LENGTH = 1 << 20  # characters of an answer; a matrix of 100 x 100 has 30 thousand
_MAX_CODE = 20_000  # of one that Python's parser reads here

# Families whose scorer evaluates an answer that differs from the reference, since it may be a
# list written as Python; and the characters of a plain answer, which can name nothing.
_LISTS = {
    "binary_matrix": re.compile(r"[\d\s]*"),
    "n_queens": re.compile(r"[Q_\s]*"),
    "spiral_matrix": re.compile(r"[-\d\s]*"),
    "string_insertion": re.compile(r"[A-E]*"),
}
_ELEMENTARY = frozenset(
    ("Abs", "Rational", "abs", "acos", "acosh", "acot", "asin", "asinh", "atan", "atanh", "cbrt",
     "cos", "cosh", "cot", "coth", "csc", "erf", "exp", "ln", "log", "sec", "sin", "sinh", "sqrt",
     "tan", "tanh")
)  # fmt: skip
# Families whose scorer has sympy read the answer, and the functions that answers may call. The
# product of polynomials has to be worked out: `expand(...)` would be the question again.
_ALGEBRA: dict[str, Collection[str]] = {
    "intermediate_integration": _ELEMENTARY,
    "polynomial_multiplication": (),
    "simple_integration": _ELEMENTARY,
}
_CONSTANTS = frozenset(("E", "pi"))
_LETTER = re.compile(r"[A-Za-z](?:_?\d)?")  # a variable, or somebody's constant of integration
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.UAdd, ast.USub)
_SYNTAX = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Load, *_OPERATORS)


def settle(family: str, entry: Mapping[str, Any], answer: str) -> float | None:
    """The score of an answer that needs no scorer, or must not meet it; None for the others."""
    if len(answer) > MAX_LENGTH:
        return 0.0
    if family == "game_of_life_halting":
        # reasoning-gym 0.1 compares bool(answer), which is True for every text.
        return float(answer.strip().lower() == str(entry["answer"]).lower())
    if family in ("countdown", "puzzle24"):
        # Both scorers evaluate; the second does not compare the numbers, and rounds to 24.
        known = entry["metadata"]
        return float(countdown_fault(answer, known["numbers"], known.get("target", 24)) is None)
    if family in _LISTS:
        plain = _LISTS[family].fullmatch(answer) is not None
        return None if plain or _is_literal_list(answer) else 0.0
    if family in _ALGEBRA:
        return None if _is_algebra(answer, _ALGEBRA[family], entry["metadata"]) else 0.0
    return None


def _is_literal_list(text: str) -> bool:
    try:
        return isinstance(ast.literal_eval(text.strip()), list | tuple)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return False


def _is_algebra(text: str, functions: Collection[str], metadata: Mapping[str, Any]) -> bool:
    """Whether `text` is made of numbers, variables, `+ - * / **` and calls of `functions`."""
    if len(text) > _MAX_CODE or not text.isascii():
        return False
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    variables = {metadata.get("variable"), *metadata.get("variables", ())} | _CONSTANTS
    return all(_is_allowed(node, functions, variables) for node in nodes)


def _is_allowed(node: ast.AST, functions: Collection[str], variables: Collection[Any]) -> bool:
    match node:
        case ast.Constant(value=value):
            return type(value) in (int, float)
        case ast.Name(id=name):
            return name in functions or name in variables or bool(_LETTER.fullmatch(name))
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return name in functions
    return isinstance(node, _SYNTAX)
