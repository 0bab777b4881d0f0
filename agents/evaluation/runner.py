"""Run an agent over a task set, keep every sample as it finishes, and resume after a stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...envs.rewards.group import GroupRewards
from ...envs.seats import SeatEnv
from ...envs.types import Task, Trajectory
from ..agent import Agent
from ..grouping import Gathering
from ..matches import OneSide, seat_tasks
from ..rollout import EnvPool, Episode, Job, RolloutLimits, play, player, rollout
from ..runlog import JsonLines, plain, read_json_lines, write_json
from ..seeding import derive_seed
from .result import EvalResult, Sample, TaskRow

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known after each sample. `score` is the mean reward so far (None without any)."""

    done: int
    total: int
    invalid: int
    score: float | None
    latest: Trajectory


async def evaluate(
    pool: EnvPool,
    agent: Agent,
    tasks: Sequence[Task],
    *,
    name: str = "",
    samples: int = 1,
    seed: int = 0,
    limits: RolloutLimits | None = None,
    concurrency: int = 64,
    folder: Path | None = None,
    resume: bool = False,
    level: float = 0.95,
    progress: Callable[[Progress], None] | None = None,
    opponents: Agent | Mapping[str, Agent] | None = None,
) -> EvalResult:
    """Play every task `samples` times and summarise.

    Sample i of a task has the seeds of member i of `rollout_group`, so a resumed or extended
    evaluation samples what an uninterrupted one would have. With group rewards the samples of a
    task are a group as in training: kept, told and resumed together. In a game with seats every
    task is played from each seat, and the agent's reward there is the sample. What the environment
    measures of a policy (`ChatEnv.measure`) comes on top.

    Args:
        concurrency: episodes in flight at once.
        folder: where finished samples (`trajectories/samples.jsonl`, as they finish) and the
            final `result.json` go. None keeps nothing.
        resume: take the valid samples in `folder` as done. More may be asked for than before.
        progress: called after each sample.
        opponents: one agent for the other seats of a game, or agents by seat (default: itself).

    Raises:
        ValueError: two tasks share an id, `folder` has samples of other tasks or another seed, or
            there are opponents but no seats.
        FileExistsError: `folder` holds samples and `resume` is not set.
    """
    env_id, seats, extras = await _kind(pool)
    tasks = seat_tasks(tasks, seats) if seats else tasks
    _check(tasks, samples, concurrency)
    wanted = {(task.id, i): task for task in tasks for i in range(samples)}
    done = _resumed(folder, wanted, seed, resume) if folder else {}
    done = _whole(done, tasks, samples) if extras else done
    book = _Book(wanted, done, folder, progress, Gathering(samples, extras) if extras else None)
    jobs = [_job(key, wanted[key], seed) for key in book.left]
    with closing(book):
        one = player(agent, _episode(env_id, seats, opponents), limits)
        await play(pool, agent.engine, jobs, one, book.finished, concurrency=concurrency)
        figures = await measures(pool, agent)
    result = EvalResult.of(
        [TaskRow.of(t, [book.done[t.id, i] for i in range(samples)]) for t in tasks],
        name=name,
        env_id=env_id,
        level=level,
        settings=_settings(agent, samples, seed, limits),
        measures=figures,
    )
    if folder:
        write_json(folder / "result.json", result.to_dict())
    return result


def _job(key: Key, task: Task, seed: int) -> Job:
    return Job(task, derive_seed(seed, *key), derive_seed(seed, "env", task.id))


def read_samples(folder: Path) -> Iterator[tuple[Task, int, Trajectory]]:
    """The finished samples (task, index, trajectory) in the order they finished.

    A sample that was played again comes again: the last one counts.
    """
    for record in read_json_lines(_samples_file(folder)):
        trajectory = Trajectory.from_dict(record["trajectory"])
        yield Task.from_dict(record["task"]), record["sample"], trajectory


class _Book:
    """The samples so far. Each new one is appended to the folder, if there is one, and told.

    With group rewards, samples wait in `gathering` for the rest of their group.
    """

    def __init__(
        self,
        wanted: Mapping[Key, Task],
        done: dict[Key, Sample],
        folder: Path | None,
        progress: Callable[[Progress], None] | None,
        gathering: Gathering | None,
    ) -> None:
        self.gathering = gathering
        self.done, self._wanted, self._progress = done, wanted, progress
        self.left = [key for key in wanted if key not in done]
        self._tally = _Tally(done.values(), len(wanted))
        self._lines: JsonLines | None = None
        if folder:
            path = _samples_file(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lines = JsonLines(path)

    async def finished(self, number: int, trajectory: Trajectory) -> None:
        """Take what came of the sample `left[number]`."""
        key = self.left[number]
        task, index = self._wanted[key], key[1]
        if self.gathering is None:
            self._enter(task, index, trajectory)
        elif group := await self.gathering.add(task.id, task, index, trajectory):
            for place, member in enumerate(group.trajectories):
                self._enter(task, place, member)

    def _enter(self, task: Task, index: int, trajectory: Trajectory) -> None:
        self.done[task.id, index] = Sample.of(trajectory)
        if self._lines:
            record = {"task": plain(task.to_dict()), "sample": index}
            self._lines.append(record | {"trajectory": trajectory.to_dict()})
        if self._progress:
            self._progress(self._tally.add(trajectory))

    def close(self) -> None:
        if self._lines:
            self._lines.close()


def _samples_file(folder: Path) -> Path:
    return folder / "trajectories" / "samples.jsonl"


def _resumed(
    folder: Path, wanted: Mapping[Key, Task], seed: int, resume: bool
) -> dict[Key, Sample]:
    """The samples in the folder that need not be played again."""
    found: dict[Key, Sample] = {}
    for task, index, trajectory in read_samples(folder):
        if not resume:
            raise FileExistsError(
                f"{folder} holds samples of an evaluation: resume it, or give another folder"
            )
        key = (task.id, index)
        if key not in wanted:
            continue
        if plain(task.to_dict()) != plain(wanted[key].to_dict()):
            raise ValueError(
                f"task {task.id!r} in {folder} is not the task of that id given now: "
                f"evaluate changed tasks in another folder"
            )
        if trajectory.seed != derive_seed(seed, *key):
            raise ValueError(
                f"the samples in {folder} were not drawn with seed {seed}: "
                f"resume with the seed they were drawn with, or give another folder"
            )
        found[key] = Sample.of(trajectory)
    return {key: sample for key, sample in found.items() if sample.reward is not None}


def _whole(done: Mapping[Key, Sample], tasks: Sequence[Task], samples: int) -> dict[Key, Sample]:
    """Of the samples found, those whose whole group was: a missing sibling changes them all."""
    groups = ([(task.id, i) for i in range(samples)] for task in tasks)
    return {key: done[key] for group in groups if all(k in done for k in group) for key in group}


class _Tally:
    """Running totals, so that telling the progress costs the same after any sample."""

    def __init__(self, done: Iterable[Sample], total: int) -> None:
        rewards = [s.reward for s in done if s.reward is not None]
        self.total, self.done, self.valid, self.sum = (
            total,
            len(rewards),
            len(rewards),
            sum(rewards),
        )

    def add(self, trajectory: Trajectory) -> Progress:
        self.done += 1
        if trajectory.reward is not None:
            self.valid += 1
            self.sum += trajectory.reward
        score = self.sum / self.valid if self.valid else None
        return Progress(self.done, self.total, self.done - self.valid, score, trajectory)


async def measures(pool: EnvPool, agent: Agent) -> dict[str, float]:
    """What the environment measures of the agent's policy as a whole; see `ChatEnv.measure`."""
    async with pool.borrow() as env:
        return await env.measure(partial(agent.probabilities, env))


def _episode(
    env_id: str, seats: Sequence[str], opponents: Agent | Mapping[str, Agent] | None
) -> Episode:
    """How an agent plays one task of the environment."""
    if not seats:
        if opponents:
            raise ValueError(f"{env_id} is no game with seats: nobody can be its opponent")
        return rollout
    return OneSide(
        dict.fromkeys(seats, opponents) if isinstance(opponents, Agent) else opponents or {}
    )


async def _kind(pool: EnvPool) -> tuple[str, tuple[str, ...], GroupRewards | None]:
    """The environment's id, its seats if it is a game, and the group rewards it declares."""
    async with pool.borrow() as env:
        seats = env.seats if isinstance(env, SeatEnv) else ()
        return (env.spec.id if env.spec else type(env).__name__), seats, env.group_rewards


def _settings(
    agent: Agent, samples: int, seed: int, limits: RolloutLimits | None
) -> dict[str, Any]:
    return {
        "engine": agent.engine.name,
        "policy_version": agent.engine.policy_version,
        "sampling": asdict(agent.sampling),
        "limits": asdict(limits or RolloutLimits()),
        "samples": samples,
        "seed": seed,
    }


def _check(tasks: Sequence[Task], samples: int, concurrency: int) -> None:
    if not tasks:
        raise ValueError("an evaluation needs at least one task, got none: check split and limit")
    if samples < 1 or concurrency < 1:
        raise ValueError(
            f"samples and concurrency must be at least 1, got {samples} and {concurrency}"
        )
    ids = [task.id for task in tasks]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"task ids must be unique, as samples are kept by id: {twice!r} is double")
