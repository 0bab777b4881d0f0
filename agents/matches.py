"""Matches: one episode of a game with seats, recorded from each seat's side.

Every seat has a trajectory of its own, with the ids that its agent saw and sampled and its
own reward. One agent may sit in every seat (self-play), or each seat has another.

`self_play` makes groups to learn from, of every seat of each game. `OneSide` makes of a game an
episode of the agent in one seat, which is what an evaluation plays; `seat_tasks` says which.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from ..envs.core import ChatEnv
from ..envs.seats import SeatEnv
from ..envs.types import Group, Invalid, Message, StopReason, Task, Trajectory, Turn
from .agent import Agent
from .engines.base import ContextOverflow, EngineError
from .grouping import group_seeds
from .recording import Recorder, close_record
from .rendering import Renderer
from .rollout import EnvPool, Job, RolloutLimits, collect, play, speak
from .seeding import derive_seed

SEAT = "seat"  # the key of a task's metadata that says which side is looked at


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
        async with asyncio.timeout(limits.timeout_s):
            opening = _opening(env, task, seed if env_seed is None else env_seed)
            if isinstance(opening, Invalid):
                failure = opening
            else:
                failure = await _play(env, players, opening, stops, limits)
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


def _opening(env: SeatEnv, task: Task | None, seed: int) -> list[Message] | Invalid:
    """What the first player sees, or why there is no game."""
    try:
        return env.reset(seed=seed, options=None if task is None else {"task": task})[0]
    except Exception as error:  # noqa: BLE001 - the environment boundary
        return Invalid("env", f"reset: {type(error).__name__}: {error}")


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
            opponents. A group's task names its seat in `metadata["seat"]`.

    Raises:
        TypeError: the environment has no seats.
    """
    jobs = [
        Job(task, derive_seed(own, task.id, index), derive_seed(own, "env", task.id))
        for task, own in zip(tasks, group_seeds(tasks, seed), strict=True)
        for index in range(group_size)
    ]
    games: list[dict[str, Trajectory]] = [{} for _ in jobs]

    async def one(env: ChatEnv, job: Job) -> dict[str, Trajectory]:
        seeds = {"seed": job.seed, "env_seed": job.env_seed}
        return await match(_with_seats(env), agents, job.task, **seeds, limits=limits)

    async with pool.borrow() as env:
        seats = list(learning or _with_seats(env).seats)
    # Batches are reproducible on the learner's engine; another opponent's is not counted.
    learner = agents if isinstance(agents, Agent) else agents[seats[0]]
    await play(pool, learner.engine, jobs, one, games.__setitem__, concurrency=concurrency)
    groups = []
    for number, task in enumerate(tasks):
        played = games[number * group_size : (number + 1) * group_size]
        for seat in seats:
            sides = tuple(game[seat] for game in played if game[seat].num_sampled)
            if sides:
                groups.append(Group(_seen_from(task, seat), sides))
    return groups


def seat_tasks(tasks: Sequence[Task], seats: Sequence[str]) -> list[Task]:
    """Every task once from each seat: its id and `metadata["seat"]` say which."""
    return [
        replace(_seen_from(task, seat), id=f"{task.id}/{seat}") for task in tasks for seat in seats
    ]


@dataclass(frozen=True, slots=True)
class OneSide:
    """Plays a game as an episode (see `rollout.Episode`) of the agent in the task's seat.

    Attributes:
        opponents: who sits in the other seats, by seat; the agent itself where nobody is named.
    """

    opponents: Mapping[str, Agent] = field(default_factory=dict)

    async def __call__(
        self,
        env: ChatEnv,
        agent: Agent,
        task: Task,
        *,
        seed: int = 0,
        env_seed: int | None = None,
        limits: RolloutLimits | None = None,
        counted: bool = False,
    ) -> Trajectory:
        """The trajectory of the seat that `task.metadata["seat"]` names (see `seat_tasks`)."""
        env, seat = _with_seats(env), task.metadata[SEAT]
        agents = {**dict.fromkeys(env.seats, agent), **self.opponents, seat: agent}
        with nullcontext() if counted else agent.engine.episode():
            sides = await match(env, agents, task, seed=seed, env_seed=env_seed, limits=limits)
        return replace(sides[seat], seed=seed)  # of the game, which is the sample


@dataclass(frozen=True, slots=True)
class Seating:
    """How a policy plays the games it learns from, and those in which it is examined.

    Attributes:
        seats: of the game.
        opponents: agents by seat that do not learn; the policy sits in the other seats.

    Raises:
        ValueError: an opponent has no seat, or none is left for the policy.
    """

    seats: tuple[str, ...]
    opponents: Mapping[str, Agent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not set(self.opponents) < set(self.seats):
            raise ValueError(
                f"opponents must leave one of the seats {list(self.seats)} to the policy, "
                f"got {list(self.opponents)}"
            )

    @property
    def learning(self) -> list[str]:
        return [seat for seat in self.seats if seat not in self.opponents]

    async def self_play(
        self, pool: EnvPool, agent: Agent, tasks: Sequence[Task], **options: Any
    ) -> list[Group]:
        """`self_play` of the policy with itself and the opponents."""
        agents = {**dict.fromkeys(self.seats, agent), **self.opponents}
        return await self_play(pool, agents, tasks, learning=self.learning, **options)

    async def examine(
        self, pool: EnvPool, agent: Agent, tasks: Sequence[Task], **options: Any
    ) -> list[Group]:
        """`rollout.collect` of every task from each seat that learns."""
        sides, episode = seat_tasks(tasks, self.learning), OneSide(self.opponents)
        return await collect(pool, agent, sides, episode=episode, **options)


def _seen_from(task: Task, seat: str) -> Task:
    return replace(task, metadata={**task.metadata, SEAT: seat})


def _with_seats(env: ChatEnv) -> SeatEnv:
    if not isinstance(env, SeatEnv):
        raise TypeError(f"this plays games with seats (SeatEnv), got {type(env).__name__}")
    return env
