"""What a task set is, and the one rule that keeps training and held-out tasks apart."""

from __future__ import annotations

import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from ..types import Task

TRAIN, HELDOUT = "train", "heldout"
HOLDOUT = 0.1  # the share of all possible prompts that is kept for evaluation
_SCALE = 1 << 64


class TaskSet(ABC):
    """A sequence of tasks: random access, no hidden state, picklable.

    `tasks[i]` depends on the set's configuration and on `i` only, never on what was asked
    before. Subclasses set `name` and `split`, and define `__len__` and `task`.
    """

    name: str
    split: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def task(self, index: int) -> Task:
        """Task `index`, with `0 <= index < len(self)` already checked."""

    def __getitem__(self, index: int) -> Task:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"task {index} of {self.name!r}, which has {size} tasks")
        return self.task(index % size)

    def __iter__(self) -> Iterator[Task]:
        return (self.task(index) for index in range(len(self)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} split={self.split} size={len(self)}>"


class TaskList(TaskSet):
    """A task set over tasks that are already there."""

    def __init__(self, name: str, split: str, tasks: Sequence[Task]) -> None:
        self.name, self.split = name, canonical_split(split)
        self._tasks = tuple(tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def task(self, index: int) -> Task:
        return self._tasks[index]


def canonical_split(split: str) -> str:
    """ "train" or "heldout"; "test" is another name for "heldout".

    Raises:
        ValueError: for any other name.
    """
    if split == "test":
        return HELDOUT
    if split not in (TRAIN, HELDOUT):
        raise ValueError(f'unknown split {split!r}: expected "train" or "heldout" (alias "test")')
    return split


def normalise_prompt(text: str) -> str:
    """`text` as prompts are compared: Unicode compatibility form, case and spacing folded."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def is_heldout(text: str, fraction: float = HOLDOUT) -> bool:
    """Whether a prompt belongs to the held-out split, by a stable hash of its words.

    The answer depends on the text alone: no seed, size or file order can move a prompt
    from one side to the other, so two sets of different splits never share one.
    """
    digest = blake2b(normalise_prompt(text).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little") < fraction * _SCALE


def in_split(text: str, split: str, fraction: float = HOLDOUT) -> bool:
    """Whether a prompt may appear in `split` ("train" or "heldout")."""
    return is_heldout(text, fraction) == (split == HELDOUT)


def prompt_key(task: Task) -> str:
    """What makes two tasks the same problem: their normalised messages but the system's.

    A task without a prompt, whose environment writes the opening, is told by its metadata.
    """
    if not task.prompt:
        return json.dumps(task.to_dict()["metadata"], sort_keys=True)
    messages = [m for m in task.prompt if m.role != "system"] or task.prompt
    return "\n".join(normalise_prompt(m.content) for m in messages)


def check_disjoint(a: TaskSet, b: TaskSet, limit: int | None = 10_000) -> None:
    """Check that no prompt of `a` is also in `b`, looking at the first `limit` of each.

    `limit=None` looks at all of them.

    Raises:
        ValueError: prompts are shared; the message counts and shows them.
    """
    first = {prompt_key(a[i]): i for i in range(_upto(a, limit))}
    shared = [(first[key], i) for i in range(_upto(b, limit)) if (key := prompt_key(b[i])) in first]
    if shared:
        i, j = shared[0]
        raise ValueError(
            f"{len(shared)} prompts of {b.name!r} ({b.split}) are also in {a.name!r} ({a.split}), "
            f"the first at {j} and {i}: {b[j].question[:120]!r}. Remove them from one of the two."
        )


def _upto(tasks: TaskSet, limit: int | None) -> int:
    return len(tasks) if limit is None else min(limit, len(tasks))
