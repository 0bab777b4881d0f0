"""verifiers from 0.4 on (`verifiers.v1`): tasksets whose tasks are answered in one reply.

What 0.4 calls an environment is a program in a container that is driven through an
interceptor; here the task is the part that is used: its prompt, and its `@reward` and
`@metric` methods. Tasks that prepare a container, have tool servers, or are scored inside of
a runtime are refused.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from ..core import ToolEnv
from ..episode import Grade
from ..types import Invalid, Message, Task
from .packages import need
from .verifiers import Settings, as_message, divided

_ENDLESS = 100  # held-out tasks to expect of a taskset that has no end
_HOOKS = ("setup", "finalize", "stage_verifier", "runtime_env")


class VerifiersTaskset(ToolEnv):
    """A taskset of verifiers 0.4; see `make` in `verifiers.py`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        split = settings.split
        self._theirs = _load(settings.name, settings.options, settings.size)
        tasks = [
            Task(
                f"{settings.title}/{split}/{index}",
                _prompt(task.data),
                split=split,
                metadata={"index": index},
            )
            for index, task in enumerate(self._theirs)
        ]
        super().__init__(
            tasks=divided(settings, tasks),
            max_turns=settings.max_turns or 1,
            render_mode=settings.render_mode,
        )
        self.reward_range = settings.reward_range

    async def grade(self, task: Task, messages: tuple[Message, ...]) -> Grade | Invalid:
        vf = need("verifiers.v1", "verifiers")
        theirs = self._theirs[task.metadata["index"]]
        trace = _trace(vf, theirs, messages)
        try:
            await theirs.score(trace)
        except vf.TaskError as error:
            return Invalid("verifier", str(error))
        parts = {name: reward.value for name, reward in trace.rewards.items()}
        parts |= {f"metric/{name}": value for name, value in trace.metrics.items()}
        reward = float(trace.reward)
        return Grade(reward, parts, correct=reward >= 1.0)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._settings,), {"_episode": self._episode}


@lru_cache(maxsize=8)
def _load(name: str, options: str, size: int | None) -> tuple[Any, ...]:
    """Their tasks, once it is clear that they can be scored here."""
    vf = need("verifiers.v1", "verifiers")
    config = vf.taskset_config_type(name)
    taskset = vf.load_taskset(config.model_validate({"id": name, **json.loads(options)}))
    kind = taskset.task_type()
    own = [(hook, getattr(kind, hook, None), getattr(vf.Task, hook, None)) for hook in _HOOKS]
    needs = [hook for hook, theirs, default in own if theirs is not default]
    # Class methods are bound anew at every look.
    for cls, base in ((kind, vf.Task), (type(taskset), vf.Taskset)):
        if cls.toolsets.__func__ is not base.toolsets.__func__:
            needs.append("tool servers")
    if kind.NEEDS_CONTAINER:
        needs.append("a container")
    # A tenth is held out, so that so many must be read to have enough of either split.
    limit = None if taskset.bounded else 20 * (size or _ENDLESS)
    tasks = tuple(islice(taskset, limit))
    signals = [f for t in tasks[:1] for hook in ("metric", "reward") for f in t.hooks(hook)]
    needs += [f"a runtime for {f.__name__}" for f in signals if _in_runtime(f)]
    if needs:
        raise ValueError(f"{name!r} needs {', '.join(needs)}: only verifiers itself can run it")
    return tasks


def _in_runtime(signal: Any) -> bool:
    parameter = inspect.signature(signal).parameters.get("runtime")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _prompt(data: Any) -> tuple[Message, ...]:
    system = (Message("system", data.system_prompt),) if data.system_prompt else ()
    if isinstance(data.prompt, str):
        return (*system, Message("user", data.prompt))
    return (*system, *(as_message(message) for message in data.prompt or ()))


def _trace(vf: Any, task: Any, messages: Sequence[Message]) -> Any:
    """A conversation as their trace: a chain of messages, of which the last was sampled."""
    types = {
        "system": vf.SystemMessage,
        "user": vf.UserMessage,
        "assistant": vf.AssistantMessage,
    }
    trace = vf.Trace(
        task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        agent=vf.AgentInfo(config=vf.AgentConfig()),
    )
    for number, message in enumerate(messages):
        trace.nodes.append(
            vf.MessageNode(
                parent=number - 1 if number else None,
                message=types[message.role](content=message.content),
                sampled=number == len(messages) - 1,
            )
        )
    trace.is_completed = trace.ok = True
    return trace
