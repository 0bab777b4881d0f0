"""Unit tests as values: what is called, with what, and what must come back.

Everything is JSON, because hidden tests travel in `Task.reference`. Python values are kept
in the encoded form of `inside.encode`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ...records import Json, Record
from .inside import decode, encode

Rule = Literal["equal", "is", "true", "false", "close", "apps"]
Match = Literal["tokens", "lines", "exact"]
MATCHES = ("tokens", "lines", "exact")


def show(value: Any) -> str:
    """`repr` of plain data, also of an integer of too many digits."""
    try:
        return repr(value)
    except ValueError:
        return "(a value too large to show)"


@dataclass(frozen=True, slots=True)
class Call(Record):
    """One call of a function: arguments, and what its answer is held against.

    Attributes:
        arguments: `(args, kwargs)`, encoded.
        expected: the expected value, encoded.
        rule: "equal" (`==`), "is" (the same singleton), "true" and "false" (by truth),
            "close" (`abs(answer - expected) < tolerance`), or "apps" (`==` with tuples as
            lists; a list of one expected stands for itself or for what is in it).
    """

    arguments: str
    expected: str = "null"
    rule: str = "equal"
    tolerance: float = 0.0

    @classmethod
    def of(cls, args: tuple[Any, ...], expected: Any) -> Call:
        """`f(*args) == expected`, from plain data. Raises NotPlainError."""
        return cls(encode((args, {})), encode(expected))

    def accepts(self, value: Any) -> bool:
        """Whether an answer, decoded to plain data, is right."""
        expected = decode(self.expected)
        if self.rule == "equal":
            return bool(value == expected)
        if self.rule == "is":
            return value is expected
        if self.rule in ("true", "false"):
            return bool(value) == (self.rule == "true")
        if self.rule == "apps":
            return _listed(value) in (expected, _unwrapped(expected))
        if not isinstance(value, int | float):
            return False
        try:
            return bool(abs(value - expected) < self.tolerance)
        except OverflowError:
            return False

    def shown(self, name: str) -> str:
        """The call as it would be written."""
        args, kwargs = decode(self.arguments)
        written = [show(arg) for arg in args] + [f"{key}={show(kwargs[key])}" for key in kwargs]
        return f"{name}({', '.join(written)})"

    def demand(self) -> str:
        """What is expected, in words for the agent."""
        wanted = decode(self.expected)
        expected = show(_unwrapped(wanted) if self.rule == "apps" else wanted)
        words = {"true": "a true value", "false": "a false value"}
        near = f"{expected} to within {self.tolerance:g}"
        return words.get(self.rule, near if self.rule == "close" else expected)


def _unwrapped(expected: Any) -> Any:
    return expected[0] if isinstance(expected, list) and len(expected) == 1 else expected


def _listed(value: Any) -> Any:
    """`value` as JSON would have it: tuples are lists."""
    if isinstance(value, list | tuple):
        return [_listed(item) for item in value]
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class FunctionTests(Record):
    """Calls of one function. `preamble` is run before the graded program.

    `entry_point` may be a method, as `Solution.method`: an instance is made for each call.
    """

    entry_point: str
    calls: tuple[Call, ...]
    preamble: str = ""

    def __len__(self) -> int:
        return len(self.calls)


@dataclass(frozen=True, slots=True)
class CheckTests(Record):
    """Trusted code that defines `check(candidate)`, for tests that are no list of calls.

    It runs in a session of its own and calls the graded function, which is in another,
    by way of the host. Counts as one test.
    """

    entry_point: str
    check: str
    preamble: str = ""

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True, slots=True)
class StdioCase(Record):
    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class StdioTests(Record):
    """Whole programs that read stdin and write stdout.

    `match`: "tokens" (the default) compares what stands between white space, "lines" the
    lines without trailing white space and trailing empty lines, "exact" every character.
    """

    cases: tuple[StdioCase, ...]
    match: str = "tokens"

    def __post_init__(self) -> None:
        if self.match not in MATCHES:
            raise ValueError(f"match must be one of {', '.join(MATCHES)}, got {self.match!r}")

    def __len__(self) -> int:
        return len(self.cases)

    def accepts(self, case: StdioCase, output: str) -> bool:
        """Whether `output` is what `case` asks for."""
        return _folded(output, self.match) == _folded(case.stdout, self.match)


def _folded(text: str, match: str) -> object:
    if match == "tokens":
        return text.split()
    if match == "lines":
        return "\n".join(line.rstrip() for line in text.splitlines()).rstrip("\n")
    return text


UnitTests: TypeAlias = FunctionTests | CheckTests | StdioTests
_KINDS: dict[str, type[FunctionTests] | type[CheckTests] | type[StdioTests]] = {
    "function": FunctionTests,
    "check": CheckTests,
    "stdio": StdioTests,
}


def unit_tests_to_json(tests: UnitTests) -> Json:
    """Plain JSON values with a `kind`."""
    kind = next(name for name, cls in _KINDS.items() if type(tests) is cls)
    return {"kind": kind, **tests.to_dict()}


def unit_tests_from_json(data: Mapping[str, Any] | str) -> UnitTests:
    """The reverse of `unit_tests_to_json`; JSON text is taken too.

    Raises:
        ValueError, KeyError: it is not of that shape.
    """
    fields = json.loads(data) if isinstance(data, str) else data
    if fields.get("kind") not in _KINDS:
        raise ValueError(f"unit tests have a kind of {', '.join(_KINDS)}, got {fields!r:.100}")
    return _KINDS[fields["kind"]].from_dict(fields)
