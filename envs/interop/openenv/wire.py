"""What is said between an OpenEnv client and a server, as types and their JSON schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ...records import Json
from ...types import Message, ToolCall

OPENENV_API = "1.0.0"


class Code(StrEnum):
    """The protocol's error codes."""

    INVALID_JSON = "INVALID_JSON"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    EXECUTION_ERROR = "EXECUTION_ERROR"
    CAPACITY_REACHED = "CAPACITY_REACHED"
    FACTORY_ERROR = "FACTORY_ERROR"
    SESSION_ERROR = "SESSION_ERROR"


class Refused(Exception):
    """A request that gets an error for an answer. `fatal` ends the session as well."""

    def __init__(self, code: Code, message: str, *, fatal: bool = False, **details: Any) -> None:
        super().__init__(message)
        self.code, self.fatal, self.details = code, fatal, details

    def to_dict(self) -> Json:
        data = {"message": str(self), "code": self.code.value, **self.details}
        return {"type": "error", "data": data}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Function(_Strict):
    name: str
    arguments: str = Field(default="{}", description="the arguments as JSON text")


class Call(_Strict):
    """A tool call in the OpenAI shape."""

    id: str = ""
    type: Literal["function"] = "function"
    function: Function


class Action(_Strict):
    """An assistant message: text, tool calls, or both."""

    content: str = Field(default="", description="what the assistant writes")
    tool_calls: list[Call] = Field(default_factory=list, description="native tool calls")
    metadata: dict[str, Any] = Field(default_factory=dict, description="ignored")

    def message(self) -> Message:
        calls = (ToolCall(c.function.name, c.function.arguments, c.id) for c in self.tool_calls)
        return Message("assistant", self.content, tuple(calls))


class ChatMessage(_Strict):
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: list[Call] = Field(default_factory=list)
    tool_call_id: str | None = None
    name: str | None = None


class Observation(_Strict):
    """The messages since the last action. At the end, `metadata` says how it ended."""

    messages: list[ChatMessage]
    done: bool = False
    reward: float | None = Field(default=None, description="of the last action; null after a reset")
    metadata: dict[str, Any] = Field(default_factory=dict)


class State(BaseModel):
    """The running episode, as far as an agent may know it."""

    episode_id: str | None = None
    step_count: int = Field(default=0, ge=0)
    task_id: str | None = None
    done: bool = False


class Reset(_Strict):
    """Begin an episode; with the same seed and task it is the same episode."""

    seed: int | None = Field(default=None, ge=0)
    episode_id: str | None = Field(default=None, min_length=1, max_length=255)
    task: int | None = Field(default=None, ge=0, description="index of a task, else drawn")


class StepBody(_Strict):
    """A step over plain HTTP, which names the episode that `/reset` began."""

    action: Action
    episode_id: str
    timeout_s: float | None = Field(default=None, gt=0)
    request_id: str | None = None


class ResetFrame(_Strict):
    type: Literal["reset"]
    data: Reset = Reset()


class StepFrame(_Strict):
    type: Literal["step"]
    data: Action


class StateFrame(_Strict):
    type: Literal["state"]


class CloseFrame(_Strict):
    type: Literal["close"]


Frame = ResetFrame | StepFrame | StateFrame | CloseFrame
_FRAMES: TypeAdapter[Frame] = TypeAdapter(Annotated[Frame, Field(discriminator="type")])


def parse_frame(text: str | bytes) -> Frame:
    """A client's message.

    Raises:
        Refused: it is none; the message says what is wrong where.
    """
    try:
        return _FRAMES.validate_json(text)
    except ValidationError as error:
        raise refusal(error) from error


def refusal(error: ValidationError) -> Refused:
    """A validation error in the protocol's words."""
    first = error.errors(include_url=False, include_input=False)[0]
    kind = first["type"]
    if kind == "json_invalid":
        return Refused(Code.INVALID_JSON, first["msg"])
    if kind.startswith("union_tag"):
        known = "reset, step, state, close"
        return Refused(Code.UNKNOWN_TYPE, f"{first['msg']}: a message is one of {known}")
    where = ".".join(str(part) for part in first["loc"])
    hint = " (this server knows no such field)" if kind == "extra_forbidden" else ""
    return Refused(Code.VALIDATION_ERROR, f"{where}: {first['msg']}{hint}")


def encode(data: Mapping[str, Any] | list[str]) -> str:
    """Compact JSON, in ASCII, since a model may write what UTF-8 cannot.

    Raises:
        Refused: it has no place in JSON, such as NaN.
    """
    try:
        return json.dumps(data, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise Refused(Code.EXECUTION_ERROR, f"the answer is no JSON: {error}") from error


def result(messages: list[Message], reward: float | None, done: bool, metadata: Json) -> Json:
    """An observation as clients read it: reward and end stand beside it, metadata twice."""
    observation: Json = {"messages": [m.to_dict() for m in messages]}
    if not metadata:
        return {"observation": observation, "reward": reward, "done": done}
    observation["metadata"] = metadata
    return {"observation": observation, "reward": reward, "done": done, "metadata": metadata}


def schemas() -> Json:
    """What `/schema` answers."""
    return {
        "action": Action.model_json_schema(),
        "observation": Observation.model_json_schema(),
        "state": State.model_json_schema(),
    }
