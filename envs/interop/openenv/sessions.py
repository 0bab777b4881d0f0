"""Sessions: one environment each, reused when its client has left, and never beyond a cap."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gymnasium.error import ResetNeeded

from ...core import ChatEnv, Step
from ...records import Json
from ...seats import SeatEnv
from ...types import Message
from .wire import Code, Refused, Reset, State, result


@dataclass(frozen=True, slots=True)
class ServeLimits:
    """What a server grants its clients.

    Attributes:
        max_sessions: episodes at a time; one more is refused with CAPACITY_REACHED.
        idle_s: a session that asks for nothing for so long is closed.
        step_s: longest time one step may take; the session ends when it takes longer. Only
            what awaits can be cut off: a plain `respond`, and every reset, runs to its end and
            holds up all sessions meanwhile.
        max_message_bytes: largest message taken.
    """

    max_sessions: int = 256
    idle_s: float = 600.0
    step_s: float = 300.0
    max_message_bytes: int = 2**20

    def __post_init__(self) -> None:
        for name in ("max_sessions", "idle_s", "step_s", "max_message_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


class Session:
    """The episodes of one client, one after another."""

    def __init__(self, env: ChatEnv) -> None:
        self.env = env
        self.busy = False
        self._state = State()

    def reset(self, request: Reset) -> Json:
        """Begin an episode. Raises Refused when the environment cannot."""
        options = {} if request.task is None else {"task": request.task}
        try:
            messages, info = self.env.reset(seed=request.seed, options=options)
        except Exception as error:  # the environment boundary
            self._state = State()
            text = f"reset failed: {type(error).__name__}: {error}"
            raise Refused(Code.EXECUTION_ERROR, text) from error
        name = request.episode_id or uuid.uuid4().hex
        self._state = State(episode_id=name, task_id=info["task_id"])
        metadata = {**info, "episode_id": name, **self._seat()}
        if self.env.tool_schemas:
            metadata["tools"] = self.env.tool_schemas
            metadata["tool_instructions"] = self.env.tool_instructions
        return result(messages, None, False, metadata)

    async def step(self, action: Message, limit_s: float) -> Json:
        """Take one step.

        Raises:
            Refused: no episode is running, or it became invalid or took too long: such an
                episode has no reward, and a client must not find one.
        """
        if self._state.episode_id is None:  # whatever the environment still holds is not ours
            text = "no episode is running in this session: call reset() first"
            raise Refused(Code.EXECUTION_ERROR, text)
        try:
            async with asyncio.timeout(limit_s):
                step = await self.env.astep(action)
        except ResetNeeded as error:
            raise Refused(Code.EXECUTION_ERROR, str(error)) from error
        except TimeoutError as error:
            self.env.abandoned = True
            text = f"the step took longer than {limit_s:g} s: the episode is invalid"
            raise Refused(Code.EXECUTION_ERROR, text, fatal=True) from error
        except asyncio.CancelledError:  # the server is shutting down
            self.env.abandoned = True
            raise
        self._state.step_count += 1
        return self._answer(step)

    def state(self) -> Json:
        return self._state.model_dump()

    def _answer(self, step: Step) -> Json:
        messages, reward, terminated, truncated, info = step
        failure = info.get("failure")
        if failure is not None:
            self._state.done = True
            text = f"the episode is invalid ({failure.kind}): {failure.message}"
            raise Refused(Code.EXECUTION_ERROR, text, failure=failure.to_dict())
        if not (terminated or truncated):
            return result(messages, float(reward), False, self._seat())
        self._state.done = True
        metadata = {
            "stop_reason": info["stop_reason"].value,
            "outcome": info["outcome"].value,
            "correct": info["correct"],
            "reward_parts": info["reward_parts"],
        }
        return result(messages, float(reward), True, metadata)

    def _seat(self) -> dict[str, Any]:
        return {"seat": self.env.seat} if isinstance(self.env, SeatEnv) else {}


class Sessions:
    """All sessions of a server, and the environments that wait for the next."""

    def __init__(self, make_env: Callable[[], ChatEnv], limits: ServeLimits) -> None:
        self.limits = limits
        self.active = 0
        self._make_env = make_env
        self._free: list[ChatEnv] = []
        self._named: dict[str, Session] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def open(self) -> Session:
        """A session of its own environment.

        Raises:
            Refused: there is no room, or the environment cannot be made.
        """
        if self.active >= self.limits.max_sessions:
            raise Refused(
                Code.CAPACITY_REACHED,
                f"all {self.limits.max_sessions} sessions are taken: try later, or start the "
                f"server with more",
                fatal=True,
                active_sessions=self.active,
                max_sessions=self.limits.max_sessions,
            )
        self.active += 1
        try:
            return Session(self._free.pop() if self._free else await self._make())
        except BaseException:
            self.active -= 1
            raise

    def release(self, session: Session) -> None:
        """End a session; its environment serves the next one, unless a step was cut off."""
        self.active -= 1
        session.env.release_resources()
        if session.env.abandoned:
            session.env.close()
        else:
            session.env._episode = None  # the next client must not find this conversation
            self._free.append(session.env)

    def close(self) -> None:
        """End what is left: episodes over plain HTTP, and environments that wait."""
        for name in list(self._named):
            self.forget(name)
        while self._free:
            self._free.pop().close()

    # Episodes over plain HTTP have no connection: they are known by their id.

    def keep(self, name: str, session: Session) -> None:
        self._named[name] = session
        self.touch(name)

    def vacate(self, name: str) -> None:
        """Forget an episode whose name the next one takes.

        Raises:
            Refused: it is at a step, which would go on in an environment that others use.
        """
        if name in self._named and self._named[name].busy:
            raise Refused(Code.SESSION_ERROR, f"episode {name!r} is still at its last step")
        self.forget(name)

    def keeps(self, name: str, session: Session) -> bool:
        """Whether the name still means this session."""
        return self._named.get(name) is session

    def named(self, name: str) -> Session:
        """Raises Refused: there is no such episode (any more)."""
        if name not in self._named:
            text = f"no episode {name!r}: POST /reset begins one, and idle ones are closed"
            raise Refused(Code.SESSION_ERROR, text)
        return self._named[name]

    def touch(self, name: str) -> None:
        """Count its idle time from now."""
        if name in self._timers:
            self._timers[name].cancel()
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(self.limits.idle_s, self._expire, name)

    def forget(self, name: str) -> None:
        if name in self._named:
            self._timers.pop(name).cancel()
            self.release(self._named.pop(name))

    def _expire(self, name: str) -> None:
        self.touch(name) if self._named[name].busy else self.forget(name)

    async def _make(self) -> ChatEnv:
        try:
            return await asyncio.to_thread(self._make_env)
        except Exception as error:  # an author's constructor
            text = f"the environment cannot be made: {type(error).__name__}: {error}"
            raise Refused(Code.FACTORY_ERROR, text, fatal=True) from error
