"""`palestra/OpenEnv-v0`: an environment on an OpenEnv server, played in chat.

    env = palestra.make("palestra/OpenEnv-v0", url="http://127.0.0.1:8000")

A server that is lost, refuses, ends an episode at its reset, or gives no reward with its end
makes it invalid.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from ...core import ChatEnv
from ...episode import Reply
from ...records import Json
from ...tasks.seeds import SeedTasks
from ...types import Message, StopReason, Task
from .line import Line, is_local

Write = Callable[[Message], Mapping[str, Any]]
Read = Callable[[Mapping[str, Any]], Sequence[Message]]


class OpenEnvChat(ChatEnv):
    """An OpenEnv server's environment whose actions and observations are text.

    Args:
        url: of the server, `http://` or `ws://`.
        action: the field of the server's action that takes the agent's text, or a function
            from the agent's message to the whole action. By default it is looked up in the
            server's schema: an action with one text field needs no telling.
        read: a function from the server's observation to messages (default: `shown`).
        instructions: the first message, for servers that do not say what is asked.
        reset: further fields of the server's reset, beside the seed.
        success: the sum of rewards from which an episode counts as correct, where the server
            does not say.
        reward_range: of a whole episode, where it is known.
        split, size: which seeds are the tasks, and how many.
        timeout_s: longest wait for one answer.

    Raises:
        ConnectionError: the server does not answer.
        ValueError: its action has no single text field, and `action` is not given.
    """

    def __init__(
        self,
        *,
        url: str,
        action: str | Write | None = None,
        read: Read | None = None,
        instructions: str = "",
        reset: Mapping[str, Any] | None = None,
        success: float | None = None,
        reward_range: tuple[float, float] = (float("-inf"), float("inf")),
        split: str = "train",
        size: int | None = None,
        timeout_s: float = 300.0,
        max_turns: int = 100,
        render_mode: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        tasks = SeedTasks(f"openenv/{urlsplit(self.url).netloc}", split=split, size=size)
        super().__init__(tasks=tasks, max_turns=max_turns, render_mode=render_mode)
        self.reward_range = (float(reward_range[0]), float(reward_range[1]))
        self.instructions, self.success = instructions, success
        self.reset_fields = dict(reset or {})
        if action is None:
            action = text_field(self.url)
        self._write = action if callable(action) else partial(writes, action)
        self._read = read or shown
        self._line = Line(self.url, timeout_s)

    def begin(self, task: Task) -> Sequence[Message]:
        data = {"seed": task.metadata["seed"]} if "seed" in task.metadata else {}
        answer = self._line.ask_and_wait({"type": "reset", "data": data | self.reset_fields})
        if answer.get("done"):
            raise ConnectionError("the server ended the episode at its reset")
        self.episode.memory = []  # the rewards that were given
        opening = tuple(self._read(answer["observation"]))
        metadata = answer.get("metadata") or {}
        told = "\n\n".join(filter(None, (self.instructions, metadata.get("tool_instructions"))))
        return (Message("system", told), *opening) if told else opening

    async def respond(self, action: Message) -> Reply:
        answer = await self._line.ask({"type": "step", "data": dict(self._write(action))})
        reward, memory = answer.get("reward"), self.episode.memory
        if reward is not None:
            memory.append(float(reward))
        value = 0.0 if reward is None else float(reward)
        messages = tuple(self._read(answer["observation"]))
        if not answer.get("done"):
            return Reply(messages, value)
        if reward is None:  # what came before it is not what the episode earned
            raise ConnectionError("the server ended the episode without a reward")
        metadata = answer.get("metadata") or {}
        stop = StopReason(metadata.get("stop_reason", "completed"))
        parts = metadata.get("reward_parts") or {"return": sum(memory)}
        return Reply(messages, value, stop, parts, self._correct(metadata, sum(memory)))

    def _correct(self, metadata: Mapping[str, Any], total: float) -> bool | None:
        if isinstance(metadata.get("correct"), bool):
            return bool(metadata["correct"])
        return None if self.success is None else total >= self.success

    def save_resources(self) -> Any:
        raise TypeError("the episode is on a server, so it cannot be branched")

    def close(self) -> None:
        super().close()
        self._line.close()


def writes(field: str, message: Message) -> Json:
    """An action whose `field` is the agent's text."""
    data: Json = {field: message.content}
    if message.tool_calls:
        data["tool_calls"] = [call.to_dict() for call in message.tool_calls]
    return data


def shown(observation: Mapping[str, Any]) -> tuple[Message, ...]:
    """Messages of an observation: its own, or its fields as text.

    Fields that are empty, and metadata, are left out; one text alone is shown as it is.
    """
    if isinstance(observation.get("messages"), list):
        said = [Message.from_dict(m) for m in observation["messages"]]
        return tuple(m for m in said if m.role != "assistant")
    fields = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in observation.items()
        if name != "metadata" and value not in (None, "", [], {})
    }
    if not fields:
        return ()
    alone = len(fields) == 1 and isinstance(observation[next(iter(fields))], str)
    lines = fields.values() if alone else (f"{name}: {text}" for name, text in fields.items())
    return (Message("user", "\n".join(lines)),)


def text_field(url: str) -> str:
    """The one text field of a server's action, by its `/schema`.

    Raises:
        ConnectionError: the server does not answer.
        ValueError: there is not exactly one; the message lists the fields.
    """
    page = url.replace("ws", "http", 1) if url.startswith("ws") else url
    opener = build_opener(ProxyHandler({})) if is_local(url) else build_opener()
    try:
        with opener.open(f"{page}/schema", timeout=30) as response:
            schema = json.load(response)["action"]
    except (URLError, OSError, ValueError, KeyError) as error:
        raise ConnectionError(f"no OpenEnv server answers at {url}: {error}") from error
    required, fields = set(schema.get("required", ())), schema.get("properties", {})
    texts: set[str] = {name for name, kind in fields.items() if kind.get("type") == "string"}
    for found in (texts & required, texts):
        if len(found) == 1 and required <= found:
            return found.pop()
    raise ValueError(
        f"the action of {url} has the fields {sorted(fields)}, and not one "
        f"text field alone: say which takes the agent's text with action="
    )
