"""A `ToolEnv` for TRL's `GRPOTrainer`: its tools, its tasks and its grade.

    exported = TRLExport("palestra/MathCode-v0", {"protocol": "hermes"})
    GRPOTrainer(
        model,
        environment_factory=exported.environment_factory,
        reward_funcs=exported.reward_funcs,
        train_dataset=exported.train_dataset(64),
    )

TRL calls the tools as methods of an environment, one environment to each rollout, and asks a
reward function for the score, since only that one sees the final answer. The members of a
group come from one row of the data set, so they play the same episode. TRL tells an
environment of calls only: the text around them does not reach it, and each call is a turn.
TRL makes the calls of one message at once; here they take turns, in the order they came.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, cast

from ..core import ToolEnv
from ..records import Json
from ..registration import maker
from ..tools import Tool
from ..types import Message, Outcome, ToolCall
from .packages import need

OVER = "The episode is over."
_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "object": dict,
    "null": None,
}


class TRLExport:
    """What `GRPOTrainer` takes of an environment.

    Args:
        id: of the environment, which must be a `ToolEnv`.
        options: its settings.

    Raises:
        ValueError: it is no `ToolEnv`, or its calls are written into the text instead of
            made natively, which TRL does not read.
    """

    def __init__(self, id: str, options: Mapping[str, Any] | None = None) -> None:
        self._maker = maker(id, **(options or {}))
        self._env = self._make()
        if not isinstance(self._env, ToolEnv):
            raise ValueError(f"{id} is no ToolEnv: it has no tools to call")
        if self._env.protocol is not None and self._env.protocol.inline:
            raise ValueError(
                f"{id} reads calls from the text ({self._env.protocol.name}), and TRL makes them "
                f'natively: set protocol="hermes"'
            )
        self._class = _environment_class(id, list(self._env.tools.values()))

    def _make(self) -> ToolEnv:
        return cast(ToolEnv, self._maker().unwrapped)

    def environment_factory(self) -> TRLEnvironment:
        """An environment for one rollout at a time."""
        return self._class(self._make())

    @property
    def reward_funcs(self) -> list[Callable[..., Any]]:
        return [palestra_reward]

    def rows(self, count: int, seed: int = 0) -> list[dict[str, Any]]:
        """The openings of `count` tasks, as rows that `reset` understands."""
        rows = []
        for index in range(min(count, len(self._env.tasks))):
            opening, _ = self._env.reset(seed=seed + index, options={"task": index})
            prompt = [message.to_dict() for message in opening]
            rows.append({"prompt": prompt, "task": index, "seed": seed + index})
        return rows

    def train_dataset(self, count: int, seed: int = 0) -> Any:
        """`rows` as a `datasets.Dataset`."""
        return need("datasets", "data").Dataset.from_list(self.rows(count, seed))


class TRLEnvironment:
    """The base of what TRL holds: public methods of a subclass are its tools."""

    def __init__(self, env: ToolEnv) -> None:
        self._env = env
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begin()

    def _begin(self) -> None:
        self._reward = 0.0
        self._over = self._invalid = False

    def reset(self, task: int | None = None, seed: int | None = None, **row: Any) -> None:
        """Begin the episode of a row; its opening is the row's prompt."""
        self._begin()
        options = {} if task is None else {"task": task}
        self._env.reset(seed=seed, options=options)

    def _turn(self) -> asyncio.Lock:
        """Held from asking whether the episode is over until it has been stepped.

        A lock belongs to the loop in which it was first waited for, so another loop gets one of
        its own.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock

    async def _act(self, action: Message) -> list[Message]:
        messages, reward, terminated, truncated, info = await self._env.astep(action)
        self._over = terminated or truncated
        self._invalid = info.get("outcome") is Outcome.INVALID
        if not self._invalid:
            self._reward += float(reward)
        return messages

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> str:
        call = ToolCall(name, json.dumps(arguments, ensure_ascii=False), "call")
        async with self._turn():
            if self._over:
                return OVER
            messages = await self._act(Message("assistant", "", (call,)))
        return "\n".join(message.content for message in messages) or OVER

    async def _score(self, completion: Sequence[Mapping[str, Any]]) -> float | None:
        """The reward of the whole episode; None where it is invalid.

        A completion that does not end with an answer has used up a budget of TRL's: it earns
        what its steps have earned.
        """
        last = completion[-1] if completion else {}
        answered = last.get("role") == "assistant" and not last.get("tool_calls")
        async with self._turn():
            if answered and not self._over:
                await self._act(Message("assistant", _text(last.get("content"))))
        return None if self._invalid else self._reward


async def palestra_reward(
    completions: Sequence[Sequence[Mapping[str, Any]]],
    environments: Sequence[TRLEnvironment],
    **columns: Any,
) -> list[float | None]:
    """Grade the final answers. TRL leaves a None out of the group's statistics."""
    played = zip(completions, environments, strict=True)
    return [await environment._score(completion) for completion, environment in played]


def _environment_class(id: str, tools: Sequence[Tool]) -> type[TRLEnvironment]:
    taken = [tool.name for tool in tools if tool.name in ("reset", "get_reward")]
    if taken:
        raise ValueError(f"TRL keeps the names {taken} for itself: rename these tools")
    methods = {tool.name: _method(tool) for tool in tools}
    return type(id.rpartition("/")[2].replace("-", "_"), (TRLEnvironment,), methods)


def _method(tool: Tool) -> Callable[..., Any]:
    """A tool as a method, with the signature and the docstring that its schema is read from."""

    async def method(self: TRLEnvironment, **arguments: Any) -> str:
        return await self._call(tool.name, arguments)

    parameters = _parameters(tool.parameters)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__name__ = method.__qualname__ = tool.name
    method.__doc__ = _docstring(tool)
    method.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": str}
    method.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [itself, *parameters], return_annotation=str
    )
    return method


def _parameters(schema: Json) -> list[inspect.Parameter]:
    """The arguments of a JSON schema as parameters, those that must be given first."""
    properties, required = schema.get("properties", {}), schema.get("required", ())
    names = sorted(properties, key=lambda name: name not in required)
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty
            if name in required
            else properties[name].get("default"),
            annotation=_hint(properties[name]),
        )
        for name in names
    ]


def _hint(schema: Json) -> Any:
    """The Python type that a JSON schema describes, as far as TRL can tell types apart."""
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    if "anyOf" in schema:
        return Union[tuple(map(_hint, schema["anyOf"]))]  # noqa: UP007 - made at run time
    kind = schema.get("type")
    if kind == "array":
        return list[_hint(schema["items"])] if "items" in schema else list  # type: ignore[misc]
    return _TYPES.get(kind, Any) if isinstance(kind, str) else Any


def _docstring(tool: Tool) -> str:
    """In Google's style, in which every argument must be described."""
    described = tool.parameters.get("properties", {})
    lines = [
        f"    {name}: {' '.join(entry.get('description', name).split())}"
        for name, entry in described.items()
    ]
    arguments = "\n\nArgs:\n" + "\n".join(lines) if lines else ""
    return f"{tool.description}{arguments}\n\nReturns:\n    What the tool answers."


def _text(content: Any) -> str:
    """The text of a message whose content may be in parts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""
