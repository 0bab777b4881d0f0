"""Environments with one fault each, and one without: for the tests of the checker."""

import random
import re
import threading
from dataclasses import replace

from palestra.envs.core import ChatEnv, ToolEnv
from palestra.envs.episode import Reply
from palestra.envs.tasks import TaskList
from palestra.envs.types import Message, StopReason, Task
from palestra.sandbox import Limits


def sums(split="train", size=30):
    start = 100 if split == "train" else 900
    tasks = []
    for i in range(size):
        a, b = start + 3 * i, start + 7 * i
        prompt = (Message("user", f"What is {a} + {b}?"),)
        tasks.append(Task(f"{split}-{i}", prompt, str(a + b), split=split))
    return TaskList("sums", split, tasks)


class Sound(ToolEnv):
    """Sums, answered in tags."""

    def __init__(self, split="train", max_turns=4, render_mode=None):
        super().__init__(tasks=sums(split), tools=[self.add], max_turns=max_turns)

    def add(self, a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: one
            b: the other
        """
        return a + b

    def oracle(self, task):
        return [f"<answer>{task.reference}</answer>"]

    def grade(self, task, messages):
        return float(messages[-1].content == f"<answer>{task.reference}</answer>")


class OracleLoses(Sound):
    def oracle(self, task):
        return [f"<answer>{task.reference}.</answer>"]


class PaysForFormat(Sound):
    def grade(self, task, messages):
        text = messages[-1].content
        return max(super().grade(task, messages), 0.2 * text.endswith("</answer>"))


class PaysTheEcho(Sound):
    def grade(self, task, messages):
        return float(task.reference in messages[-1].content or "What is" in messages[-1].content)


class BelievesTheAgent(Sound):
    def grade(self, task, messages):
        return float("maximum score" in messages[-1].content) or super().grade(task, messages)


class DoesTheSum(Sound):
    """Works out an answer that is left as a sum."""

    form = re.compile(r"\\boxed\{(\d+) \+ (\d+)\}")

    def grade(self, task, messages):
        found = self.form.fullmatch(messages[-1].content)
        worked_out = found and int(found[1]) + int(found[2]) == int(task.reference)
        return float(bool(worked_out)) or super().grade(task, messages)


class DoesTheSumInTags(DoesTheSum):
    form = re.compile(r"<answer>(\d+) \+ (\d+)</answer>")


class ReadsTheQuestion(DoesTheSum):
    form = re.compile(r"\\boxed\{What is (\d+) \+ (\d+)\?\}")


class Moody(Sound):
    """Its verdict depends on how often it was asked."""

    asked = 0

    def grade(self, task, messages):
        type(self).asked += 1
        return super().grade(task, messages) * (1.0 if self.asked < 25 else 0.999999999)


class OutOfRange(Sound):
    def grade(self, task, messages):
        return super().grade(task, messages) - (0.5 if "boxed" in messages[-1].content else 0)


class IgnoresSeeds(Sound):
    def begin(self, task):
        return (*task.prompt, Message("user", f"Ticket {random.SystemRandom().random()}"))


class MovesGlobalRandom(Sound):
    def begin(self, task):
        random.random()
        return task.prompt


class DependsOnThePast(Sound):
    count = 0

    def begin(self, task):
        self.count += 1
        return (*task.prompt, Message("user", f"Episode {self.count}"))


class Forgetful(ChatEnv):
    """Keeps its count outside of what a snapshot copies."""

    def __init__(self, max_turns=4, render_mode=None):
        super().__init__(tasks=sums(), max_turns=max_turns)

    def begin(self, task):
        self.turns = 0
        return task.prompt

    def respond(self, action):
        self.turns += 1
        over = self.turns == 3
        text = Message("user", f"turn {self.turns}")
        return Reply((text,), 0.0, StopReason.COMPLETED if over else None)


class SharesState(Forgetful):
    """Counts turns in the class: fine alone, wrong in company."""

    turns_of_all = 0

    def begin(self, task):
        type(self).turns_of_all = 0
        return task.prompt

    def respond(self, action):
        type(self).turns_of_all += 1
        text = Message("user", f"turn {self.turns_of_all}")
        return Reply((text,), 0.0, StopReason.COMPLETED if self.turns_of_all >= 3 else None)


class Fragile(Sound):
    def grade(self, task, messages):
        messages[-1].content.encode()  # a lone surrogate cannot be encoded
        return super().grade(task, messages)


class NeverEnds(Sound):
    """Takes limits, and passes none on."""

    def __init__(self, split="train", limits=None, max_turns=4, render_mode=None):
        super().__init__(split, max_turns)
        self.limits = limits or Limits()
        from palestra.envs.tools import Tool

        self.tools = {"python": Tool.of(self.python)}

    def python(self, code: str) -> str:
        """Run code.

        Args:
            code: what to run
        """
        threading.Event().wait(4 if "while" in code else 0)
        return ""


class Leaky(Sound):
    def begin(self, task):
        return (*task.prompt, Message("user", f"(key: {task.reference})"))


class LeaksInTheSystemMessage(Sound):
    def begin(self, task):
        return (Message("system", f"The answer is {task.reference}."), *task.prompt)


class TellsAfterAnAction(Sound):
    async def respond(self, action):
        if self.episode.num_turns < 2:
            return Reply((Message("user", f"Wrong? It is {self.task.reference}."),))
        return await super().respond(action)


class TellsInInfo(Sound):
    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return observation, {**info, "answer": self.task.reference}


class TellsInTheEnd(Sound):
    """No fault: nothing can be done any more with what it tells."""

    async def respond(self, action):
        reply = await super().respond(action)
        told = Message("user", f"It was {self.task.reference}.")
        return replace(reply, messages=(told,)) if reply.stop else reply


class SharesPrompts(Sound):
    def __init__(self, split="train", max_turns=4, render_mode=None):
        super().__init__("train", max_turns)


class NotPlain(Sound):
    def __init__(self, split="train", max_turns=4, render_mode=None):
        super().__init__(split, max_turns)
        first = self.tasks[0]
        odd = Task(first.id, first.prompt, first.reference, metadata={"set": {1, 2}})
        self.tasks = TaskList("odd", split, [odd, *list(self.tasks)[1:]])


class HoldsALock(Sound):
    def __init__(self, split="train", max_turns=4, render_mode=None):
        super().__init__(split, max_turns)
        self.lock = threading.Lock()


class SameIds(Sound):
    def __init__(self, split="train", max_turns=4, render_mode=None):
        super().__init__(split, max_turns)
        self.tasks = TaskList("same", split, [*self.tasks, self.tasks[3]])


class NoGymnasium(Sound):
    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return tuple(observation), info


class AlwaysTheSameSeed(Sound):
    """Gymnasium warns of it, in colour."""

    def reset(self, *, seed=0, options=None):
        return super().reset(seed=seed, options=options)


FAULTS = {
    "gymnasium": [NoGymnasium, AlwaysTheSameSeed],
    "oracle": [OracleLoses],
    "floor": [
        PaysForFormat,
        PaysTheEcho,
        BelievesTheAgent,
        DoesTheSum,
        DoesTheSumInTags,
        ReadsTheQuestion,
    ],
    "verdict": [Moody],
    "range": [OutOfRange],
    "seed": [IgnoresSeeds, MovesGlobalRandom],
    "group": [DependsOnThePast],
    "snapshot": [Forgetful],
    "interleaving": [SharesState],
    "hostile": [Fragile],
    "timeout": [NeverEnds],
    "leak": [Leaky, LeaksInTheSystemMessage, TellsAfterAnAction, TellsInInfo],
    "splits": [SharesPrompts],
    "storage": [NotPlain, HoldsALock],
    "ids": [SameIds],
}
