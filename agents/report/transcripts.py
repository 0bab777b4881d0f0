"""The transcripts that go into a report: which ones, and in what form."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from ...envs.types import Group, Message, Task, Trajectory
from ..evaluation.runner import read_samples
from ..evaluation.suite import suite_folders
from ..runlog import trajectory_files

Decode = Callable[[Sequence[int]], str]
View = dict[str, Any]
MAX_STEPS = 100
MAX_MESSAGE = 20_000  # characters of one message
MAX_TOTAL = 24_000_000  # characters of all messages: what a browser still opens at once


@dataclass(slots=True)
class Transcripts:
    """Groups as the viewer wants them, and a sentence on what was left out ("" if nothing)."""

    groups: list[View] = field(default_factory=list)
    left_out: str = ""
    size: int = 0

    @property
    def count(self) -> int:
        return sum(len(group["members"]) for group in self.groups)

    @property
    def full(self) -> bool:
        return self.size >= MAX_TOTAL

    def add(self, view: View) -> None:
        self.groups.append(view)
        messages = view["prompt"] + [m for member in view["members"] for m in member["messages"]]
        self.size += sum(len(message["text"]) for message in messages)

    def to_dict(self) -> View:
        return {"groups": self.groups}


def gather_transcripts(folder: Path, limit: int, decode: Decode | None) -> Transcripts:
    """At most about `limit` responses, in whole groups, from any kind of run."""
    files = trajectory_files(folder)
    if files:
        return _from_training(files, limit, decode)
    if parts := suite_folders(folder):
        return _from_suite(parts, limit, decode)
    return _from_evaluation(folder, limit, decode)


def _from_training(files: dict[int, Path], limit: int, decode: Decode | None) -> Transcripts:
    """Steps evenly spaced, the first and the last among them; of each its first groups."""
    found = Transcripts()
    chosen = _spread(list(files), min(MAX_STEPS, limit))
    total = 0
    for position, step in enumerate(chosen):
        budget = max(1, (limit - found.count) // (len(chosen) - position))
        with gzip.open(files[step], "rt", encoding="utf-8") as lines:
            for line in lines:
                total += 1
                if budget > 0 and not found.full:
                    group = Group.from_dict(json.loads(line))
                    found.add(group_view(group.task, group.trajectories, step, decode))
                    budget -= len(group.trajectories)
    parts = []
    if len(chosen) < len(files):
        parts.append(f"{len(chosen)} of the {len(files)} recorded steps")
    if len(found.groups) < total:
        parts.append(f"{len(found.groups)} of the {total} groups at the steps shown")
    found.left_out = f"Only {' and '.join(parts)} are in this file." if parts else ""
    return found


def _from_evaluation(folder: Path, limit: int, decode: Decode | None) -> Transcripts:
    """Tasks evenly spaced. One pass: when there are too many, every second one is dropped."""
    numbers: dict[str, int] = {}
    kept: dict[str, tuple[Task, dict[int, Trajectory]]] = {}
    stride = 1
    for task, index, trajectory in read_samples(folder):
        number = numbers.setdefault(task.id, len(numbers))
        if number % stride == 0:
            kept.setdefault(task.id, (task, {}))[1][index] = trajectory
        while sum(len(members) for _, members in kept.values()) > limit and len(kept) > 1:
            stride *= 2
            kept = {name: kept[name] for name in kept if numbers[name] % stride == 0}
    found = Transcripts()
    for task, members in kept.values():
        if not found.full:
            found.add(group_view(task, [members[i] for i in sorted(members)], None, decode))
    if len(found.groups) < len(numbers):
        tasks = f"{len(found.groups)} of the {len(numbers)} tasks"
        found.left_out = f"Only the transcripts of {tasks} are in this file."
    return found


def _from_suite(parts: dict[str, Path], limit: int, decode: Decode | None) -> Transcripts:
    """As many of each environment, its name before those of its tasks."""
    found, left_out = Transcripts(), []
    for name, folder in parts.items():
        own = _from_evaluation(folder, max(1, limit // len(parts)), decode)
        shown = [group for group in own.groups if not found.full]
        for group in shown:
            found.add(group | {"task": f"{name}: {group['task']}"})
        if own.left_out:
            left_out.append(f"{name}: {own.left_out}")
    found.left_out = " ".join(left_out)
    return found


def group_view(
    task: Task, trajectories: Sequence[Trajectory], step: int | None, decode: Decode | None
) -> View:
    """One group; what all its members were shown first is kept once."""
    openings = [t.turns[0].observation for t in trajectories if t.turns]
    shared = openings[0] if openings else task.prompt
    return {
        "step": step,
        "task": task.id,
        "reference": task.reference,
        "split": task.split,
        "difficulty": task.difficulty,
        "prompt": [_message(message) for message in shared],
        "members": [_member(t, shared, decode) for t in trajectories],
    }


def _member(trajectory: Trajectory, shared: tuple[Message, ...], decode: Decode | None) -> View:
    tools = trajectory.tools
    return {
        "reward": trajectory.reward,
        "parts": dict(trajectory.reward_parts),
        "correct": trajectory.correct,
        "outcome": trajectory.outcome.value,
        "stop": trajectory.stop_reason.value,
        "failure": trajectory.failure.to_dict() if trajectory.failure else None,
        "calls": tools.calls,
        "failed": tools.errors + tools.timeouts,
        "malformed": tools.malformed + tools.refused,
        "hallucinated": tools.hallucinated,
        "model_tokens": trajectory.num_sampled,
        "tool_tokens": max(0, trajectory.num_observed),
        "seconds": trajectory.duration_s,
        "seed": str(trajectory.seed),  # 63 bits do not fit a JavaScript number
        "policy": trajectory.policy_version,
        "messages": list(_messages(trajectory, shared)),
        "tokens": _token_runs(trajectory, decode) if decode else None,
    }


def _messages(trajectory: Trajectory, shared: tuple[Message, ...]) -> Iterator[View]:
    """The conversation after the shared opening, tool results told from what was said of them."""
    results: list[View] = []
    for number, turn in enumerate(trajectory.turns):
        observation = () if number == 0 and turn.observation == shared else turn.observation
        for message in observation:
            view = _message(message)
            if message.role == "tool" and results:
                view |= {"result": results.pop(0)["result"]}
            yield view
        yield _message(turn.action) | {
            "sampled": turn.num_sampled,
            "finish": turn.finish_reason.value,
        }
        results = [
            {
                "role": "tool",
                **_clip(result.content),
                "result": {
                    "name": result.call.name,
                    "status": result.status.value,
                    "seconds": result.duration_s,
                },
            }
            for result in turn.tool_results
        ]
    for result in results:  # the episode ended before the agent was shown these
        yield result | {"unseen": True}


def _message(message: Message) -> View:
    calls = [{"name": c.name, "arguments": c.arguments} for c in message.tool_calls]
    return {"role": message.role, **_clip(message.content), "calls": calls}


def _clip(text: str) -> View:
    """The text, or its two ends when it is very long."""
    if len(text) <= MAX_MESSAGE:
        return {"text": text}
    half, cut = MAX_MESSAGE // 2, len(text) - MAX_MESSAGE
    gap = f"\n\n[... {cut} characters left out of this report ...]\n\n"
    return {"text": text[:half] + gap + text[-half:]}


def _token_runs(trajectory: Trajectory, decode: Decode) -> list[View]:
    """Stretches of sampled and of other tokens, decoded; probability is the geometric mean."""
    runs = []
    position = 0
    for sampled, stretch in groupby(trajectory.mask):
        end = position + len(list(stretch))
        logprobs = trajectory.logprobs[position:end]
        runs.append(
            {
                "sampled": sampled,
                "count": end - position,
                "logprob": sum(logprobs) / len(logprobs) if sampled else None,
                **_clip(decode(trajectory.token_ids[position:end])),
            }
        )
        position = end
    return runs


def _spread(items: Sequence[int], count: int) -> list[int]:
    """`count` of the items at even distances, first and last included (all, if fewer)."""
    if len(items) <= count:
        return list(items)
    if count < 2:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
