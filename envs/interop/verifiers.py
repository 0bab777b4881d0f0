"""`palestra/Verifiers-v0`: environments of the verifiers library, of its old API and its new one.

    env = palestra.make("palestra/Verifiers-v0", name="my-env", options={"level": 2})

`name` is the package that was written for verifiers: one with `load_environment` (versions
before 0.4; `verifiers_legacy.py`) or one that exports a `Taskset` (`verifiers_v1.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..core import ChatEnv
from ..tasks.base import TaskList, canonical_split, in_split
from ..types import Message, Task, ToolCall
from .packages import need


def make(
    *,
    name: str,
    options: Mapping[str, Any] | None = None,
    split: str = "train",
    size: int | None = None,
    reward_range: tuple[float, float] = (0.0, 1.0),
    max_turns: int | None = None,
    render_mode: str | None = None,
) -> ChatEnv:
    """A verifiers environment, played through Palestra and scored by its own rewards.

    Not every one can be: rewards over a group of rollouts, containers, tool servers and
    harnesses are refused when it is made, with the reason. A reward function that raises
    makes the episode invalid, where verifiers itself counts 0 (before 0.4).

    Args:
        name: an installed package, as `vf-eval` takes it; an owner in front is left out.
        options: arguments of `load_environment`, or fields of the taskset's configuration;
            plain JSON.
        split: "heldout" is the environment's own evaluation set where it has one. Otherwise
            a hash of the prompt divides the tasks.
        size: how many tasks at most; without it an endless taskset is read 2,000 tasks far.
        reward_range: of a whole episode; verifiers does not declare one.
        max_turns: by default the environment's own, or 32 where it has none.

    Raises:
        ImportError: verifiers or the package is not installed.
        ValueError: it cannot be played here; the message says why.
    """
    need("verifiers", "verifiers")
    package = name.rpartition("/")[2].partition("@")[0].replace("-", "_")
    try:
        module = import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(f"no module {package!r} for {name!r}: install its package") from error
    settings = Settings(
        name,
        json.dumps(dict(options or {}), sort_keys=True),
        canonical_split(split),
        size,
        (float(reward_range[0]), float(reward_range[1])),
        max_turns,
        render_mode,
    )
    if hasattr(module, "load_environment"):
        from .verifiers_legacy import LegacyVerifiers

        return LegacyVerifiers(settings)
    from .verifiers_v1 import VerifiersTaskset

    return VerifiersTaskset(settings)


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of `make`, checked; `options` as JSON."""

    name: str
    options: str
    split: str
    size: int | None
    reward_range: tuple[float, float]
    max_turns: int | None
    render_mode: str | None

    @property
    def title(self) -> str:
        """What its tasks are called."""
        return f"verifiers/{self.name}"


def as_message(message: Any) -> Message:
    """One of ours from one of theirs (a model of either API, or a dict).

    Raises:
        ValueError: it holds more than text.
    """
    data = message if isinstance(message, Mapping) else message.model_dump()
    calls = tuple(
        ToolCall.from_dict(call)
        if "function" in call
        else ToolCall(call["name"], call["arguments"], call.get("id") or "")
        for call in data.get("tool_calls") or ()
    )
    content = as_text(data.get("content"))
    return Message(data["role"], content, calls, data.get("tool_call_id"))


def as_text(content: Any) -> str:
    """The text of a message's content, which may come in parts."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = [part if isinstance(part, Mapping) else part.model_dump() for part in content]
    if other := {part["type"] for part in parts} - {"text"}:
        raise ValueError(f"the messages hold {sorted(other)}, and Palestra's hold text only")
    return "".join(part["text"] for part in parts)


def divided(settings: Settings, tasks: Sequence[Task]) -> TaskList:
    """The tasks of the split that is asked for, by the hash of their prompts.

    Raises:
        ValueError: there are none.
    """
    kept = [task for task in tasks if in_split(task.question, settings.split)]
    if not kept:
        raise ValueError(
            f"the {settings.split} split of {settings.name!r} is empty: none of its {len(tasks)} "
            f"prompts falls into it by hash, so more tasks are needed"
        )
    return TaskList(settings.title, settings.split, kept[: settings.size])
