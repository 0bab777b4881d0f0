"""`palestra/Inspect-v0`: tasks of inspect-ai whose solver asks the model for text only.

    env = palestra.make("palestra/Inspect-v0", name="inspect_evals.gsm8k:gsm8k")

The task's solver runs as it is, prompt templates and multiple choice included, up to the
point where it asks for a reply; there the agent acts. To go on, the solver is run again from
the start with the replies so far, so that nothing waits between two steps and every point of
an episode can be returned to. The task's scorers see the state that the solver leaves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib import import_module, util
from pathlib import Path
from typing import Any

from ..core import ToolEnv
from ..episode import Grade, Reply
from ..tasks.base import TaskList, canonical_split, in_split
from ..types import Invalid, Message, Task
from .packages import need

_MODEL = "palestra/agent"


class _NeedsReply(BaseException):
    """Ends a solver's run where it asks for a reply; no handler of its own may catch it."""

    def __init__(self, messages: list[Any]) -> None:
        self.messages = messages


@dataclass
class _Progress:
    """What snapshots copy: the conversation as shown, and the agent's replies in it."""

    shown: list[Message] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)


class InspectTask(ToolEnv):
    """An inspect-ai task. Tools, sandboxes and agents that call a model themselves are refused.

    Args:
        name: where the function is that makes the task, `module:function` or `file.py:function`.
        options: its arguments; plain JSON.
        reward: the score that is the reward, `scorer` or, where a scorer gives several values,
            `scorer/key`; by default the first scorer's. All of them are reward parts.
        reward_range: of a score; "C", "P" and "I" are 1, 0.5 and 0.
        split, size: a hash of the input divides the samples; how many tasks at most.
        max_turns: replies per episode.

    Raises:
        ImportError: inspect-ai, or the module, is not installed.
        ValueError: the task cannot be played here; the message says why.
    """

    def __init__(
        self,
        *,
        name: str,
        options: dict[str, Any] | None = None,
        reward: str | None = None,
        reward_range: tuple[float, float] = (0.0, 1.0),
        split: str = "train",
        size: int | None = None,
        max_turns: int = 8,
        render_mode: str | None = None,
    ) -> None:
        self._again = partial(
            type(self),
            name=name,
            options=options,
            reward=reward,
            reward_range=reward_range,
            split=split,
            size=size,
            max_turns=max_turns,
            render_mode=render_mode,
        )
        self._solver, self._scorers, self._samples = _load(name, json.dumps(options or {}))
        self._reward = reward
        tasks = _tasks(name, self._samples, canonical_split(split), size)
        super().__init__(tasks=tasks, max_turns=max_turns, render_mode=render_mode)
        self.reward_range = (float(reward_range[0]), float(reward_range[1]))
        self._driver.run(self._run(tasks[0], _Progress()), True)  # what it cannot do shows here
        self._driver.close()

    def begin(self, task: Task) -> Sequence[Message]:
        progress = self.episode.memory = _Progress()
        asked = self._driver.run(self._run(task, progress), True)
        if not isinstance(asked, list):
            raise ValueError(f"the solver of {task.id!r} never asks for a reply")
        progress.shown = asked
        return asked

    async def respond(self, action: Message) -> Reply:
        progress: _Progress = self.episode.memory
        progress.replies.append(action.content)
        asked = await self._run(self.task, progress)
        if not isinstance(asked, list):
            return await self._finish()
        before = [*progress.shown, Message("assistant", action.content)]
        if asked[: len(before)] != before:
            raise RuntimeError("the solver changes what was said, or is not the same every time")
        progress.shown = asked
        return Reply(tuple(asked[len(before) :]))

    async def grade(self, task: Task, messages: tuple[Message, ...]) -> Grade | Invalid:
        scoring = need("inspect_ai.scorer", "inspect")
        state = await self._run(task, self.episode.memory)
        parts: dict[str, float] = {}
        for name, scorer in self._scorers:
            score = await scorer(state, state.target)
            if score is None:
                return Invalid("verifier", f"{name} gave no score")
            several = isinstance(score.value, dict)
            values = {f"{name}/{k}": v for k, v in score.value.items()} if several else {}
            for key, value in (values or {name: score.value}).items():
                parts[key] = scoring.value_to_float()(value)
        chosen = self._reward or next(iter(parts))
        if chosen not in parts:
            return Invalid("verifier", f"no score {chosen!r}: there are {', '.join(parts)}")
        if not math.isfinite(parts[chosen]):
            return Invalid("verifier", f"{chosen} was left unscored")
        return Grade(parts[chosen], parts, correct=parts[chosen] >= self.reward_range[1])

    def __reduce__(self) -> tuple[Any, ...]:
        # Solvers and scorers cannot be pickled: load them again.
        return self._again, (), {"_episode": self._episode}

    async def _run(self, task: Task, progress: _Progress) -> Any:
        """The solver with the replies so far: the messages it asks with next, or its state."""
        replies = iter(progress.replies)
        model = need("inspect_ai.model", "inspect")

        async def generate(state: Any, *args: Any, **kwargs: Any) -> Any:
            if state.tools:
                raise ValueError("the solver gives the model tools, which Palestra cannot pass on")
            said = next(replies, None)
            if said is None:
                raise _NeedsReply(state.messages)
            state.output = model.ModelOutput.from_content(_MODEL, said)
            state.messages.append(state.output.message)
            return state

        try:
            return await self._solver(self._state(task), generate)
        except _NeedsReply as asked:
            return [Message(m.role, _text(m)) for m in asked.messages]

    def _state(self, task: Task) -> Any:
        sample = self._samples[task.metadata["index"]]
        solver = need("inspect_ai.solver", "inspect")
        model = need("inspect_ai.model", "inspect")
        asked = sample.input
        said = [model.ChatMessageUser(content=asked)] if isinstance(asked, str) else asked
        return solver.TaskState(
            model=model.ModelName(_MODEL),
            sample_id=sample.id,
            epoch=1,
            input=asked,
            messages=[message.model_copy(deep=True) for message in said],
            target=need("inspect_ai.scorer", "inspect").Target(sample.target),
            choices=sample.choices,
            metadata=dict(sample.metadata or {}),
        )


@lru_cache(maxsize=8)
def _load(name: str, options: str) -> tuple[Any, list[tuple[str, Any]], list[Any]]:
    """The solver, the scorers by name and the samples of a task."""
    need("inspect_ai", "inspect")
    info = need("inspect_ai.util", "inspect").registry_info
    task = _function(name)(**json.loads(options))
    samples = list(task.dataset)
    if not task.scorer:
        raise ValueError(f"{name!r} has no scorer, so there is nothing to learn or to measure")
    needs = ["a sandbox"] if task.sandbox or any(s.sandbox or s.files for s in samples) else []
    needs += ["its setup"] if task.setup else []
    if needs:
        raise ValueError(f"{name!r} needs {' and '.join(needs)}: only inspect-ai can run it")
    scorers = [(info(scorer).name.rpartition("/")[2], scorer) for scorer in task.scorer]
    return task.solver, scorers, samples


def _function(name: str) -> Any:
    place, _, function = name.rpartition(":")
    if not place:
        raise ValueError(f"expected module:function or file.py:function, got {name!r}")
    if not place.endswith(".py"):
        return getattr(import_module(place), function)
    spec = util.spec_from_file_location(Path(place).stem, place)
    assert spec and spec.loader
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)


def _tasks(name: str, samples: list[Any], split: str, size: int | None) -> TaskList:
    title, kept = f"inspect/{name}", []
    for index, sample in enumerate(samples):
        said = sample.input
        prompt = (
            (Message("user", said),)
            if isinstance(said, str)
            else tuple(Message(m.role, _text(m)) for m in said)
        )
        if in_split("\n".join(m.content for m in prompt), split):
            target = sample.target if isinstance(sample.target, str) else ""
            meta = {"index": index}
            kept.append(Task(f"{title}/{split}/{index}", prompt, target, split, metadata=meta))
    if not kept:
        raise ValueError(
            f"the {split} split of {name!r} is empty: none of its {len(samples)} inputs falls "
            f"into it by hash"
        )
    return TaskList(title, split, kept[:size])


def _text(message: Any) -> str:
    if not isinstance(message.content, str) and any(c.type != "text" for c in message.content):
        raise ValueError("the messages hold more than text, and Palestra's hold nothing else")
    return str(message.text)
