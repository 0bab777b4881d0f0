"""Rollouts: one episode, one group, many. The only path for training, evaluation and search.

A trajectory holds exactly the ids that the engine was fed or sampled, in order. Nothing is
decoded and encoded again on the way: text is read off the ids for the environment, and what
the environment answers is appended as new ids.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from ..envs.core import ChatEnv
from ..envs.driving import maybe_await
from ..envs.types import (
    Completion,
    FinishReason,
    Group,
    Invalid,
    Message,
    StopReason,
    Task,
    Trajectory,
    Turn,
)
from .agent import Agent
from .engines.base import ContextOverflow, Engine, EngineError
from .grouping import Gathering, group_seeds
from .recording import Recorder, close_record
from .rendering import Renderer
from .seeding import derive_seed

MakeEnv = Callable[[], ChatEnv]
T = TypeVar("T")
_CUT_OFF = (StopReason.MAX_TOKENS, StopReason.CONTEXT_OVERFLOW, StopReason.TIMEOUT)


@dataclass(frozen=True, slots=True)
class RolloutLimits:
    """Budgets of one episode. Exhausting one truncates the episode; it does not fail it. What
    it then earns is the environment's `truncated_reward`.

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


async def rollout(
    env: ChatEnv,
    agent: Agent,
    task: Task | None = None,
    *,
    seed: int = 0,
    env_seed: int | None = None,
    limits: RolloutLimits | None = None,
    counted: bool = False,
) -> Trajectory:
    """Play one episode. Never raises for what goes wrong in it: that is in the trajectory.

    Args:
        seed: fixes every sampled token (where the engine is deterministic).
        env_seed: fixes the episode; members of a group share it (default: `seed`).
        counted: the caller holds an `Engine.episode` for this one already.

    Raises:
        RenderingError: the model's chat template cannot be used append-only.
    """
    limits = limits or RolloutLimits()
    record = Recorder()
    start = time.perf_counter()
    options = {"task": task} if task is not None else None
    try:
        observation, _ = env.reset(seed=seed if env_seed is None else env_seed, options=options)
    except Exception as error:  # noqa: BLE001 - the environment boundary
        record.failure = Invalid("env", f"reset: {type(error).__name__}: {error}")
        return close_record(env, task, record, StopReason.ENV_ERROR, seed, start)
    try:
        with nullcontext() if counted else agent.engine.episode():
            async with asyncio.timeout(limits.timeout_s):
                stop = await _play(env, agent, record, observation, seed, limits)
    except TimeoutError:
        stop = StopReason.TIMEOUT
        env.abandoned = True
    except ContextOverflow:
        stop = StopReason.CONTEXT_OVERFLOW
    except EngineError as error:
        record.failure = Invalid("engine", str(error))
        stop = StopReason.ENGINE_ERROR
    if stop in _CUT_OFF:
        record.reward = env.cut_off(record.reward)
    return close_record(env, task, record, stop, seed, start)


async def _play(
    env: ChatEnv,
    agent: Agent,
    record: Recorder,
    observation: list[Message],
    seed: int,
    limits: RolloutLimits,
) -> StopReason:
    renderer = agent.renderer(env)
    record.observe(renderer.opening(observation))
    record.prompt_length = len(record.token_ids)
    while True:
        turn = await speak(env, agent, renderer, record, observation, seed, limits)
        if isinstance(turn, StopReason):
            return turn
        begun = time.perf_counter()
        step = await env.astep(turn.action)
        stop = _take_step(record, turn, step, time.perf_counter() - begun)
        if stop is not None:
            return stop
        observation = step[0]
        record.observe(renderer.continuation(record.last_ids, turn.action.content, observation))


async def speak(
    env: ChatEnv,
    agent: Agent,
    renderer: Renderer,
    record: Recorder,
    observation: Sequence[Message],
    seed: int,
    limits: RolloutLimits,
) -> Turn | StopReason:
    """Sample the next action into `record`; or why there is none to give to the environment.

    Raises:
        ContextOverflow: there is no room for a single token.
        EngineError: the engine failed, or aborted the completion.
    """
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
    turn = Turn(
        tuple(observation),
        Message("assistant", text),
        num_sampled=len(completion.token_ids),
        finish_reason=completion.finish_reason,
        generate_s=time.perf_counter() - begun,
    )
    record.turns.append(turn)
    if completion.finish_reason is FinishReason.ABORT:
        raise EngineError("the engine aborted a completion")
    if completion.finish_reason is FinishReason.LENGTH:
        return _out_of_room(completion, budget)
    return turn


def _take_step(
    record: Recorder, turn: Turn, step: tuple[Any, ...], env_s: float
) -> StopReason | None:
    _, reward, _, _, info = step
    record.failure = info.get("failure")
    value = 0.0 if record.failure else float(reward)
    record.reward += value
    record.turns[-1] = replace(
        turn, tool_results=tuple(info["tool_results"]), reward=value, env_s=env_s
    )
    stop: StopReason | None = info.get("stop_reason")
    if stop is not None:
        record.correct = info["correct"]
        record.reward_parts = info["reward_parts"]
    return stop


def _out_of_room(completion: Completion, budget: int) -> StopReason:
    """A turn cut short of its budget was cut by the model's context."""
    cut_by_context = len(completion.token_ids) < budget
    return StopReason.CONTEXT_OVERFLOW if cut_by_context else StopReason.MAX_TOKENS


class EnvPool:
    """Environments to borrow: one per running episode, made on demand and reused.

    `made` are there already; the pool takes them over, and closes them.
    """

    def __init__(self, make_env: MakeEnv, *made: ChatEnv) -> None:
        self._make_env = make_env
        self._free = list(made)

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[ChatEnv]:
        env = self._free.pop() if self._free else self._make_env()
        try:
            yield env
        finally:
            env.release_resources()
            if env.abandoned:
                env.close()
            else:
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
) -> Group:
    """Play `group_size` episodes of one task: the same episode, independently sampled."""
    (group,) = await collect(
        pool,
        agent,
        [task],
        group_size=group_size,
        seed=seed,
        limits=limits,
        concurrency=group_size,
    )
    return group


class Episode(Protocol):
    """How an agent plays one task; `rollout` is one, `matches.OneSide` another."""

    async def __call__(
        self,
        env: ChatEnv,
        agent: Agent,
        task: Task,
        *,
        seed: int,
        env_seed: int,
        limits: RolloutLimits | None,
        counted: bool,
    ) -> Trajectory: ...


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
    episode: Episode = rollout,
) -> list[Group]:
    """Play every task `group_size` times, at most `concurrency` episodes at once.

    Groups come back in the order of `tasks`, with the group rewards that the environment
    declares; `on_group` hears of each as it finishes. A task that comes twice is sampled anew.
    """
    if group_size < 1 or concurrency < 1:
        raise ValueError(
            f"group_size and concurrency must be at least 1, got {group_size} and {concurrency}"
        )
    jobs = [
        Job(task, derive_seed(own, task.id, index), derive_seed(own, "env", task.id))
        for task, own in zip(tasks, group_seeds(tasks, seed), strict=True)
        for index in range(group_size)
    ]
    async with pool.borrow() as env:
        gathering = Gathering(group_size, env.group_rewards)
    groups: dict[int, Group] = {}

    async def finished(number: int, trajectory: Trajectory) -> None:
        at, index = divmod(number, group_size)
        group = await gathering.add(at, tasks[at], index, trajectory)
        if group is not None:
            groups[at] = group
            if on_group:
                on_group(group)

    one = player(agent, episode, limits)
    await play(pool, agent.engine, jobs, one, finished, concurrency=concurrency)
    return [groups[at] for at in range(len(tasks))]


@dataclass(frozen=True, slots=True)
class Job:
    """One episode to be played; the seeds are those of `rollout`."""

    task: Task
    seed: int
    env_seed: int


def player(
    agent: Agent, episode: Episode, limits: RolloutLimits | None
) -> Callable[[ChatEnv, Job], Awaitable[Trajectory]]:
    """What `play` needs to play each job as an episode of one agent."""

    async def one(env: ChatEnv, job: Job) -> Trajectory:
        seeds = {"seed": job.seed, "env_seed": job.env_seed}
        return await episode(env, agent, job.task, **seeds, limits=limits, counted=True)

    return one


async def play(
    pool: EnvPool,
    engine: Engine,
    jobs: Sequence[Job],
    one: Callable[[ChatEnv, Job], Awaitable[T]],
    finished: Callable[[int, T], Awaitable[None] | None],
    *,
    concurrency: int = 256,
) -> None:
    """Play `jobs` in order, at most `concurrency` at once; `finished` hears of each by number.

    Raises what `one` and `finished` raise, after ending the others.

    Args:
        engine: whose live episodes these are (see `Engine.episode`).
        one: plays a job in an environment that is lent to it.
    """
    queue = iter(enumerate(jobs))

    async def worker(live: ExitStack) -> None:
        with live:
            for number, job in queue:
                async with pool.borrow() as env:
                    played = await one(env, job)
                await maybe_await(finished(number, played))

    # All are counted before the first begins, and each until it has no successor: between
    # two episodes of a worker the engine must not take the others for the whole company. Each
    # has a context of its own, by which the engine knows what it asks.
    with ExitStack() as counted:
        workers = [
            (counted.enter_context(ExitStack()), copy_context())
            for _ in range(min(concurrency, len(jobs)))
        ]
        for live, own in workers:
            own.run(live.enter_context, engine.episode())
        async with asyncio.TaskGroup() as running:
            for live, own in workers:
                running.create_task(worker(live), context=own)
