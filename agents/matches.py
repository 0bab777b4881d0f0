"""Matches: one episode of a game with seats, recorded from each seat's side.

Every seat has a trajectory of its own, with the ids that its agent saw and sampled and its
own reward. One agent may sit in every seat (self-play), or each seat has another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..envs.seats import SeatEnv
from ..envs.types import Group, Invalid, Message, StopReason, Task, Trajectory, Turn
from .agent import Agent
from .engines.base import ContextOverflow, EngineError
from .rendering import Renderer
from .rollout import EnvPool, Recorder, RolloutLimits, close_record, speak
from .seeding import derive_seed


@dataclass(slots=True)
class _Player:
    """One seat: who plays it, and its side of the game."""

    agent: Agent
    renderer: Renderer
    seed: int
    record: Recorder = field(default_factory=Recorder)

    def hear(self, observation: Sequence[Message]) -> None:
        if not self.record.turns:
            self.record.observe(self.renderer.opening(observation))
            self.record.prompt_length = len(self.record.token_ids)
            return
        said = self.record.turns[-1].action.content
        self.record.observe(self.renderer.continuation(self.record.last_ids, said, observation))


async def match(
    env: SeatEnv,
    agents: Mapping[str, Agent] | Agent,
    task: Task | None = None,
    *,
    seed: int = 0,
    env_seed: int | None = None,
    limits: RolloutLimits | None = None,
) -> dict[str, Trajectory]:
    """Play one game; the trajectory of each seat. Never raises for what goes wrong in it.

    A seat whose budget ends forfeits: its trajectory is truncated, the others' are valid. A
    lost engine or a failing environment makes every trajectory invalid. A seat that never
    came to act has a trajectory without sampled tokens.

    Args:
        agents: by seat, or one for all.

    Raises:
        ValueError: a seat has no agent, or there is an agent without a seat.
        RenderingError: a model's chat template cannot be used append-only.
    """
    by_seat = dict.fromkeys(env.seats, agents) if isinstance(agents, Agent) else dict(agents)
    if set(by_seat) != set(env.seats):
        raise ValueError(f"expected an agent for each of {env.seats}, got {sorted(by_seat)}")
    players = {
        seat: _Player(agent, agent.renderer(env), derive_seed(seed, seat))
        for seat, agent in by_seat.items()
    }
    start = time.perf_counter()
    limits = limits or RolloutLimits()
    stops = dict.fromkeys(env.seats, StopReason.COMPLETED)
    failure: Invalid | None = None
    try:
        options = {"task": task} if task is not None else None
        observation, _ = env.reset(seed=seed if env_seed is None else env_seed, options=options)
        async with asyncio.timeout(limits.timeout_s):
            failure = await _play(env, players, observation, stops, limits)
    except TimeoutError:
        stops = dict.fromkeys(env.seats, StopReason.TIMEOUT)
        env.abandoned = True
    except EngineError as error:
        failure = Invalid("engine", str(error))
        stops = dict.fromkeys(env.seats, StopReason.ENGINE_ERROR)
    if failure is not None and failure.kind != "engine":
        stops = dict.fromkeys(env.seats, StopReason.ENV_ERROR)
    for seat, player in players.items():
        player.record.failure = failure
        if failure is None:
            player.record.reward = env.rewards.get(seat, 0.0)
            player.record.correct = player.record.reward > 0
    return {
        seat: close_record(env, task, player.record, stops[seat], player.seed, start)
        for seat, player in players.items()
    }


async def _play(
    env: SeatEnv,
    players: Mapping[str, _Player],
    observation: list[Message],
    stops: dict[str, StopReason],
    limits: RolloutLimits,
) -> Invalid | None:
    """The game until its end; why it is invalid, if it is."""
    while True:
        seat = env.seat
        player = players[seat]
        try:
            player.hear(observation)
            turn: Turn | StopReason = await speak(
                env, player.agent, player.renderer, player.record, observation, player.seed, limits
            )
        except ContextOverflow:
            turn = StopReason.CONTEXT_OVERFLOW
        if isinstance(turn, StopReason):
            stops[seat] = turn
            env.give_up()
            return None
        observation, _, ended, truncated, info = await env.astep(turn.action)
        if ended or truncated:
            failure: Invalid | None = info.get("failure")
            if truncated and failure is None:
                cut: StopReason = info["stop_reason"]
                stops.update(dict.fromkeys(env.seats, cut))
            return failure


async def self_play(
    pool: EnvPool,
    agents: Mapping[str, Agent] | Agent,
    tasks: Sequence[Task],
    *,
    group_size: int,
    learning: Sequence[str] = (),
    seed: int = 0,
    limits: RolloutLimits | None = None,
    concurrency: int = 256,
) -> list[Group]:
    """Play every task `group_size` times; one group for each task and learning seat.

    A group holds one seat's side of games that began alike, so that its mean is the baseline
    of that role in that situation: what SPIRAL (arXiv:2506.24119) estimates with one running
    mean per role. Games in which a seat never acted are left out of its group.

    Args:
        learning: the seats whose groups are wanted (default: all). Give the others to fixed
            opponents.
    """
    at_once = asyncio.Semaphore(concurrency)

    async def one(task: Task, index: int) -> dict[str, Trajectory]:
        async with at_once, pool.borrow() as env:
            if not isinstance(env, SeatEnv):
                raise TypeError(f"self_play needs a SeatEnv, got {type(env).__name__}")
            return await match(
                env,
                agents,
                task,
                seed=derive_seed(seed, task.id, index),
                env_seed=derive_seed(seed, "env", task.id),
                limits=limits,
            )

    jobs = [(task, index) for task in tasks for index in range(group_size)]
    async with asyncio.TaskGroup() as games:
        running = [games.create_task(one(*job)) for job in jobs]
    groups = []
    for number, task in enumerate(tasks):
        played = [t.result() for t in running[number * group_size : (number + 1) * group_size]]
        for seat in learning or played[0]:
            sides = tuple(game[seat] for game in played if game[seat].num_sampled)
            if sides:
                groups.append(Group(task, sides))
    return groups
