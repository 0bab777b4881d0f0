"""Checks of the tasks: what they give away, how they are kept apart, how they are stored."""

from __future__ import annotations

import inspect
import json
import pickle
import re
from contextlib import suppress
from typing import Any

from ..core import Action, ChatEnv
from ..tasks import TaskSet, check_disjoint
from ..tasks.base import TaskList
from ..types import Task
from .subject import Fault, Skip, Subject, opened, play, python_call

LEAKS = 0.2  # how much more often a task shows its own answer than those of others
_TURNS = 4  # of each episode that is looked into


def answers_are_hidden(subject: Subject) -> str:
    """A task does not show its own answer, more than it shows those of other tasks by chance."""
    with subject.env() as env:
        tasks = [t for t in subject.chosen(env) if len(t.reference.strip()) > 1]
        answers = {t.reference.strip() for t in tasks}
        if len(answers) < 2:
            raise Skip("too few different references to tell a leak from chance")
        shown = [_shown(env, task) for task in tasks]
        own = sum(_holds(text, t.reference) for text, t in zip(shown, tasks, strict=True))
        others = [
            sum(_holds(text, answer) for answer in answers - {t.reference.strip()})
            / (len(answers) - 1)
            for text, t in zip(shown, tasks, strict=True)
        ]
        share, chance = own / len(tasks), sum(others) / len(tasks)
        if share > chance + LEAKS:
            raise Fault(
                f"{share:.0%} of the tasks show their own answer in the prompt, in info or after "
                f"an action ({chance:.0%} would by chance)"
            )
    return f"{len(tasks)} tasks: {share:.0%} by eye, {chance:.0%} by chance"


def splits_are_disjoint(subject: Subject) -> str:
    """No prompt of the held-out split is in the train split."""
    with subject.env() as env:
        if "split" not in inspect.signature(type(env).__init__).parameters:
            raise Skip("the environment takes no split")
    with subject.env(split="train") as train, subject.env(split="heldout") as heldout:
        try:
            check_disjoint(_as_set(train.tasks), _as_set(heldout.tasks), 1000)
        except ValueError as error:
            raise Fault(str(error)) from error
        sizes = len(train.tasks), len(heldout.tasks)
    return f"{sizes[0]} train, {sizes[1]} held out"


def everything_is_stored(subject: Subject) -> str:
    """Tasks go through JSON, environments through pickle, and come back as they were."""
    with subject.env() as env:
        for task in subject.chosen(env):
            try:
                back = Task.from_dict(json.loads(json.dumps(task.to_dict(), allow_nan=False)))
            except (TypeError, ValueError) as error:
                raise Fault(f"task {task.id!r} is not plain JSON: {error}") from error
            if back != task:
                raise Fault(f"task {task.id!r} comes back from JSON as another task")
        try:
            copy = pickle.loads(pickle.dumps(env))
        except Exception as error:
            raise Fault(f"the environment cannot be pickled: {error}") from error
        try:
            script = ["\\boxed{7}"]
            task = env.tasks[0]
            if play(copy, task, script).trace != play(env, task, script).trace:
                raise Fault("an environment that was pickled plays differently")
        finally:
            copy.close()
    return f"{subject.tasks} tasks, one environment"


def ids_are_unique(subject: Subject) -> str:
    """Every task has an id of its own: samples and groups are kept by it."""
    with subject.env() as env:
        count = min(len(env.tasks), 1000)
        ids = [env.tasks[i].id for i in range(count)]
        if len(set(ids)) < count:
            twice = next(i for i in ids if ids.count(i) > 1)
            raise Fault(f"two tasks have the id {twice!r}")
    return f"{count} tasks"


def _shown(env: ChatEnv, task: Task) -> str:
    """What an agent that knows nothing gets to see of a task before its last action."""
    opening, info = env.reset(seed=0, options={"task": task})  # info has the task's id
    messages, told = list(opening), [info]
    for action in _idle(env):
        opened(env, task)
        for _ in range(min(_TURNS, env.max_turns)):
            observation, _, ended, truncated, info = env.step(action)
            if ended or truncated:  # what is told now helps nobody
                break
            messages += observation
            told.append(info)
    return "\n".join([*(m.content for m in messages), *map(str, told)])


def _idle(env: ChatEnv) -> list[Action]:
    """Actions that know nothing: one in words, one the environment understands, one call."""
    examples = getattr(env.action_space, "examples", ())
    actions: list[Action] = ["I do not know.", *examples[:1]]
    with suppress(Skip):
        actions.append(python_call(env, "1"))
    return actions


def _holds(text: str, answer: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(answer.strip())}(?!\w|\.\w)", text) is not None


def _as_set(tasks: Any) -> TaskSet:
    return tasks if isinstance(tasks, TaskSet) else TaskList("tasks", "train", tasks)
