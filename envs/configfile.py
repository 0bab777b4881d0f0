"""TOML files into dataclasses, strictly: a key that nothing reads is an error.

A configuration is a (nested) dataclass with defaults. A file changes some of them, flags
change some of those: precedence is default < file < flag (`parsing.parse` takes what
`load_toml` returns as its default).
"""

from __future__ import annotations

import json
import tomllib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

T = TypeVar("T")
Keys = tuple[str, ...]


class ConfigError(ValueError):
    """A configuration file that does not say what the program understands."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest of `choices`, or `""` when none is close."""
    from difflib import get_close_matches

    match = get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def load_toml(cls: type[T], path: Path | str) -> T:
    """Read `path` into a `cls`.

    Raises:
        ConfigError: the file cannot be read or parsed, names a key that `cls` does not have
            (the nearest one is named), or holds a value of another type than declared.
    """
    text = _read(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    return cast(T, _Reader(str(path), text).build(cls, data, ()))


def load_json(cls: type[T], path: Path | str) -> T:
    """Read a `cls` back from the JSON that a run folder keeps of it; as strict as `load_toml`."""
    try:
        data = json.loads(_read(path))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    return cast(T, _Reader(str(path), "").build(cls, data, ()))


def _read(path: Path | str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error


def line_of(text: str, keys: Keys) -> int | None:
    """The line (from 1) of TOML `text` that sets or opens `keys`; None when not found."""
    table: Keys = ()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            table = _split(stripped.strip("[]").split("]")[0])
            here = table
        else:
            here = table + _split(stripped.split("=")[0])
        if here[: len(keys)] == keys:
            return number
    return None


def _split(dotted: str) -> Keys:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


class _Reader:
    """Converts parsed TOML by the annotations of the dataclass, naming file, line and key."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def error(self, keys: Keys, problem: str) -> ConfigError:
        line = line_of(self.text, keys) if keys else None
        where = f"{self.name}:{line}" if line else self.name
        return ConfigError(f"{where}: {problem}")

    def build(self, cls: type[Any], data: Any, keys: Keys) -> Any:
        if not isinstance(data, Mapping):
            raise self.mismatch("a table", data, keys)
        known = {f.name: f for f in fields(cls) if f.init}
        for key in data:
            if key not in known:
                dotted = ".".join((*keys, key))
                raise self.error(
                    (*keys, key), f"unknown key {dotted!r}{self._hint(key, known, keys)}"
                )
        hints = get_type_hints(cls, include_extras=True)
        values = {k: self.convert(v, hints[k], (*keys, k)) for k, v in data.items()}
        missing = [n for n, f in known.items() if n not in data and _required(f)]
        if missing:
            names = ", ".join(repr(".".join((*keys, n))) for n in missing)
            raise self.error(keys, f"missing {names}: add it, it has no default")
        try:
            return cls(**values)
        except ValueError as error:  # the dataclass's own checks
            dotted = f"{'.'.join(keys)}: " if keys else ""
            raise self.error(keys, f"{dotted}{error}") from error

    def _hint(self, key: str, known: Mapping[str, Any], keys: Keys) -> str:
        prefix = "".join(f"{k}." for k in keys)
        hint = nearest(f"{prefix}{key}", [f"{prefix}{k}" for k in known])
        return hint or f"; known here: {', '.join(known)}"

    def convert(self, value: Any, kind: Any, keys: Keys) -> Any:
        """`value` as the annotated type `kind`; TOML's own types are never coerced loosely."""
        origin, args = get_origin(kind), get_args(kind)
        if kind is Any:
            return value
        if origin is Annotated:
            return self.convert(value, args[0], keys)
        if origin in (Union, types.UnionType):
            return self._union(value, args, keys)
        if origin is Literal:
            return self._choice(value, {str(a): a for a in args}, keys)
        if origin in (tuple, list, Sequence):
            return self._sequence(value, origin, args, keys)
        if origin in (dict, Mapping):
            return self._mapping(value, args, keys)
        if is_dataclass(kind):
            return self.build(cast("type[Any]", kind), value, keys)
        return self._scalar(value, kind, keys)

    def _scalar(self, value: Any, kind: Any, keys: Keys) -> Any:
        if isinstance(kind, type) and issubclass(kind, Enum):
            return self._choice(value, {str(m.value): m for m in kind}, keys)
        if kind is Path and isinstance(value, str):
            return Path(value)
        if kind is float and type(value) is int:
            return float(value)
        exact = not isinstance(value, bool) or kind is bool  # True is no number
        if isinstance(kind, type) and isinstance(value, kind) and exact:
            return value
        raise self.mismatch(getattr(kind, "__name__", str(kind)), value, keys)

    def _choice(self, value: Any, choices: Mapping[str, Any], keys: Keys) -> Any:
        if str(value) in choices:
            return choices[str(value)]
        hint = nearest(str(value), choices) or f"; choose from {', '.join(choices)}"
        raise self.error(keys, f"{'.'.join(keys)} cannot be {value!r}{hint}")

    def _sequence(self, value: Any, origin: Any, args: tuple[Any, ...], keys: Keys) -> Any:
        if not isinstance(value, list):
            raise self.mismatch("an array", value, keys)
        fixed = origin is tuple and Ellipsis not in args
        if fixed and len(value) != len(args):
            raise self.mismatch(f"an array of {len(args)} values", value, keys)
        kinds = args if fixed else [args[0]] * len(value)
        items = [self.convert(v, k, keys) for v, k in zip(value, kinds, strict=True)]
        return items if origin is list else tuple(items)

    def _mapping(self, value: Any, args: tuple[Any, ...], keys: Keys) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.mismatch("a table", value, keys)
        return {k: self.convert(v, args[1], (*keys, k)) for k, v in value.items()}

    def _union(self, value: Any, kinds: tuple[Any, ...], keys: Keys) -> Any:
        """The first member that fits. TOML has no null: leave a key out to keep None."""
        if value is None and types.NoneType in kinds:
            return None
        present = [k for k in kinds if k is not types.NoneType]
        if len(present) == 1:
            return self.convert(value, present[0], keys)
        for kind in present:
            try:
                return self.convert(value, kind, keys)
            except ConfigError:
                continue
        names = " or ".join(getattr(k, "__name__", str(k)) for k in present)
        raise self.mismatch(names, value, keys)

    def mismatch(self, expected: str, value: Any, keys: Keys) -> ConfigError:
        dotted = ".".join(keys) or "the file"
        return self.error(
            keys, f"{dotted} must be {expected}, got {type(value).__name__} {value!r}"
        )


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING
