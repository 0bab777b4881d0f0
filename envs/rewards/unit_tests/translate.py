"""Assert statements as calls and expectations, by reading them and never by running them.

    assert candidate([1, 2], k=3) == 4, "message"     ->  args ([1, 2],), k=3; expected 4

What is understood: `==` and `is` (with None, True, False) between one call of the candidate
and an expression without it; the call alone or under `not`; `abs(call - x) < tolerance`
(also `math.fabs`); all of these joined by `and`. Anything else makes `translate` give
up on the whole test, which then has to run as a check (`CheckTests`). `inside.Evaluator`
evaluates arguments and expectations that are no literals.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from .inside import NotPlainError, encode
from .spec import Call

_ABS = ("abs", "fabs", "math.fabs")


class UnsupportedTestError(ValueError):
    """A test that cannot be graded without showing the program more than it may see."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A call whose expressions may still have to be evaluated, as source text."""

    arguments: str
    expected: str = "None"
    rule: str = "equal"
    tolerance: str = "0.0"


def translate(source: str, candidate: str) -> list[Pending] | None:
    """The calls that the assertions in `source` make of `candidate`; None where it is more
    than a list of assertions.

    `source` is the body of a check, or assertions at module level.

    Raises:
        UnsupportedTestError: `source` is not Python.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UnsupportedTestError(f"the test is not Python: {error}") from error
    return translate_body(body, candidate)


def translate_body(body: list[ast.stmt], candidate: str) -> list[Pending] | None:
    """`translate` for statements that are parsed already."""
    pending: list[Pending] = []
    for statement in body:
        if isinstance(statement, ast.Pass) or _is_constant_expression(statement):
            continue
        if not isinstance(statement, ast.Assert):
            return None
        for test in _conjuncts(statement.test):
            if isinstance(test, ast.Constant) and test.value:
                continue  # `assert True, "..."`
            found = _call(test, candidate)
            if found is None:
                return None
            pending.append(found)
    return pending


def find_check(source: str, name: str = "check") -> tuple[list[ast.stmt], str] | None:
    """Body and parameter name of `def check(candidate)` in `source`; None if it has none.

    Raises:
        UnsupportedTestError: `source` is not Python.
    """
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UnsupportedTestError(f"the test is not Python: {error}") from error
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name == name and len(node.args.args) == 1:
            return node.body, node.args.args[0].arg
    return None


def literal(pending: Pending) -> Call | None:
    """The finished call, if all its expressions are literals of plain data."""
    try:
        call = ast.parse(pending.arguments, mode="eval").body
        assert isinstance(call, ast.Call)
        if any(keyword.arg is None for keyword in call.keywords):
            return None
        args = tuple(ast.literal_eval(arg) for arg in call.args)
        kwargs = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        expected = encode(ast.literal_eval(pending.expected))
        tolerance = float(ast.literal_eval(pending.tolerance))
        return Call(encode((args, kwargs)), expected, pending.rule, tolerance)
    except (ValueError, TypeError, NotPlainError):
        return None


def _is_constant_expression(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _conjuncts(test: ast.expr) -> Iterator[ast.expr]:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        for value in test.values:
            yield from _conjuncts(value)
    else:
        yield test


def _call(test: ast.expr, name: str) -> Pending | None:
    negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    inner = test.operand if isinstance(test, ast.UnaryOp) and negated else test
    if (arguments := _arguments(inner, name)) is not None:
        return Pending(arguments, rule="false" if negated else "true")
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    operator, left, right = test.ops[0], test.left, test.comparators[0]
    if isinstance(operator, ast.Lt):
        return _close(left, right, name)
    call, other = (left, right) if _mentions(left, name) else (right, left)
    arguments = _arguments(call, name)
    if arguments is None or _mentions(other, name):
        return None
    if isinstance(operator, ast.Eq):
        return Pending(arguments, ast.unparse(other))
    if isinstance(operator, ast.Is) and isinstance(other, ast.Constant):
        single = other.value is None or isinstance(other.value, bool)
        return Pending(arguments, ast.unparse(other), "is") if single else None
    return None


def _close(left: ast.expr, tolerance: ast.expr, name: str) -> Pending | None:
    """`abs(call - expected) < tolerance`, either way round."""
    if not isinstance(left, ast.Call) or len(left.args) != 1 or left.keywords:
        return None
    difference = left.args[0]
    if ast.unparse(left.func) not in _ABS or not isinstance(difference, ast.BinOp):
        return None
    if not isinstance(difference.op, ast.Sub) or _mentions(tolerance, name):
        return None
    call, other = difference.left, difference.right
    if not _mentions(call, name):
        call, other = other, call
    arguments = _arguments(call, name)
    if arguments is None or _mentions(other, name):
        return None
    return Pending(arguments, ast.unparse(other), "close", ast.unparse(tolerance))


def _arguments(node: ast.expr, name: str) -> str | None:
    """A call of the candidate as the source of `_(...)`, whose arguments do not mention it."""
    if not isinstance(node, ast.Call):
        return None
    if not isinstance(node.func, ast.Name) or node.func.id != name:
        return None
    values = [*node.args, *(keyword.value for keyword in node.keywords)]
    if any(_mentions(value, name) for value in values):
        return None
    return ast.unparse(ast.Call(ast.Name("_"), node.args, node.keywords))


def _mentions(node: ast.expr, name: str) -> bool:
    """Whether `name` occurs, or something that would change names or cannot be moved."""
    moved = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)
    return any(
        isinstance(part, moved) or (isinstance(part, ast.Name) and part.id == name)
        for part in ast.walk(node)
    )
