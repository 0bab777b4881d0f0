"""Flags from a plain dataclass: its fields are the options, their docstrings the help.

A field that is a dict, such as the settings of an environment, takes flags with any name
below its own: `--env.protocol hermes`, `--env.options.task_options.digits 3`. Their values
are TOML, or plain text where they are not.
"""

from __future__ import annotations

import inspect
import io
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast, get_origin, get_type_hints

from tyro.conf import arg

from .errors import UsageError

T = TypeVar("T")

SAYS_ITS_DEFAULT = arg(help_behavior_hint="")  # for an option whose help tells its default itself


def parse(
    cls: type[T],
    argv: Sequence[str],
    *,
    command: str,
    examples: Sequence[str] = (),
    default: T | None = None,
    pairs: bool = False,
) -> T:
    """Parse `argv` into a `cls`; `default` holds the values of flags that are not given.

    `--help` prints the options and then the examples. Wrong flags end the process with
    code 2 and a message that names the nearest one. `pairs` makes two flags of a boolean
    (`--x`, `--no-x`), for configurations that a file may have switched either way.

    Raises:
        UsageError: a flag of a dict field has no value, or the dataclass refuses the values.
    """
    import tyro

    names = tuple(open_fields(cls))
    rest, given = take_open(argv, names)
    markers = (tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName)
    told = io.StringIO()
    try:
        with _no_color(), redirect_stderr(told):
            parsed = tyro.cli(
                cls,
                prog=f"palestra {command}",
                description=_description(cls, names),
                args=rest,
                default=tyro.MISSING_NONPROP if default is None else default,
                config=markers if pairs else (*markers, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as end:
        if isinstance(end.__context__, ValueError):  # the dataclass's own checks, below as well
            raise UsageError(str(end.__context__)) from end
        sys.stderr.write(told.getvalue())
        if not end.code and examples:
            print("examples:")
            print("\n".join(f"  palestra {command} {line}".rstrip() for line in examples))
        sys.stdout.flush()
        raise
    try:
        return cast(T, merged(parsed, given))
    except ValueError as error:
        raise UsageError(str(error)) from error


def open_fields(cls: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of the fields, at any depth, that are dicts with keys of any name."""
    hints = get_type_hints(cls)
    for field in fields(cls):
        kind, name = hints[field.name], f"{prefix}{field.name}"
        if is_dataclass(kind):
            yield from open_fields(kind, f"{name}.")
        elif kind is dict or get_origin(kind) in (dict, Mapping):
            yield name


def take_open(argv: Sequence[str], names: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Split `argv` into the flags of plain fields and the (nested) values of dict fields."""
    rest: list[str] = []
    given: dict[str, Any] = {}
    left = iter(argv)
    for word in left:
        flag, equals, value = word.partition("=")
        key = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or not any(key.startswith(f"{name}.") for name in names):
            rest.append(word)
            continue
        if not equals:
            following = next(left, None)
            if following is None:
                raise UsageError(f"{flag} needs a value")
            value = following
        deep_update(given, _setting(key, value))
    return rest, given


def merged(value: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of a dataclass (or dict) with nested `changes` made."""
    if not is_dataclass(value):
        into = dict(value)
        deep_update(into, changes)
        return into
    new = {name: merged(getattr(value, name), change) for name, change in changes.items()}
    return replace(value, **new) if new and not isinstance(value, type) else value


def deep_update(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    """`into.update(new)`, level by level. Dicts inside `into` are replaced, never changed."""
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            into[key] = dict(into[key])
            deep_update(into[key], value)
        else:
            into[key] = value


@contextmanager
def _no_color() -> Iterator[None]:
    """tyro does not read NO_COLOR, but takes a dumb terminal at its word."""
    terminal = os.environ.get("TERM")
    if os.environ.get("NO_COLOR"):
        os.environ["TERM"] = "dumb"
    try:
        yield
    finally:
        if terminal is not None:
            os.environ["TERM"] = terminal


def _description(cls: type[Any], names: Sequence[str]) -> str:
    flags = ", ".join(f"--{name.replace('_', '-')}.KEY VALUE" for name in names)
    return (inspect.getdoc(cls) or "") + (f"\n\nWith keys of your own: {flags}" if flags else "")


def _setting(key: str, value: str) -> dict[str, Any]:
    parsed: Any
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:  # a bare word: --env.protocol hermes
        parsed = value
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    return dict(parsed)
