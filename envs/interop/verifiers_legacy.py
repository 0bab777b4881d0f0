"""verifiers before 0.4: `load_environment`, `SingleTurnEnv`, `ToolEnv`, `MultiTurnEnv`, `Rubric`.

Its rollout loop is left out, and its steps are called one by one: `setup_state`, the stop
conditions, `env_response`, then the rubric. What the environment says is its own.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import Any

from ..core import ToolEnv
from ..driving import maybe_await
from ..episode import Grade, Reply
from ..protocols import MalformedCall
from ..tasks.base import HELDOUT, TaskList
from ..tools import Tool
from ..types import Invalid, Message, Task, ToolCall, ToolResult, ToolStatus
from .packages import need
from .verifiers import Settings, as_message, divided

_raised: ContextVar[list[str] | None] = ContextVar("raised", default=None)
_SHOWN = "palestra_prompt"  # where a state keeps what the agent has been shown so far


class LegacyVerifiers(ToolEnv):
    """An environment of verifiers before 0.4; see `make` in `verifiers.py`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.foreign = foreign = _load(settings.name, settings.options)
        limit = settings.max_turns or (foreign.max_turns if foreign.max_turns > 0 else 32)
        tasks, self._rows = _tasks(foreign, settings)
        tools = [
            Tool(tool.name, tool.description, tool.parameters, _never, dict)
            for tool in foreign.tool_defs or ()
        ]
        super().__init__(
            tasks=tasks, tools=tools, max_turns=limit, render_mode=settings.render_mode
        )
        self.reward_range = settings.reward_range

    def begin(self, task: Task) -> Sequence[Message]:
        state = self._driver.run(self._begun(self._rows[task.metadata["index"]]), True)
        self.episode.memory = state
        return [as_message(message) for message in state[_SHOWN]]

    async def respond(self, action: Message) -> Reply:
        state, said = self.episode.memory, self._theirs(action)
        before = state[_SHOWN]
        await self.foreign.add_trajectory_step(state, _step(state, before, said))
        if await self.foreign.is_completed(state):
            return await self._finish()
        prompt = await self.foreign.get_prompt_messages(state)
        if await self.foreign.is_completed(state):  # env_response may have ended it
            return await self._finish()
        state[_SHOWN] = list(prompt)
        news = tuple(as_message(message) for message in prompt[len(before) + 1 :])
        results = _results(said, news)
        self.episode.tool_results.extend(results)
        return Reply(news, tool_results=results)

    async def grade(self, task: Task, messages: tuple[Message, ...]) -> Grade | Invalid:
        state, foreign = self.episode.memory, self.foreign
        await foreign.cleanup(state)
        if state["error"] is not None:
            return Invalid("env", f"{type(state['error']).__name__}: {state['error']}")
        raised: list[str] = []
        _raised.set(raised)
        await foreign.rubric.score_rollout(state)
        await foreign.rubric.cleanup(state)
        if raised:
            return Invalid("verifier", "; ".join(raised))
        reward = float(state["reward"])
        return Grade(reward, dict(state["metrics"] or {}), correct=reward >= 1.0)

    def __reduce__(self) -> tuple[Any, ...]:
        # What load_environment makes holds functions that cannot be pickled: load it again.
        return type(self), (self._settings,), {"_episode": self._episode}

    async def _begun(self, row: Any) -> Any:
        state = await self.foreign.init_state(row, _no_model(), "")
        for counter in ("usage_tracker", "usage"):  # of tokens; they cannot be copied
            state.pop(counter, None)
        state = await self.foreign.setup_state(state) or state
        state[_SHOWN] = list(await self.foreign.get_prompt_messages(state))
        return state

    def _theirs(self, action: Message) -> Any:
        """An action as they would have got it from a client that parses tool calls."""
        types = need("verifiers.types", "verifiers")
        written = []
        calls = self.protocol.calls(action) if self.protocol and self.tools else []
        for number, call in enumerate(calls):
            if isinstance(call, MalformedCall):  # answered by their own error about its JSON
                call = ToolCall("", call.text)
            id = call.id or f"call_{len(self.messages)}_{number}"
            written.append(types.ToolCall(id=id, name=call.name, arguments=call.arguments))
        return types.AssistantMessage(content=action.content, tool_calls=written or None)


@lru_cache(maxsize=8)
def _load(name: str, options: str) -> Any:
    """What `load_environment` makes; it keeps nothing of an episode, so all may share it."""
    vf = need("verifiers", "verifiers")
    try:
        load = vf.load_environment
    except AttributeError as error:
        raise ValueError(
            f"{name!r} is written for verifiers before 0.4, and {vf.__version__} is installed: "
            f"pip install 'verifiers<0.4'"
        ) from error
    env = load(name, **json.loads(options))
    if not isinstance(env, vf.MultiTurnEnv):
        raise ValueError(f"{name!r} is a {type(env).__name__}, which has no turns to play")
    if env.rubric.has_group_rewards:
        raise ValueError(f"{name!r} rewards groups of rollouts, which has no place in an episode")
    for rubric in getattr(env.rubric, "rubrics", [env.rubric]):
        rubric.funcs = [_recorded(function) for function in rubric.funcs]
    return env


def _recorded(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Keeps what a reward function raises: verifiers would log it, and count 0."""

    @wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return await maybe_await(function(*args, **kwargs))
        except Exception as error:
            raised = _raised.get()
            if raised is not None:
                name = getattr(function, "__name__", "reward")
                raised.append(f"{name}: {type(error).__name__}: {error}")
            raise

    return call


def _tasks(env: Any, settings: Settings) -> tuple[TaskList, list[Any]]:
    """The tasks of a split, and the rows that their indices stand for."""
    title, split = settings.title, settings.split
    train, heldout = env.build_dataset(), env.build_eval_dataset()
    own = train is not None and heldout is not None
    rows = list(heldout if train is None or (own and split == HELDOUT) else train)
    tasks = [
        Task(
            f"{title}/{split}/{index}",
            tuple(as_message(message) for message in row["prompt"]),
            _reference(row.get("answer")),
            split,
            metadata={"index": index},
        )
        for index, row in enumerate(rows)
    ]
    if own:
        return TaskList(title, split, tasks[: settings.size]), rows
    return divided(settings, tasks), rows


def _reference(answer: Any) -> str:
    return answer if isinstance(answer, str) else "" if answer is None else json.dumps(answer)


def _step(state: Any, prompt: list[Any], said: Any) -> dict[str, Any]:
    """One of their TrajectorySteps."""
    return {
        "prompt": prompt,
        "completion": [said],
        "response": None,
        "tokens": None,
        "reward": None,
        "advantage": None,
        "is_truncated": False,
        "trajectory_id": state["trajectory_id"],
        "extras": {},
    }


def _results(said: Any, news: Sequence[Message]) -> tuple[ToolResult, ...]:
    """Their answers to calls as ours. Which of them failed is not told."""
    answers = {m.tool_call_id: m.content for m in news if m.role == "tool"}
    return tuple(
        ToolResult(
            ToolCall(call.name, call.arguments, call.id),
            answers[call.id],
            ToolStatus.OK if call.name else ToolStatus.MALFORMED,
        )
        for call in said.tool_calls or ()
        if call.id in answers
    )


def _no_model() -> Any:
    """Stands for the policy's client: an environment that asks the model itself fails."""
    vf = need("verifiers", "verifiers")
    base = need("verifiers.clients", "verifiers").Client

    async def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise vf.Error("the environment asked for a reply of its own, and there is no model here")

    methods = {"get_response": refuse, "__reduce__": lambda self: (_no_model, ())}
    kind = type("NoModel", (base,), methods)
    kind.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    return object.__new__(kind)


async def _never() -> None:
    raise NotImplementedError("the environment runs its own tools")
