"""Rollouts: one episode, one group, many. The only path for training, evaluation and search.

A trajectory holds exactly the ids that the engine was fed or sampled, in order. Nothing is
decoded and encoded again on the way: text is read off the ids for the environment, and what
the environment answers is appended as new ids.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from ..envs.core import ChatEnv
from ..envs.types import (
    Completion,
    FinishReason,
    Group,
    Invalid,
    Message,
    StopReason,
    Task,
    ToolStats,
    Trajectory,
    Turn,
)
from .agent import Agent
from .engines.base import ContextOverflow, EngineError
from .seeding import derive_seed

MakeEnv = Callable[[], ChatEnv]


@dataclass(frozen=True, slots=True)
class RolloutLimits:
    """Budgets of one episode. Exhausting one truncates the episode; it does not fail it.

    `max_tokens` counts tokens sampled over all turns (tool output excluded); `timeout_s` is
    wall clock.
    """

    max_tokens: int = 1024
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.timeout_s <= 0:
            raise ValueError(
                f"max_tokens and timeout_s must be positive, got {self.max_tokens} "
                f"and {self.timeout_s}"
            )


@dataclass(slots=True)
class _Recorder:
    """A trajectory being written."""

    token_ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt_length: int = 0
    turns: list[Turn] = field(default_factory=list)
    reward: float = 0.0
    reward_parts: dict[str, float] = field(default_factory=dict)
    correct: bool | None = None
    failure: Invalid | None = None
    policy_version: int | None = None

    def observe(self, ids: Sequence[int]) -> None:
        self.token_ids += ids
        self.mask += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)

    def sample(self, completion: Completion) -> None:
        self.token_ids += completion.token_ids
        self.mask += [True] * len(completion.token_ids)
        self.logprobs += completion.logprobs
        if self.policy_version is None:
            self.policy_version = completion.policy_version

    @property
    def num_sampled(self) -> int:
        return sum(self.mask)


async def rollout(
    env: ChatEnv,
    agent: Agent,
    task: Task | None = None,
    *,
    seed: int = 0,
    env_seed: int | None = None,
    limits: RolloutLimits | None = None,
) -> Trajectory:
    """Play one episode. Never raises for what goes wrong in it: that is in the trajectory.

    Args:
        seed: fixes every sampled token (where the engine is deterministic).
        env_seed: fixes the episode; members of a group share it (default: `seed`).
    """
    limits = limits or RolloutLimits()
    record = _Recorder()
    start = time.perf_counter()
    options = {"task": task} if task is not None else None
    try:
        observation, _ = env.reset(seed=seed if env_seed is None else env_seed, options=options)
    except Exception as error:  # noqa: BLE001 - the environment boundary
        record.failure = Invalid("env", f"reset: {type(error).__name__}: {error}")
        return _finish(env, task, record, StopReason.ENV_ERROR, seed, start)
    live = getattr(agent.engine, "episode", nullcontext)
    try:
        with live():
            async with asyncio.timeout(limits.timeout_s):
                stop = await _play(env, agent, record, observation, seed, limits)
    except TimeoutError:
        stop = StopReason.TIMEOUT
    except ContextOverflow:
        stop = StopReason.CONTEXT_OVERFLOW
    except EngineError as error:
        record.failure = Invalid("engine", str(error))
        stop = StopReason.ENGINE_ERROR
    return _finish(env, task, record, stop, seed, start)


async def _play(
    env: ChatEnv,
    agent: Agent,
    record: _Recorder,
    observation: list[Message],
    seed: int,
    limits: RolloutLimits,
) -> StopReason:
    renderer = agent.renderer(env)
    record.observe(renderer.opening(observation))
    record.prompt_length = len(record.token_ids)
    while True:
        left = limits.max_tokens - record.num_sampled
        if left < 1:
            return StopReason.MAX_TOKENS
        budget = min(left, agent.sampling.max_tokens)
        begun = time.perf_counter()
        turn_seed = derive_seed(seed, len(record.turns))
        completion, text = await agent.act(
            env, renderer, record.token_ids, max_tokens=budget, seed=turn_seed
        )
        record.sample(completion)
        generated = time.perf_counter()
        action = Message("assistant", text)
        turn = Turn(
            tuple(observation),
            action,
            num_sampled=len(completion.token_ids),
            finish_reason=completion.finish_reason,
            generate_s=generated - begun,
        )
        if completion.finish_reason in (FinishReason.LENGTH, FinishReason.ABORT):
            record.turns.append(turn)
            return _out_of_room(completion, budget)
        step = await env.astep(action)
        stop = _take_step(record, turn, step, time.perf_counter() - generated)
        if stop is not None:
            return stop
        observation = step[0]
        record.observe(renderer.continuation(completion.token_ids, text, observation))


def _take_step(
    record: _Recorder, turn: Turn, step: tuple[Any, ...], env_s: float
) -> StopReason | None:
    _, reward, _, _, info = step
    record.failure = info.get("failure")
    value = 0.0 if record.failure else float(reward)
    record.reward += value
    record.turns.append(
        Turn(
            turn.observation,
            turn.action,
            tuple(info["tool_results"]),
            value,
            turn.num_sampled,
            turn.finish_reason,
            turn.generate_s,
            env_s,
        )
    )
    stop: StopReason | None = info.get("stop_reason")
    if stop is not None:
        record.correct = info["correct"]
        record.reward_parts = info["reward_parts"]
    return stop


def _out_of_room(completion: Completion, budget: int) -> StopReason:
    """A turn cut short of its budget was cut by the model's context."""
    if completion.finish_reason is FinishReason.ABORT:
        return StopReason.ENGINE_ERROR
    cut_by_context = len(completion.token_ids) < budget
    return StopReason.CONTEXT_OVERFLOW if cut_by_context else StopReason.MAX_TOKENS


def _finish(
    env: ChatEnv,
    task: Task | None,
    record: _Recorder,
    stop: StopReason,
    seed: int,
    start: float,
) -> Trajectory:
    invalid = stop in (StopReason.ENV_ERROR, StopReason.ENGINE_ERROR)
    truncated = not invalid and stop is not StopReason.COMPLETED
    started = env._episode is not None
    return Trajectory(
        task_id=(task or env.task).id if (task or started) else "",
        env_id=env.spec.id if env.spec else type(env).__name__,
        token_ids=tuple(record.token_ids),
        mask=tuple(record.mask),
        logprobs=tuple(record.logprobs),
        prompt_length=record.prompt_length,
        turns=tuple(record.turns),
        stop_reason=stop,
        reward=None if invalid else record.reward,
        reward_parts=dict(record.reward_parts),
        correct=None if invalid else (False if truncated else record.correct),
        failure=record.failure,
        tools=env.tool_stats if started else ToolStats(),
        seed=seed,
        policy_version=record.policy_version or 0,
        duration_s=time.perf_counter() - start,
    )


class EnvPool:
    """Environments to borrow: one per running episode, made on demand and reused."""

    def __init__(self, make_env: MakeEnv) -> None:
        self._make_env = make_env
        self._free: list[ChatEnv] = []

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[ChatEnv]:
        env = self._free.pop() if self._free else self._make_env()
        try:
            yield env
        finally:
            env.release_resources()
            self._free.append(env)

    def close(self) -> None:
        while self._free:
            self._free.pop().close()


async def rollout_group(
    pool: EnvPool,
    agent: Agent,
    task: Task,
    *,
    group_size: int,
    seed: int,
    limits: RolloutLimits | None = None,
    slots: asyncio.Semaphore | None = None,
) -> Group:
    """Play `group_size` episodes of one task: the same episode, independently sampled."""
    slots = slots or asyncio.Semaphore(group_size)
    env_seed = derive_seed(seed, "env", task.id)

    async def member(index: int) -> Trajectory:
        async with slots, pool.borrow() as env:
            member_seed = derive_seed(seed, task.id, index)
            return await rollout(
                env, agent, task, seed=member_seed, env_seed=env_seed, limits=limits
            )

    async with asyncio.TaskGroup() as tasks:
        members = [tasks.create_task(member(i)) for i in range(group_size)]
    return Group(task, tuple(m.result() for m in members))


async def collect(
    pool: EnvPool,
    agent: Agent,
    tasks: Sequence[Task],
    *,
    group_size: int = 1,
    seed: int = 0,
    limits: RolloutLimits | None = None,
    concurrency: int = 256,
    on_group: Callable[[Group], None] | None = None,
) -> list[Group]:
    """Play every task `group_size` times, at most `concurrency` episodes at once.

    Groups come back in the order of `tasks`; `on_group` hears of each as it finishes.
    """
    slots = asyncio.Semaphore(concurrency)

    async def one(task: Task) -> Group:
        group = await rollout_group(
            pool, agent, task, group_size=group_size, seed=seed, limits=limits, slots=slots
        )
        if on_group:
            on_group(group)
        return group

    async with asyncio.TaskGroup() as running:
        groups = [running.create_task(one(task)) for task in tasks]
    return [g.result() for g in groups]
