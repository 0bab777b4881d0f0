"""Plain data as text, and the calls that a graded session answers.

The host imports this file; sessions are given its source, so it uses the standard library
only and nothing of Palestra, and is short: each grading compiles it. What a session with
model code in it says is data: whoever patches `encode` there changes which wrong answer it
gives, and learns no expected value.

Plain data are None, bool, int, float, complex, str, bytes, list, tuple, dict, set and
frozenset of these. Subclasses (an IntEnum, a Counter, a named tuple, a numpy scalar) travel
as the value of their base, so that no object whose methods run code ever arrives anywhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 60
MODULE = "solution"  # what a program whose function is called has as `__name__`
_JSON_INT = 1 << 63


class NotPlainError(ValueError):
    """A value that is not plain data, or text that is not one."""


def encode(value: Any) -> str:
    """`value` as JSON text. Raises NotPlainError."""
    return json.dumps(_flatten(value, 0), allow_nan=False, separators=(",", ":"))


def decode(text: str) -> Any:
    """The value that `encode` gave `text` for, made of exact built-in types only.

    Raises:
        NotPlainError: for any other text.
    """
    try:
        return _build(json.loads(text), 0)
    except NotPlainError:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise NotPlainError(f"not an encoded value: {error}") from error


def _flatten(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise NotPlainError(f"nested more than {MAX_DEPTH} deep")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__getitem__(value, slice(None))
    if isinstance(value, int):
        number = int.__pos__(value)
        return number if -_JSON_INT <= number < _JSON_INT else {"int": hex(number)}
    if isinstance(value, float):
        real = float.__pos__(value)
        finite = real - real == 0
        return real if finite else {"float": float.__repr__(real)}
    if isinstance(value, complex):
        return {"complex": [_flatten(value.real, depth), _flatten(value.imag, depth)]}
    if isinstance(value, bytes):
        return {"bytes": bytes.hex(value)}
    return _flatten_container(value, depth + 1)


def _flatten_container(value: Any, depth: int) -> Any:
    if isinstance(value, list):
        return [_flatten(item, depth) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return {"tuple": [_flatten(item, depth) for item in tuple.__iter__(value)]}
    if isinstance(value, dict):
        pairs = dict.items(value)
        return {"dict": [[_flatten(key, depth), _flatten(item, depth)] for key, item in pairs]}
    if isinstance(value, set):
        return {"set": [_flatten(item, depth) for item in set.__iter__(value)]}
    if isinstance(value, frozenset):
        return {"frozenset": [_flatten(item, depth) for item in frozenset.__iter__(value)]}
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return _flatten(value.item(), depth)
    raise NotPlainError(f"a value of type {type(value).__name__}, which is not plain data")


def _build(data: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise NotPlainError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(data, list):
        return [_build(item, depth + 1) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise NotPlainError("not an encoded value")
    ((kind, body),) = data.items()
    if kind not in _BUILDERS:
        raise NotPlainError(f"unknown kind of value {kind!r:.50}")
    return _BUILDERS[kind](body, depth + 1)


def _items(body: Any, depth: int) -> list[Any]:
    return [_build(item, depth) for item in body]


_BUILDERS: dict[str, Callable[[Any, int], Any]] = {
    "int": lambda body, depth: int(body, 16),
    "float": lambda body, depth: float(body),
    "complex": lambda body, depth: complex(*_items(body, depth)),
    "bytes": lambda body, depth: bytes.fromhex(body),
    "tuple": lambda body, depth: tuple(_items(body, depth)),
    "dict": lambda body, depth: {_build(k, depth): _build(v, depth) for k, v in body},
    "set": lambda body, depth: set(_items(body, depth)),
    "frozenset": lambda body, depth: frozenset(_items(body, depth)),
}


class Said:
    """Its repr is its text, so that a session's echo of it is the text itself."""

    def __init__(self, **fields: Any) -> None:
        self.text = json.dumps(fields)

    def __repr__(self) -> str:
        return self.text


def described(error: BaseException) -> list[str]:
    """An exception as its type's name and its text."""
    try:
        return [type(error).__name__, str(error)[:500]]
    except BaseException:  # noqa: BLE001 - a str() that raises
        return [type(error).__name__, ""]


class Callee:
    """Runs in the session of the graded program: answers one call at a time.

    The program is a module to it, as to whoever imports a solution: what stands under
    `if __name__ == "__main__"` is not run.
    """

    def __init__(self, names: dict[str, Any], entry_point: str) -> None:
        self.names, self.entry_point = names, entry_point
        names["__name__"] = MODULE
        sys.modules[MODULE] = sys.modules["__main__"]  # pickle and dataclasses look there

    def __call__(self, arguments: str) -> Said:
        try:
            args, kwargs = decode(arguments)
            first, *rest = self.entry_point.split(".")
            if first not in self.names:
                return Said(error=["NameError", f"{first} is not defined"])
            target = self.names[first]() if rest else self.names[first]
            for name in rest:
                target = getattr(target, name)
            return Said(value=encode(target(*args, **kwargs)))
        except BaseException as error:  # noqa: BLE001 - goes to the host as data
            return Said(error=described(error))
