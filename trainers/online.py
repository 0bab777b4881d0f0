"""The training loop: sample, weigh, learn, publish, look. Read `run` first.

    groups -> advantages -> batch -> learner.step -> weights to the engine -> metrics

Everything a step needs beyond the learner's state is a function of (config, step, tasks drawn),
so a run that is killed and resumed goes on as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from ..agents.agent import Agent
from ..agents.engines import make_engine
from ..agents.engines.base import ContextOverflow, Engine, SamplingParams, Tokenizer
from ..agents.engines.loading import absolute, load_model
from ..agents.evaluation import EvalResult, Sample, measures
from ..agents.matches import Seating
from ..agents.report import write_report
from ..agents.rollout import EnvPool, RolloutLimits, collect
from ..agents.runlog import RunLog, plain
from ..agents.seeding import derive_seed
from ..agents.users import EngineChat
from ..envs.configfile import ConfigError
from ..envs.core import ChatEnv
from ..envs.registration import maker
from ..envs.seats import SeatEnv
from ..envs.tasks import TaskSet
from ..envs.types import Group, Task
from .advantages import has_signal
from .batching import build_batch
from .checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from .config import TrainConfig, chosen_algorithm
from .draws import task_stream
from .learner import Learner
from .scaling import tool_signal

Metrics = dict[str, Any]
OnStep = Callable[[int, Metrics], None]


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    on_step: OnStep | None = None,
) -> Path:
    """Run (or resume) a training run in `folder` and return the folder.

    `on_step` hears of every step's metrics; step 0 is the evaluation before training.

    Raises:
        FileExistsError: the folder holds something and `resume` is False.
        ValueError: the configuration cannot work; the message says why.
    """
    return asyncio.run(run(config, Path(folder), resume, on_step or (lambda step, metrics: None)))


async def run(config: TrainConfig, folder: Path, resume: bool, on_step: OnStep) -> Path:
    """The loop."""
    config = with_absolute_paths(config)
    with open_log(config, folder, resume) as log:
        trainer = begin(config, log, resume)
        async with trainer.engine, aclosing(trainer):
            await trainer.start()
            if trainer.step == 0:
                trainer.report(await trainer.evaluate(), on_step)
            while trainer.step < config.steps:
                trainer.step += 1
                groups, drawn = await trainer.sample()
                metrics = trainer.learn(groups)
                await trainer.publish()
                metrics |= trainer.stream.hear(drawn)
                metrics |= tool_signal(drawn) | trainer.costs(groups, drawn)
                if trainer.is_due(config.eval.every):
                    metrics |= await trainer.evaluate()
                trainer.report(metrics, on_step, drawn)
                if trainer.is_due(config.checkpoint_every):
                    trainer.save()
    write_report(folder, decode=trainer.tokenizer.decode)
    return folder


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """`config` with models in local folders named so that any working directory finds them."""
    opponents = {seat: absolute(model) for seat, model in config.opponents.items()}
    return replace(config, model=absolute(config.model), opponents=opponents)


def open_log(config: TrainConfig, folder: Path, resume: bool) -> RunLog:
    """The run folder; a resumed run must have the configuration it was started with.

    It may have another number of steps, which its `config.json` then says.

    Raises:
        FileExistsError, FileNotFoundError: from `RunLog`.
        ConfigError: the configuration differs in anything but the number of steps.
    """
    given = cast(Metrics, plain(asdict(config)))
    if not resume:
        return RunLog.create(folder, given)
    log = RunLog.resume(folder)
    changed = [key for key in given if key != "steps" and given[key] != log.config.get(key)]
    if changed:
        log.close()
        raise ConfigError(
            f"cannot resume {folder} with another {', '.join(changed)} than its config.json has: "
            f"start a new run instead"
        )
    log.amend(steps=config.steps)
    return log


def begin(config: TrainConfig, log: RunLog, resume: bool) -> Trainer:
    """The trainer of a run; a new run that cannot even be set up leaves no folder behind."""
    try:
        return Trainer(config, log)
    except BaseException:
        if not resume:
            log.discard()
        raise


class Trainer:
    """What a run is made of, and its steps by name."""

    def __init__(self, config: TrainConfig, log: RunLog) -> None:
        import torch

        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.log = log
        self.step = 0
        self.algorithm = chosen_algorithm(config)
        self._load = partial(load_model, dtype=torch.float32)
        model, self.tokenizer = self._load(config.model)
        frozen = self._load(config.model)[0] if self.algorithm.kl else None
        self.learner = Learner(model, config.learner_config(), self.algorithm, reference=frozen)
        self.engine = self._make_engine(config.model, model, self.tokenizer)
        self.agent = Agent(self.engine, self._sampling(config.sampling.temperature))
        self.learner.check(self.agent.sampling)
        self.examiner = Agent(self.engine, self._sampling(config.eval.temperature))
        self.limits = RolloutLimits(config.sampling.max_tokens, config.sampling.timeout_s)
        self.envs, tasks, seats = self._environments(config.env.options)
        self.stream = task_stream(tasks, config.seed, config.curriculum, config.curriculum_options)
        self.exams, tasks, _ = self._environments(config.env.heldout_options())
        self.exam_tasks = [tasks[i] for i in range(min(config.eval.tasks, len(tasks)))]
        self.opponents = self._opponents()
        seating = Seating(seats, self.opponents) if seats or self.opponents else None
        self.collect = seating.self_play if seating else collect
        self.examine = seating.examine if seating else collect
        self._began = time.perf_counter()

    async def start(self) -> None:
        """Take up the latest checkpoint, if there is one, and publish its weights."""
        # What is loaded by now stays: the collector need not walk all of it (0.2 s) ever again.
        gc.collect()
        gc.freeze()
        latest = latest_checkpoint(self.log.folder)
        if latest is None:
            return
        state = load_checkpoint(latest, self.learner)
        self.step = state["step"]
        self.stream.load_state_dict(state["tasks"])
        await self.publish()

    async def sample(self) -> tuple[list[Group], list[Group]]:
        """The groups to learn from, and all that were drawn to get them.

        With dynamic sampling (DAPO, eq. 11) groups whose rewards are all equal are replaced
        by new ones, up to `max_rounds` times.
        """
        self._began = time.perf_counter()
        # What is cached decides what is prefilled together, and with it the last bits. A resumed
        # run has nothing left of the evaluation before, so no run may.
        for agent in (self.agent, *self.opponents.values()):
            await agent.engine.clear_cache()
        kept: list[Group] = []
        drawn: list[Group] = []
        for round_ in range(self.config.max_rounds):
            tasks = self.stream.draw(self.config.prompts_per_step - len(kept))
            groups = await self._play(tasks, round_)
            drawn += groups
            kept += _with_signal(groups) if self.algorithm.dynamic_sampling else groups
            if len(kept) >= self.config.prompts_per_step:
                break
        self._check_fit(drawn)
        return kept, drawn

    def learn(self, groups: Sequence[Group]) -> Metrics:
        """One learner step; an empty batch (no group had any signal) changes nothing."""
        self._sampled_s = time.perf_counter() - self._began
        batch = build_batch(groups, self.algorithm)
        return dict(self.learner.step(batch)) if batch.num_sequences else {}

    async def publish(self) -> None:
        """Hand the learner's weights to the engine."""
        version, tensors = self.learner.publish()
        await self.engine.load_weights(version, tensors)

    async def evaluate(self) -> Metrics:
        """Estimates with intervals on held-out tasks: the same tasks and seeds each time."""
        groups = await self.examine(
            self.exams,
            self.examiner,
            self.exam_tasks,
            group_size=self.config.eval.samples,
            seed=derive_seed(self.config.seed, "eval"),
            limits=self.limits,
            concurrency=self.config.sampling.concurrency,
        )
        self._check_fit(groups)
        figures = await measures(self.exams, self.examiner)
        result = EvalResult.of_groups(groups, measures=figures)
        self.log.write_evaluation(self.step, result.to_dict())
        return result.metrics("eval/")

    def costs(self, groups: Sequence[Group], drawn: Sequence[Group]) -> Metrics:
        """What the step cost, dynamic sampling's waste included."""
        members = [t for g in drawn for t in g.trajectories]
        return {
            "rollout/groups": len(drawn),
            "rollout/groups_used": len(groups),
            "rollout/tokens_per_s": sum(t.num_sampled for t in members) / self._sampled_s,
            "rollout/episodes_per_s": len(members) / self._sampled_s,
            "time/sample_s": self._sampled_s,
            "time/step_s": time.perf_counter() - self._began,
        }

    def report(self, metrics: Metrics, on_step: OnStep, groups: Sequence[Group] = ()) -> None:
        """Write the step down, then tell whoever listens."""
        every = self.config.save_episodes_every
        if groups and every and self.step % every == 0:
            self.log.write_groups(self.step, groups)
        self.log.log(self.step, metrics)
        on_step(self.step, metrics)

    def save(self) -> None:
        save_checkpoint(
            self.log.folder,
            self.step,
            self.learner,
            {"step": self.step, "tasks": self.stream.state_dict()},
            tokenizer=self.tokenizer,
            keep=self.config.keep_checkpoints,
        )

    def is_due(self, every: int) -> bool:
        """Whether something done every so many steps is due; the last step always is."""
        return self.step == self.config.steps or bool(every and self.step % every == 0)

    async def aclose(self) -> None:
        gc.unfreeze()
        self.envs.close()
        self.exams.close()
        for opponent in self.opponents.values():
            await opponent.engine.aclose()

    # Inside.

    def _check_fit(self, groups: Sequence[Group]) -> None:
        """Without room for a single token in any episode, nothing can be learnt."""
        members = [t for g in groups for t in g.trajectories]
        if members and all(Sample.of(t).unfit for t in members):
            size = min(t.prompt_length for t in members)
            raise ContextOverflow(
                f"prompt of {size} tokens does not fit the model's context of "
                f"{self.engine.context_length}, and no other is shorter: give a model with a "
                f"longer context, or an environment with shorter prompts"
            )

    def _make_engine(self, name: str, model: Any, tokenizer: Tokenizer) -> Engine:
        options = dict(self.config.engine_options)
        if self.config.engine == "local":
            options.setdefault("deterministic", self.config.deterministic)
            options.setdefault("seed", self.config.seed)
        target = model if self.config.engine == "local" else name
        return make_engine(self.config.engine, target, tokenizer=tokenizer, **options)

    def _environments(
        self, options: Mapping[str, Any]
    ) -> tuple[EnvPool, Sequence[Task] | TaskSet, tuple[str, ...]]:
        """Environments to borrow, their tasks, and their seats (none but in games)."""
        policy = EngineChat(self.engine, self._sampling(self.config.sampling.temperature))
        own = dict.fromkeys(self.config.env.policy_as, policy)
        make_env = maker(self.config.env.id, **(own | dict(options)))
        env = cast(ChatEnv, make_env().unwrapped)
        tasks, seats = env.tasks, env.seats if isinstance(env, SeatEnv) else ()
        return EnvPool(lambda: cast(ChatEnv, make_env().unwrapped), env), tasks, seats

    def _opponents(self) -> dict[str, Agent]:
        """The agents in seats that do not learn; one engine for each model."""
        models = dict.fromkeys(self.config.opponents.values())
        engines = {m: self._make_engine(m, *self._load(m)) for m in models}
        sampling = self._sampling(self.config.sampling.temperature)
        return {s: Agent(engines[m], sampling) for s, m in self.config.opponents.items()}

    def _sampling(self, temperature: float) -> SamplingParams:
        sampling = self.config.sampling
        turn = sampling.max_turn_tokens or sampling.max_tokens
        return SamplingParams(max_tokens=turn, temperature=temperature)

    async def _play(self, tasks: Sequence[Task], round_: int) -> list[Group]:
        return await self.collect(
            self.envs,
            self.agent,
            tasks,
            group_size=self.config.group_size,
            seed=derive_seed(self.config.seed, "train", self.step, round_),
            limits=self.limits,
            concurrency=self.config.sampling.concurrency,
        )


def _with_signal(groups: Sequence[Group]) -> list[Group]:
    """The groups whose rewards, as the environment gave them, are not all equal."""
    return [g for g in groups if has_signal([t.reward for t in g.trajectories])]
