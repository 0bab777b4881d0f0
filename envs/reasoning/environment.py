"""`palestra/Reasoning-v0`: every reasoning-gym family (arXiv:2505.24760), one at a time or mixed.

The agent answers in `<answer>` tags and is paid what the family's own scorer says, from 0 to
1: some give part of the reward for part of the answer. An empty answer earns nothing, though
a dozen of these scorers would pay for one; nor does one that is a program, where the scorer
would evaluate it (see `rewards/reasoning/`). `correct` means the full reward.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core import ToolEnv
from ..episode import Grade
from ..rewards.extraction import extract_answer
from ..rewards.reasoning import WHOLE_SETS, ascore_reasoning
from ..tasks import LevelledTasks, MixtureTasks, TaskSet
from ..tasks.reasoning import ReasoningTasks, families, num_levels
from ..types import Invalid, Message, Task

INSTRUCTIONS = (
    "Solve the problem. Think first if it helps, then give the answer, and only that, "
    "between <answer> and </answer>."
)
_SIZE = {"train": 10_000, "heldout": 100}  # of each family; some need a second for a task


class Reasoning(ToolEnv):
    """Reasoning-gym tasks, answered in `<answer>` tags.

    Args:
        families: a family, a list of them, a mapping from family to weight, or "all".
        level: the step of every family's curriculum, from 0; families with fewer levels stay
            at their last. None leaves each family at its own default difficulty. A list of
            levels gives tasks at each, for a curriculum to move over.
        family_options: difficulty parameters by family, in place of the level's.
        split: "train" or "heldout" (disjoint by construction).
        size: tasks of each family.
        tasks: task sets made elsewhere, in place of all of these.
        instructions: system prompt; empty for none.
    """

    def __init__(
        self,
        *,
        families: str | Iterable[str] | Mapping[str, float] = "chain_sum",
        level: int | Sequence[int] | None = None,
        family_options: Mapping[str, Mapping[str, Any]] | None = None,
        split: str = "train",
        size: int | None = None,
        seed: int = 0,
        tasks: Sequence[Task] | TaskSet | None = None,
        instructions: str = INSTRUCTIONS,
        max_turns: int = 8,
        render_mode: str | None = None,
    ) -> None:
        if tasks is None:
            tasks = reasoning_tasks(
                families, level=level, options=family_options, split=split, size=size, seed=seed
            )
        super().__init__(tasks=tasks, max_turns=max_turns, render_mode=render_mode)
        self.instructions = instructions

    def begin(self, task: Task) -> Sequence[Message]:
        if not self.instructions:
            return task.prompt
        return (Message("system", self.instructions), *task.prompt)

    def oracle(self, task: Task) -> Sequence[str]:
        return (f"<answer>{task.reference}</answer>",) if task.reference else ()

    async def grade(self, task: Task, messages: tuple[Message, ...]) -> Grade | Invalid:
        answer = extract_answer(messages[-1].content, ("tag",))
        score = await ascore_reasoning(answer, task)
        if isinstance(score, Invalid):
            return score
        return Grade(score, {"answer": score}, score >= 1.0)


def reasoning_tasks(
    names: str | Iterable[str] | Mapping[str, float],
    *,
    level: int | Sequence[int] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
) -> TaskSet:
    """The tasks of one family or a mixture of several (see `Reasoning`).

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError: unknown family, level or option.
    """
    if level is not None and not isinstance(level, int):
        return LevelledTasks(
            [
                reasoning_tasks(
                    names, level=one, options=options, split=split, size=size, seed=seed
                )
                for one in level
            ]
        )
    weights = _weights(names)
    given = options or {}
    if unknown := set(given) - set(weights):
        raise ValueError(f"options for {sorted(unknown)}, which are not among the families asked")
    size = _SIZE["train" if split == "train" else "heldout"] if size is None else size
    sets: dict[str, TaskSet] = {}
    for name in weights:
        own = min(level, num_levels(name) - 1) if level is not None and level >= 0 else level
        own = None if name in WHOLE_SETS and own == 0 else own
        sets[name] = ReasoningTasks(
            name, split=split, size=size, seed=seed, level=own, **given.get(name, {})
        )
    return next(iter(sets.values())) if len(sets) == 1 else MixtureTasks(sets, weights)


def _weights(names: str | Iterable[str] | Mapping[str, float]) -> dict[str, float]:
    if isinstance(names, Mapping):
        return dict(names)
    if isinstance(names, str):
        names = families() if names == "all" else [names]
    return dict.fromkeys(names, 1.0)
