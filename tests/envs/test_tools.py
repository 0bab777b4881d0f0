"""Tools from functions: schema, validation, errors as observations."""

import asyncio
import json
import pickle
import threading
from typing import Literal

import pytest

from palestra.envs.tools import Tool, ToolFailure, ToolRunError, ToolTimeout
from palestra.envs.types import ToolCall, ToolStatus
from palestra.sandbox.types import SandboxError


def add(a: int, b: int = 2) -> int:
    """Add two numbers.

    Both are integers.

    Args:
        a: the first
        b: the second
    """
    return a + b


async def shout(text: str, mood: Literal["glad", "sad"] = "glad") -> str:
    """Say it loudly."""
    await asyncio.sleep(0)
    return f"{text.upper()} ({mood})"


def call(function, **arguments):
    tool = Tool.of(function)
    return asyncio.run(tool.call(ToolCall(tool.name, json.dumps(arguments))))


def test_schema_comes_from_signature_and_docstring():
    assert Tool.of(add).schema() == {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.\n\nBoth are integers.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer", "description": "the first"},
                    "b": {"type": "integer", "description": "the second", "default": 2},
                },
                "required": ["a"],
                "additionalProperties": False,
            },
        },
    }
    assert Tool.of(shout).parameters["properties"]["mood"]["enum"] == ["glad", "sad"]


def test_plain_and_async_functions_run():
    assert (call(add, a=1).content, call(add, a=1).status) == ("3", ToolStatus.OK)
    assert call(shout, text="hi", mood="sad").content == "HI (sad)"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ('{"a": "x"}', "a: Input should be a valid integer"),
        ("{}", "a: Field required"),
        ('{"a": 1, "c": 2}', "c: Extra inputs are not permitted"),
        ("[1]", "must be a JSON object"),
        ("{", "bad arguments for add"),
    ],
)
def test_bad_arguments_are_observations(arguments, says):
    result = asyncio.run(Tool.of(add).call(ToolCall("add", arguments)))
    assert result.status is ToolStatus.MALFORMED and says in result.content


@pytest.mark.parametrize(
    ("error", "status", "content"),
    [
        (ZeroDivisionError("oh"), ToolStatus.ERROR, "Error: ZeroDivisionError: oh"),
        (ToolRunError("Traceback: x"), ToolStatus.ERROR, "Traceback: x"),
        (ToolTimeout("too slow"), ToolStatus.TIMEOUT, "too slow"),
    ],
)
def test_errors_are_observations(error, status, content):
    def fail() -> None:
        """Fail."""
        raise error

    result = call(fail)
    assert (result.status, result.content) == (status, content)


@pytest.mark.parametrize("error", [SandboxError("gone"), ToolFailure("down")])
def test_infrastructure_failures_are_not(error):
    def fail() -> None:
        """Fail."""
        raise error

    with pytest.raises(type(error)):
        call(fail)


def test_blocking_tools_wait_side_by_side():
    """Each waits until all have begun: one after the other, none would ever end."""
    together = threading.Barrier(50)

    def wait() -> str:
        """Wait for the others."""
        together.wait(timeout=60)
        return "done"

    async def many():
        tool = Tool.of(wait)
        return await asyncio.gather(*(tool.call(ToolCall("wait")) for _ in range(50)))

    assert all(r.content == "done" for r in asyncio.run(many()))


def test_what_is_missing_is_named():
    def nameless(a: int) -> int:
        return a

    def untyped(a) -> int:
        """Do."""
        return a

    with pytest.raises(ValueError, match="'nameless' needs a docstring"):
        Tool.of(nameless)
    with pytest.raises(ValueError, match="'untyped': annotate parameter 'a'"):
        Tool.of(untyped)


def test_tools_pickle():
    assert pickle.loads(pickle.dumps(Tool.of(add))).schema() == Tool.of(add).schema()


def test_a_signature_is_read_once_for_all_bound_methods():
    class Counter:
        def __init__(self, start: int) -> None:
            self.start = start

        def count(self, by: int) -> int:
            """Count on."""
            return self.start + by

    one, two = Tool.of(Counter(1).count), Tool.of(Counter(2).count)
    assert one.arguments is two.arguments and one.function.__self__ is not two.function.__self__
    assert [asyncio.run(t.call(ToolCall("count", '{"by": 5}'))).content for t in (one, two)] == [
        "6",
        "7",
    ]
    assert Tool.of(Counter(1).count, "add").schema()["function"]["name"] == "add"
    with pytest.raises(ValueError, match="annotate parameter 'self'"):
        Tool.of(Counter.count)
