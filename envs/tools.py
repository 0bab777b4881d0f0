"""A typed function with a docstring is a tool.

    def add(a: int, b: int) -> int:
        '''Add two numbers.

        Args:
            a: the first
            b: the second
        '''
        return a + b

    Tool.of(add).schema()   # the OpenAI function schema, from signature and docstring

Functions may be `async`; plain ones run in threads, as many as there are calls in flight, and
so must bear being run side by side. A tool that raises answers with an error message, which the
agent sees; only `SandboxError` and `ToolFailure` mean that the infrastructure failed.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, get_type_hints
from weakref import WeakKeyDictionary

import docstring_parser
from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo

from ..sandbox.types import SandboxError
from .driving import is_async
from .records import Json
from .types import ToolCall, ToolResult, ToolStatus


class ToolFailure(RuntimeError):
    """A tool's infrastructure failed (a server is gone): the episode becomes invalid."""


class ToolTimeout(Exception):
    """A tool ran into its time limit; the message is shown to the agent."""


class ToolRunError(Exception):
    """A tool ran and failed; the message is shown to the agent as it is."""


class _Signature(NamedTuple):
    description: str
    parameters: Json
    arguments: type[Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """A callable the agent may use. Build one with `Tool.of(function)`."""

    name: str
    description: str
    parameters: Json
    function: Callable[..., Any]
    arguments: type[Any]

    @classmethod
    def of(cls, function: Callable[..., Any] | Tool, name: str | None = None) -> Tool:
        """Read the schema off the signature and docstring.

        Raises:
            ValueError: the docstring or an annotation is missing; the message names it.
        """
        if isinstance(function, Tool):
            return function
        title = name or function.__name__
        read = _signature(function, title)
        return cls(title, read.description, read.parameters, function, read.arguments)

    def schema(self) -> Json:
        """The OpenAI function-tool schema."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        return {"type": "function", "function": function}

    def __reduce__(self) -> tuple[Any, ...]:
        # The argument model is made at run time; a copy reads it off the function again.
        return Tool.of, (self.function, self.name)

    @property
    def is_async(self) -> bool:
        return is_async(self.function)

    def branch(self) -> None:
        """Called before a snapshot. Raises TypeError where what the tool holds has no copy."""

    def release(self) -> None:
        """Let go of what the tool holds for one episode."""

    def close(self) -> None:
        """Let go of all that the tool holds. It may be called again, and begins anew."""

    async def call(self, call: ToolCall, *, in_loop: bool = True) -> ToolResult:
        """Validate, run, and report. Errors come back as results.

        Raises:
            SandboxError, ToolFailure: the infrastructure failed.
        """
        start = time.perf_counter()
        try:
            arguments = self._validate(call.arguments)
        except (ValueError, RecursionError) as error:  # ValidationError is a ValueError
            return ToolResult(call, _explain(self.name, error), ToolStatus.MALFORMED)
        status, content = await self._run(arguments, in_loop)
        return ToolResult(call, content, status, time.perf_counter() - start)

    def _validate(self, arguments: str) -> Json:
        values = json.loads(arguments or "{}", strict=False)
        if not isinstance(values, dict):
            raise ValueError("arguments must be a JSON object")
        model = self.arguments(**values)
        return {name: getattr(model, name) for name in self.arguments.model_fields}

    async def _run(self, arguments: Json, in_loop: bool) -> tuple[ToolStatus, str]:
        try:
            if self.is_async:
                result = await self.function(**arguments)
            elif in_loop:  # a plain function may block: it must not stall other episodes
                result = await _in_thread(partial(self.function, **arguments))
            else:
                result = self.function(**arguments)
        except (SandboxError, ToolFailure):
            raise
        except ToolTimeout as error:
            return ToolStatus.TIMEOUT, str(error)
        except ToolRunError as error:
            return ToolStatus.ERROR, str(error)
        except Exception as error:  # noqa: BLE001 - the tool boundary: an error is an observation
            return ToolStatus.ERROR, f"Error: {type(error).__name__}: {error}"
        return ToolStatus.OK, result if isinstance(result, str) else _as_json(result)


def malformed_call(text: str, reason: str) -> ToolResult:
    """The answer to what was meant as a call and cannot be read as one."""
    return ToolResult(ToolCall("", text), f"Error: {reason}", ToolStatus.MALFORMED)


def unknown_tool(call: ToolCall, known: list[str]) -> ToolResult:
    """The answer to a call of a tool that does not exist."""
    text = f"Error: there is no tool {call.name!r}. Available tools: {', '.join(known)}"
    return ToolResult(call, text, ToolStatus.MALFORMED)


# Reading a signature takes a millisecond, and a thousand environments may share a function.
_signatures: WeakKeyDictionary[Any, dict[tuple[str, bool], _Signature]] = WeakKeyDictionary()


def _signature(function: Callable[..., Any], title: str) -> _Signature:
    """What a function says of itself, read once for all its bound methods."""
    own = getattr(function, "__func__", function)
    known = _signatures.setdefault(own, {})
    key = (title, own is function)
    if key not in known:
        known[key] = _read(function, title)
    return known[key]


def _read(function: Callable[..., Any], title: str) -> _Signature:
    doc = docstring_parser.parse(inspect.getdoc(function) or "")
    if not doc.short_description:
        raise ValueError(f"tool {title!r} needs a docstring: its first line tells the agent")
    model = _argument_model(function, title, {p.arg_name: p.description for p in doc.params})
    schema = TypeAdapter(model).json_schema()
    schema.pop("title", None)
    for entry in schema.get("properties", {}).values():
        entry.pop("title", None)
    text = "\n\n".join(t for t in (doc.short_description, doc.long_description) if t)
    return _Signature(text, schema, model)


def _argument_model(
    function: Callable[..., Any], title: str, descriptions: dict[str, str | None]
) -> type[Any]:
    hints = get_type_hints(function)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in hints:
            raise ValueError(f"tool {title!r}: annotate parameter {parameter.name!r} with a type")
        default = ... if parameter.default is parameter.empty else parameter.default
        info = FieldInfo(default=default, description=descriptions.get(parameter.name))
        fields[parameter.name] = (hints[parameter.name], info)
    model: type[Any] = create_model(title, __config__=ConfigDict(extra="forbid"), **fields)
    return model


def _explain(name: str, error: Exception) -> str:
    if isinstance(error, ValidationError):
        parts = [
            f"{'.'.join(str(x) for x in e['loc']) or 'arguments'}: {e['msg']}"
            for e in error.errors(include_url=False)
        ]
        return f"Error: bad arguments for {name}: " + "; ".join(parts)
    return f"Error: bad arguments for {name}: {error}"


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)


def _in_thread(work: Callable[[], Any]) -> asyncio.Future[Any]:
    try:
        return asyncio.get_running_loop().run_in_executor(_threads(), work)
    except RuntimeError as error:  # the machine has no more: nothing that the tool did
        raise ToolFailure(f"no thread to run a plain tool in: {error}") from error


@cache
def _threads() -> ThreadPoolExecutor:
    # A thread is made when a call finds none idle, so there are as many as calls ever were in
    # flight: the rollouts' concurrency bounds them, and a bound here would only add a queue.
    return ThreadPoolExecutor(max_workers=1_000_000, thread_name_prefix="palestra-tool")
