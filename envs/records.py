"""JSON round trips for frozen dataclasses, derived from their type hints.

Covers what the core types are made of: primitives, string enums, other records, and
tuples, mappings and optionals of these.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import StrEnum
from functools import cache
from typing import Any, Self, Union, cast, get_args, get_origin, get_type_hints

Json = dict[str, Any]
_PRIMITIVES = (str, int, float, bool, type(None))


class Record:
    """Base of the core types: `to_dict` gives plain JSON values, `from_dict` takes them back."""

    __slots__ = ()

    def to_dict(self) -> Json:
        return {name: _encode(getattr(self, name)) for name in _decoders(cast(Any, type(self)))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Raises KeyError naming a missing field; unknown keys are ignored (newer writers)."""
        decoders = _decoders(cast(Any, cls))
        return cls(**{name: decode(data[name]) for name, decode in decoders.items()})


def _encode(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, _PRIMITIVES):
        return value
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if value and type(value[0]) in (int, float, bool):  # token arrays: no call per element
        return list(value)
    return [_encode(item) for item in value]


@cache
def _decoders(cls: Any) -> dict[str, Callable[[Any], Any]]:
    hints = get_type_hints(cls)
    return {field.name: _decoder(hints[field.name]) for field in fields(cls)}


def _decoder(hint: Any) -> Callable[[Any], Any]:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = _decoder(next(a for a in args if a is not type(None)))
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        if args[0] in _PRIMITIVES:
            return tuple
        item = _decoder(args[0])
        return lambda values: tuple([item(v) for v in values])
    if origin is not None and issubclass(origin, Mapping):
        return dict
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_dict
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint
    return lambda value: value
