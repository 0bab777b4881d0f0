"""Small faults put into a program, one at a time: what good tests must notice.

Used by the generator to choose tests, and to audit the tests of a task set: the canonical
solution must pass and its mutants must fail. A mutant may behave like the original; that is
for the caller to find out, by running both.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
}
_COMPARISON: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_NOT_CODE = ("annotation", "returns", "decorator_list", "type_comment", "type_params")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A program with one fault. `kind`: operator, comparison, constant, logic, branch, drop."""

    source: str
    kind: str
    line: int


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a Python program, in the order of its text; none twice, and none equal
    to the program itself as `ast.unparse` writes it.

    Raises:
        SyntaxError: `source` is not Python.
    """
    tree = ast.parse(source)
    seen = {ast.unparse(tree)}
    found = []
    for kind, line in _places(tree, tree):
        text = ast.unparse(tree)
        if text not in seen:
            seen.add(text)
            found.append(Mutant(text, kind, line))
    return found


def _places(tree: ast.AST, node: ast.AST) -> Iterator[tuple[str, int]]:
    """Change the tree in place, yield, and change it back, for every fault below `node`."""
    for field, value in ast.iter_fields(node):
        if field in _NOT_CODE or isinstance(node, ast.JoinedStr | ast.FormattedValue):
            continue
        items = value if isinstance(value, list) else [value]
        for index, child in enumerate(items):
            if not isinstance(child, ast.AST) or _is_docstring(child):
                continue
            for kind, new in _faults(child):
                if isinstance(value, list):
                    value[index] = new
                    yield kind, getattr(child, "lineno", 0)
                    value[index] = child
                else:
                    setattr(node, field, new)
                    yield kind, getattr(child, "lineno", 0)
                    setattr(node, field, child)
            yield from _places(tree, child)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _faults(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        yield "operator", ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in _ARITHMETIC:
        yield "operator", ast.AugAssign(node.target, _ARITHMETIC[type(node.op)](), node.value)
        yield "drop", ast.Pass()
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISON:
        first = _COMPARISON[type(node.ops[0])]()
        yield "comparison", ast.Compare(node.left, [first, *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.Constant):
        for value in _other_constants(node.value):
            yield "constant", ast.Constant(value)
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "logic", ast.BoolOp(other, node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "logic", node.operand
    elif isinstance(node, ast.IfExp):
        yield "branch", node.body
        yield "branch", node.orelse
    elif isinstance(node, ast.If):
        yield "branch", ast.If(ast.Constant(True), node.body, node.orelse)
        yield "branch", ast.If(ast.Constant(False), node.body, node.orelse)
    elif isinstance(node, ast.Assign | ast.Expr | ast.Continue | ast.Break):
        yield "drop", ast.Pass()


def _other_constants(value: object) -> list[bool | int | float | str]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [value + 1.0]
    if isinstance(value, str):
        return [value + "x"]
    return []
