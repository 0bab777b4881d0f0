"""`ChatEnv` and `ToolEnv`: real Gymnasium environments whose actions are chat messages.

An observation is the list of messages added since the agent's last action; an action is an
assistant message (a plain string is accepted as its content). Authors write messages only:
tokens, masks and log-probabilities are the rollout's business (`agents/rollout.py`).

    class Capital(ToolEnv):
        def grade(self, task, messages):
            return float(task.reference.lower() in messages[-1].content.lower())

    env = Capital(tasks=[Task("fr", (Message("user", "The capital of France?"),), "Paris")])

Hooks may be `def` or `async def`. `step` and `reset` are Gymnasium's; `astep` is `step` in a loop.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium
from gymnasium.error import ResetNeeded

from ..sandbox.types import ProgramFault, SandboxError
from .driving import Driver, is_async, maybe_await
from .episode import Ask, Episode, Failure, Grade, Reply, Snapshot, checked
from .protocols import MalformedCall, Protocol, get_protocol
from .spaces import ChatSpace, TextSpace, as_action
from .tasks.base import TaskSet
from .tools import Tool, ToolFailure, malformed_call, unknown_tool
from .types import (
    Invalid,
    Message,
    Outcome,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    ToolStats,
    ToolStatus,
)

if TYPE_CHECKING:
    from .rewards.group import GroupRewards

Action = str | Message
Step = tuple[list[Message], SupportsFloat, bool, bool, dict[str, Any]]


class ChatEnv(gymnasium.Env[list[Message], Action]):
    """An environment whose actions and observations are chat messages.

    Args:
        tasks: the problems, any indexable sequence.
        max_turns: actions after which an episode is truncated.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - Gymnasium's shape
    reward_range: tuple[float, float] = (0.0, 1.0)  # of a whole episode
    truncated_reward: float | None = None
    """What an episode gets that a budget ends before its grade, beside what its steps have paid.
    None: the low end of `reward_range` where that is below 0 and finite, else 0."""
    protocol: Protocol | None = None
    group_rewards: GroupRewards | None = None
    """Rewards of a whole group, added in training and evaluation once all members have finished."""
    abandoned = False
    """Set when a step was cut off half way and may still run: never use the environment again."""

    def __init__(
        self, *, tasks: Sequence[Task] | TaskSet, max_turns: int = 8, render_mode: str | None = None
    ) -> None:
        if not len(tasks):
            raise ValueError("the task set is empty: an environment needs at least one task")
        if max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, got {max_turns}")
        self.tasks = tasks
        self.max_turns = max_turns
        self.render_mode = render_mode
        self.observation_space = ChatSpace()
        self.action_space = TextSpace()
        self._episode: Episode | None = None
        self._driver = Driver()

    # What authors override.

    def begin(self, task: Task) -> Sequence[Message]:
        """The first observation of an episode (default: the task's prompt)."""
        return task.prompt

    def respond(self, action: Message) -> Any:
        """Answer one action with a `Reply`; `async def` where it waits (see `ToolEnv.grade`)."""
        raise NotImplementedError(f"{type(self).__name__} must define respond(action)")

    def oracle(self, task: Task) -> Sequence[Action]:
        """Actions that earn the most on `task`, for `palestra check`; empty if not known."""
        return ()

    async def measure(self, ask: Ask) -> dict[str, float]:
        """Figures of a policy as a whole, for evaluations, from how likely it says things."""
        return {}

    def save_resources(self) -> Any:
        """What a snapshot must copy beside the episode (live sessions); default nothing."""
        return None

    def load_resources(self, saved: Any) -> None:
        """Take back what `save_resources` gave. Must leave `saved` usable again."""

    def release_resources(self) -> None:
        """Close what the episode holds open. Called by `reset` and `close`."""

    @property
    def tool_schemas(self) -> list[dict[str, Any]]:
        """OpenAI schemas of the tools on offer; empty where there are none."""
        return []

    @property
    def tool_instructions(self) -> str:
        """What to tell a model whose chat template has no place for tools."""
        return ""

    @property
    def may_call(self) -> bool:
        """Whether a tool call made now would be run."""
        return False

    # Gymnasium's interface.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[list[Message], dict[str, Any]]:
        """Begin an episode. `options={"task": Task | index}` fixes the task.

        With the same seed and task every member of a group gets the same episode.
        """
        super().reset(seed=seed)
        self.release_resources()
        task = self._choose((options or {}).get("task"))
        self._episode = Episode(task, seed, [])
        opening = list(self.begin(task))
        self._episode.messages = list(opening)
        return opening, {"task_id": task.id, "split": task.split}

    def step(self, action: Action) -> Step:
        """Gymnasium's five values. Invalid episodes give reward NaN, truncated, and say why
        in `info["failure"]`; NaN so that no average can take them for zero."""
        needs_loop = self._needs_loop
        return self._driver.run(self.astep(action, in_loop=needs_loop), needs_loop)

    async def astep(self, action: Action, *, in_loop: bool = True) -> Step:
        """`step` for callers inside an event loop: plain tools then run in threads."""
        episode = self._running()
        message = as_action(action)
        self._in_loop = in_loop
        episode.messages.append(message)
        episode.num_turns += 1
        if self.protocol:
            episode.hallucinated += self.protocol.hallucinated(message.content)
        try:
            reply = await self._reply(message)
        except Failure as failure:
            return self._end_invalid(failure.invalid)
        return self._result(reply)

    def render(self) -> str | None:
        """The conversation so far as text (render mode "ansi")."""
        if self.render_mode != "ansi" or self._episode is None:
            return None
        return "\n".join(f"[{m.role}] {m.content}" for m in self._episode.messages)

    def close(self) -> None:
        self.release_resources()
        self._driver.close()

    # Branching.

    def snapshot(self) -> Snapshot:
        """Keep this point of the episode: conversation, author's memory, randomness, and
        live tool state. Restore it on this environment or on another of the same kind."""
        episode = copy.deepcopy(self._running(over_is_fine=True))
        state = copy.deepcopy(self.np_random.bit_generator.state)
        return Snapshot(episode, state, self.save_resources())

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot. It stays usable."""
        self.release_resources()
        self._episode = copy.deepcopy(snapshot.episode)
        self.np_random.bit_generator.state = copy.deepcopy(snapshot.random_state)
        self.load_resources(snapshot.resources)

    # What authors read.

    @property
    def task(self) -> Task:
        return self._running(over_is_fine=True).task

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation so far, the action being answered included."""
        return tuple(self._running(over_is_fine=True).messages)

    @property
    def episode(self) -> Episode:
        """The running episode; raises ResetNeeded before the first reset."""
        return self._running(over_is_fine=True)

    def cut_off(self, paid: float) -> float:
        """What an episode earns in all that is cut off when its steps have paid `paid`."""
        low, extra = min(self.reward_range[0], 0.0), self.truncated_reward
        if extra is None:
            extra = low if math.isfinite(low) else 0.0
        return max(low, paid + extra)

    @property
    def tool_stats(self) -> ToolStats:
        episode = self._running(over_is_fine=True)
        return ToolStats.of(episode.tool_results, episode.hallucinated)

    # Inside.

    _in_loop = False

    @property
    def _needs_loop(self) -> bool:
        return is_async(self.respond)

    def _choose(self, wanted: Any) -> Task:
        if isinstance(wanted, Task):
            return wanted
        if wanted is None:
            wanted = int(self.np_random.integers(len(self.tasks)))
        if not isinstance(wanted, int):
            raise TypeError(f'options["task"] is a Task or an index, got {wanted!r}')
        return self.tasks[wanted]

    def _running(self, over_is_fine: bool = False) -> Episode:
        if self._episode is None or (self._episode.stop is not None and not over_is_fine):
            raise ResetNeeded("no episode is running: call reset() first")
        return self._episode

    async def _reply(self, message: Message) -> Reply:
        try:
            return checked(await maybe_await(self.respond(message)))
        except Failure:
            raise
        except ProgramFault:  # the agent's own doing: it ends with nothing, and is no failure
            return Reply((), 0.0, StopReason.COMPLETED, correct=False)
        except SandboxError as error:
            raise Failure(Invalid("sandbox", str(error))) from error
        except ToolFailure as error:
            raise Failure(Invalid("tool", str(error))) from error
        except Exception as error:  # an author's bug must not end a run
            raise Failure(Invalid("env", f"{type(error).__name__}: {error}")) from error

    def _result(self, reply: Reply) -> Step:
        episode = self._running()
        stop = reply.stop
        if stop is None and episode.num_turns >= self.max_turns:
            stop = StopReason.MAX_TURNS
        episode.stop = stop
        episode.messages.extend(reply.messages)
        info: dict[str, Any] = {"tool_results": reply.tool_results}
        if stop is not None:
            info |= {
                "stop_reason": stop,
                "outcome": Outcome.of(stop),
                "reward_parts": dict(reply.parts),
                "correct": reply.correct if stop is StopReason.COMPLETED else False,
            }
        ended = stop is StopReason.COMPLETED
        return list(reply.messages), reply.reward, ended, stop is not None and not ended, info

    def _end_invalid(self, failure: Invalid) -> Step:
        self._running().stop = StopReason.ENV_ERROR
        info = {
            "stop_reason": StopReason.ENV_ERROR,
            "outcome": Outcome.INVALID,
            "failure": failure,
            "correct": None,
            "reward_parts": {},
            "tool_results": (),
        }
        return [], float("nan"), False, True, info


class ToolEnv(ChatEnv):
    """A `ChatEnv` whose agent may call tools before it answers.

    Args:
        tools: typed functions with docstrings (see `envs/tools.py`), or `Tool`s.
        protocol: how calls are written: "fenced" or "hermes" (see `envs/protocols.py`).
        max_tool_calls: executions per episode; beyond it fenced blocks stay text, and hermes
            calls are refused with a notice. None for no cap.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[Task] | TaskSet,
        tools: Sequence[Callable[..., Any] | Tool] = (),
        protocol: str = "hermes",
        max_tool_calls: int | None = None,
        max_turns: int = 8,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(tasks=tasks, max_turns=max_turns, render_mode=render_mode)
        if max_tool_calls is not None and max_tool_calls < 0:
            raise ValueError(f"max_tool_calls must not be negative, got {max_tool_calls}")
        self.protocol = get_protocol(protocol)
        self.max_tool_calls = max_tool_calls
        self.tools = {tool.name: tool for tool in map(Tool.of, tools)}

    def grade(self, task: Task, messages: tuple[Message, ...]) -> Any:
        """Score a finished conversation; `messages[-1]` is the final answer.

        Returns a number, a mapping of reward parts, a `Grade`, `Invalid`, or an awaitable
        of one of these. Make it `async def` where it waits (a judge, a subprocess): a plain one
        runs in the event loop, and all episodes of a rollout wait for it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define grade(task, messages)")

    @property
    def tool_schemas(self) -> list[dict[str, Any]]:
        return [tool.schema() for tool in self.tools.values()]

    @property
    def tool_instructions(self) -> str:
        assert self.protocol is not None
        return self.protocol.instructions(list(self.tools.values())) if self.tools else ""

    @property
    def may_call(self) -> bool:
        return bool(self.tools) and (self.max_tool_calls is None or self._calls_left() > 0)

    def save_resources(self) -> Any:
        for tool in self.tools.values():
            tool.branch()

    def release_resources(self) -> None:
        for tool in self.tools.values():
            tool.release()

    def close(self) -> None:
        super().close()
        for tool in self.tools.values():
            tool.close()

    async def respond(self, action: Message) -> Reply:
        assert self.protocol is not None
        calls = self.protocol.calls(action)
        if not calls or not self.tools or (self.protocol.inline and not self.may_call):
            return await self._finish()
        results = []
        for call in calls:
            results.append(await self._answer(call))
            self.episode.tool_results.append(results[-1])  # the next call's budget sees it
        messages = tuple(
            Message("tool", r.content, tool_call_id=r.call.id or None, name=r.call.name or None)
            for r in results
        )
        last = self.episode.num_turns >= self.max_turns  # without a grade
        return Reply(messages, self.cut_off(0.0) if last else 0.0, tool_results=tuple(results))

    @property
    def _needs_loop(self) -> bool:
        return is_async(self.grade) or any(tool.is_async for tool in self.tools.values())

    def _calls_left(self) -> int:
        executed = sum(r.status.executed for r in self.episode.tool_results)
        return (self.max_tool_calls or 0) - executed

    async def _answer(self, call: ToolCall | MalformedCall) -> ToolResult:
        if isinstance(call, MalformedCall):
            return malformed_call(call.text, call.reason)
        if call.name not in self.tools:
            return unknown_tool(call, list(self.tools))
        if not self.may_call:
            text = "The tool budget is used up. Give your final answer."
            return ToolResult(call, text, ToolStatus.REFUSED)
        return await self.tools[call.name].call(call, in_loop=self._in_loop)

    async def _finish(self) -> Reply:
        try:
            verdict = await maybe_await(self.grade(self.task, self.messages))
        except (SandboxError, ProgramFault):
            raise
        except Exception as error:  # the reward boundary
            text = f"{type(error).__name__}: {error}"
            raise Failure(Invalid("verifier", text)) from error
        if isinstance(verdict, Invalid):
            raise Failure(verdict)
        grade = Grade.of(verdict)
        return Reply((), grade.reward, StopReason.COMPLETED, grade.parts, grade.correct)
