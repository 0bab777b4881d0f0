"""Palestra's side: the steps of `trainers/online.py`'s loop, timed."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from contextlib import aclosing
from importlib import metadata
from pathlib import Path
from statistics import fmean

import torch
from meter import Meter

from palestra.agents.runlog import RunLog
from palestra.envs.types import Group, Message, Task
from palestra.trainers.config import (
    EnvConfig,
    EvalConfig,
    LearnerConfig,
    SamplingConfig,
    TrainConfig,
)
from palestra.trainers.online import Trainer


def configure(args: argparse.Namespace, tasks: list[Task]) -> TrainConfig:
    options = {
        "tasks": tasks,
        "protocol": "hermes",
        "instructions": "",
        "max_tool_calls": args.max_calls,
    }
    return TrainConfig(
        model=args.model,
        env=EnvConfig(options=options),
        algorithm="grpo",
        learner=LearnerConfig(
            lr=args.lr, device="cpu", skip_zero_advantage=args.skip_zero_advantage
        ),
        sampling=SamplingConfig(args.temperature, args.max_tokens),
        eval=EvalConfig(tasks=1),
        prompts_per_step=len(tasks),
        group_size=args.size,
        threads=args.threads,
    )


def facts(drawn: list[Group]) -> dict[str, float]:
    """What kind of episodes the step was made of; lengths in tokens."""
    members = [t for group in drawn for t in group.trajectories]
    return {
        "episodes": len(members),
        "prompt": fmean(t.prompt_length for t in members),
        "completion": fmean(len(t.token_ids) - t.prompt_length for t in members),
        "longest": max(len(t.token_ids) - t.prompt_length for t in members),
        "sampled": fmean(t.num_sampled for t in members),
        "calls": fmean(sum(len(turn.tool_results) for turn in t.turns) for t in members),
        "reward": fmean(t.reward or 0.0 for t in members),
        "invalid": sum(t.outcome.value == "invalid" for t in members),
    }


async def serve(args: argparse.Namespace, folder: Path) -> None:
    meter = Meter()
    rows = json.loads(Path(args.tasks).read_text())
    tasks = [
        Task(str(i), (Message("user", row["question"]),), row["answer"])
        for i, row in enumerate(rows)
    ]
    with RunLog.create(folder, {"seed": 0}) as log:
        trainer = Trainer(configure(args, tasks), log)
        async with trainer.engine, aclosing(trainer):
            await trainer.start()
            while meter.wait():
                trainer.step += 1
                meter.start()
                groups, drawn = await trainer.sample()
                metrics = trainer.learn(groups)
                await trainer.publish()
                meter.stop()
                versions = f"palestra {metadata.version('palestra')}, torch {torch.__version__}"
                meter.answer(
                    **facts(drawn),
                    sample_s=trainer.costs(groups, drawn)["time/sample_s"],
                    grad_norm=metrics.get("train/grad_norm"),
                    versions=versions,
                )
        trainer.envs.close()
        trainer.exams.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--tasks"):
        parser.add_argument(name, required=True)
    for name in ("--size", "--threads", "--max-calls", "--max-tokens"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--lr", "--temperature"):
        parser.add_argument(name, type=float, required=True)
    parser.add_argument("--skip-zero-advantage", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(serve(args, Path(folder)))


if __name__ == "__main__":
    main()
