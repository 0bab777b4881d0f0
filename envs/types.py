"""The values that flow through Palestra, from messages to trajectories.

Everything here is a frozen, slotted dataclass that survives a JSON round trip
(`to_dict` / `from_dict`) and owns its data: sequences are tuples, so nothing can be
shared and then changed. Read this file first; `envs/core.py` comes next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Self, get_args

from .records import Json, Record

SCHEMA_VERSION = 1

Role = Literal["system", "user", "assistant", "tool"]
_ROLES = get_args(Role)


@dataclass(frozen=True, slots=True)
class ToolCall(Record):
    """One call in the OpenAI shape; `arguments` is the JSON text exactly as written."""

    name: str
    arguments: str = "{}"
    id: str = ""

    def to_dict(self) -> Json:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        function = data["function"]
        return cls(function["name"], function["arguments"], data.get("id") or "")


@dataclass(frozen=True, slots=True)
class Message(Record):
    """One chat message in the OpenAI shape.

    Example: `Message("user", "What is 2 + 2?").to_dict()` gives
    `{"role": "user", "content": "What is 2 + 2?"}`.

    Raises:
        ValueError: the role is none of the four.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.role not in _ROLES:
            raise ValueError(f"a message has one of the roles {_ROLES}, got {self.role!r}")

    def to_dict(self) -> Json:
        data: Json = {"role": self.role, "content": self.content}
        if self.tool_calls:
            data["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        if self.tool_call_id is not None:
            data["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            data["name"] = self.name
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        calls = tuple(ToolCall.from_dict(c) for c in data.get("tool_calls") or ())
        content = data.get("content") or ""
        return cls(data["role"], content, calls, data.get("tool_call_id"), data.get("name"))


@dataclass(frozen=True, slots=True)
class Task(Record):
    """One problem, never the environment that poses it.

    `reference` is what the verifier compares with; it is never shown to the agent.
    `metadata` must be JSON-serialisable.

    Raises:
        TypeError: the prompt is not made of messages.
    """

    id: str
    prompt: tuple[Message, ...]
    reference: str = ""
    split: str = "train"
    difficulty: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        prompt: Any = self.prompt
        if isinstance(prompt, str | Message) or not all(isinstance(m, Message) for m in prompt):
            raise TypeError(
                f"the prompt of a task is a tuple of messages, got {prompt!r:.100}: "
                f'a single question is (Message("user", "..."),)'
            )

    @property
    def question(self) -> str:
        """The text of the last user message (empty when there is none)."""
        return next((m.content for m in reversed(self.prompt) if m.role == "user"), "")


class StopReason(StrEnum):
    """Why an episode ended. Closed: a new reason is a schema change."""

    COMPLETED = "completed"  # the agent gave its final answer
    MAX_TURNS = "max_turns"  # the environment's turn budget ran out
    MAX_TOKENS = "max_tokens"  # the agent's token budget ran out
    MAX_TOOL_CALLS = "max_tool_calls"  # the tool budget ran out and the env stops on it
    CONTEXT_OVERFLOW = "context_overflow"  # the next prompt does not fit the model
    PARSE_ERROR = "parse_error"  # too many malformed actions
    TIMEOUT = "timeout"  # the episode's wall-clock budget ran out
    ENV_ERROR = "env_error"  # tool infrastructure, sandbox, verifier or env code failed
    ENGINE_ERROR = "engine_error"  # the engine failed or was lost


class Outcome(StrEnum):
    """How an episode counts. Invalid is not zero: it has no reward at all."""

    VALID = "valid"
    TRUNCATED = "truncated"
    INVALID = "invalid"

    @classmethod
    def of(cls, reason: StopReason) -> Outcome:
        if reason in (StopReason.ENV_ERROR, StopReason.ENGINE_ERROR):
            return cls.INVALID
        return cls.VALID if reason is StopReason.COMPLETED else cls.TRUNCATED


@dataclass(frozen=True, slots=True)
class Invalid(Record):
    """An infrastructure failure, as a value: what failed (`kind`) and what it said.

    Kinds in use: sandbox, tool, verifier, judge, env, engine.
    """

    kind: str
    message: str = ""


class ToolStatus(StrEnum):
    OK = "ok"  # ran without error
    ERROR = "error"  # ran, and raised or failed
    TIMEOUT = "timeout"  # ran, and was stopped at a limit
    MALFORMED = "malformed"  # could not be parsed or validated: never ran
    REFUSED = "refused"  # the call budget was used up: never ran

    @property
    def executed(self) -> bool:
        return self in (ToolStatus.OK, ToolStatus.ERROR, ToolStatus.TIMEOUT)


@dataclass(frozen=True, slots=True)
class ToolResult(Record):
    """What one tool call came to. `content` is what the agent is shown."""

    call: ToolCall
    content: str
    status: ToolStatus
    duration_s: float = 0.0


class FinishReason(StrEnum):
    STOP = "stop"  # an end-of-turn token was sampled (it is the last of token_ids)
    STOP_STRING = "stop_string"  # a stop string appeared; its tokens are kept
    LENGTH = "length"  # max_tokens were sampled
    ABORT = "abort"  # the request was cancelled


@dataclass(frozen=True, slots=True)
class Completion(Record):
    """Exactly what the engine sampled. Text is decoded from it, never re-tokenised.

    Attributes:
        token_ids: [T] sampled ids, the end-of-turn id included when one was sampled.
        logprobs: [T] log-probability of each sampled id under the distribution that was
            sampled from (after temperature), natural log.
        policy_version: version of the weights that sampled the *first* token.
        prompt_tokens / cached_tokens: prompt length, and how much of it was not prefilled.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    stop: str | None = None
    policy_version: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(
                f"a completion needs one log-probability per token: "
                f"got {len(self.token_ids)} ids and {len(self.logprobs)} log-probs"
            )

    def __add__(self, later: Completion) -> Completion:
        """Join two pieces of one turn (sampled back to back, nothing in between)."""
        return replace(
            later,
            token_ids=self.token_ids + later.token_ids,
            logprobs=self.logprobs + later.logprobs,
            policy_version=self.policy_version,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            queue_s=self.queue_s + later.queue_s,
            prefill_s=self.prefill_s + later.prefill_s,
            decode_s=self.decode_s + later.decode_s,
        )


@dataclass(frozen=True, slots=True)
class Turn(Record):
    """One model call: what it was shown since its last action, what it did, what came of it.

    `num_sampled` counts its tokens; the ids themselves stand once, on the trajectory.
    """

    observation: tuple[Message, ...]
    action: Message
    tool_results: tuple[ToolResult, ...] = ()
    reward: float = 0.0
    num_sampled: int = 0
    finish_reason: FinishReason = FinishReason.STOP
    generate_s: float = 0.0
    env_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ToolStats(Record):
    """Tool use over one episode. `calls` counts executions only (ok + error + timeout)."""

    calls: int = 0
    ok: int = 0
    errors: int = 0
    timeouts: int = 0
    malformed: int = 0
    refused: int = 0
    hallucinated: int = 0  # tool outputs that the model wrote itself

    @classmethod
    def of(cls, results: Sequence[ToolResult], hallucinated: int = 0) -> Self:
        count = {s: sum(r.status is s for r in results) for s in ToolStatus}
        ok, errors, timeouts = (
            count[s] for s in (ToolStatus.OK, ToolStatus.ERROR, ToolStatus.TIMEOUT)
        )
        return cls(
            calls=ok + errors + timeouts,
            ok=ok,
            errors=errors,
            timeouts=timeouts,
            malformed=count[ToolStatus.MALFORMED],
            refused=count[ToolStatus.REFUSED],
            hallucinated=hallucinated,
        )


@dataclass(frozen=True, slots=True)
class Trajectory(Record):
    """One rollout, token for token.

    Attributes:
        token_ids: [T] everything the engine saw, in order: prompt, sampled, observed, ...
        mask: [T] True where the token was sampled by the policy (and so is trainable).
        logprobs: [T] the sampler's log-probability where `mask` is True, 0.0 elsewhere.
        prompt_length: number of leading tokens of the first prompt.
        reward: None if and only if the outcome is invalid.
        correct: whether the verifier accepted the answer; None where nothing says so.
    """

    task_id: str
    env_id: str
    token_ids: tuple[int, ...]
    mask: tuple[bool, ...]
    logprobs: tuple[float, ...]
    prompt_length: int
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    reward: float | None
    reward_parts: Mapping[str, float] = field(default_factory=dict)
    correct: bool | None = None
    failure: Invalid | None = None
    tools: ToolStats = ToolStats()
    seed: int = 0
    policy_version: int = 0
    duration_s: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.token_ids) == len(self.mask) == len(self.logprobs):
            raise ValueError(
                f"token_ids, mask and logprobs must have one entry per token: got "
                f"{len(self.token_ids)}, {len(self.mask)} and {len(self.logprobs)}"
            )
        if (self.reward is None) != (self.outcome is Outcome.INVALID):
            raise ValueError(
                f"reward must be None exactly when the outcome is invalid: "
                f"got reward {self.reward} with stop reason {self.stop_reason.value}"
            )

    @property
    def outcome(self) -> Outcome:
        return Outcome.of(self.stop_reason)

    @property
    def num_sampled(self) -> int:
        """Tokens written by the model."""
        return sum(self.mask)

    @property
    def num_observed(self) -> int:
        """Tokens after the first prompt that the model did not write (tool output)."""
        return len(self.token_ids) - self.prompt_length - self.num_sampled

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation in order."""
        return tuple(m for turn in self.turns for m in (*turn.observation, turn.action))

    def to_dict(self) -> Json:
        head = {"schema_version": SCHEMA_VERSION, "outcome": self.outcome.value}
        return head | Record.to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"this Palestra reads trajectories of schema {SCHEMA_VERSION}, got {version!r}: "
                f"read the file with the version that wrote it"
            )
        return super(Trajectory, cls).from_dict(data)


@dataclass(frozen=True, slots=True)
class Group(Record):
    """The G trajectories of one task: what a group baseline or a group reward sees."""

    task: Task
    trajectories: tuple[Trajectory, ...]

    @property
    def valid(self) -> tuple[Trajectory, ...]:
        """The members that carry a reward. Invalid ones never enter a statistic."""
        return tuple(t for t in self.trajectories if t.reward is not None)
