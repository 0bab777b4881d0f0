"""Every reasoning-gym family as a task set: `rg:chain_sum`, `rg:sudoku`, ..."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy as np

from ..rewards.reasoning import HASH_SEEDED, WHOLE_SETS, encode, family_dataset
from ..types import Message, Task
from .arithmetic import DEFAULT_SIZE
from .base import TaskSet, canonical_split, in_split

_MAX_ATTEMPTS = 300


class ReasoningTasks(TaskSet):
    """Tasks of one reasoning-gym family (Stojanovski et al. 2025, arXiv:2505.24760).

    Task `i` is a function of (family, options, seed, split, i). Prompts that the split
    rule gives to the other split are drawn again. `metadata` holds what the family's own
    scorer needs (`rewards.score_reasoning`); `reference` is empty for the few families
    that have no single answer. Three families (`HASH_SEEDED`) also depend on the
    interpreter's string hashing, and warn unless PYTHONHASHSEED is set.

    Args:
        options: the family's own difficulty parameters, e.g. `min_terms=2` for chain_sum.

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError: unknown family or option, or a value that the family refuses.
    """

    def __init__(
        self,
        family: str,
        *,
        split: str = "train",
        size: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.split, self.seed, self.family = canonical_split(split), seed, family
        self.size = DEFAULT_SIZE[self.split] if size is None else size
        if self.size < 0:
            raise ValueError(f"size must not be negative, got {size}")
        self.options = dict(sorted(options.items()))
        given = ",".join(f"{name}={value}" for name, value in self.options.items())
        self.name = f"rg:{family}({given})" if given else f"rg:{family}"
        with _private_random_state(0):
            family_dataset(family, self.options)
        if family in HASH_SEEDED and os.environ.get("PYTHONHASHSEED", "random") == "random":
            warnings.warn(
                f"tasks of 'rg:{family}' differ from process to process: set PYTHONHASHSEED=0",
                UserWarning,
                stacklevel=3,
            )

    def __len__(self) -> int:
        return self.size

    def task(self, index: int) -> Task:
        for attempt in range(_MAX_ATTEMPTS):
            entry = self._entry(self._key(index, attempt))
            if in_split(entry["question"], self.split):
                break
        else:
            raise ValueError(
                f"{self.name!r} has too few different questions to fill its {self.split} split: "
                f"choose options that make it more varied"
            )
        answer = entry["answer"]
        scoring = {"answer": encode(answer), "metadata": encode(entry["metadata"])}
        return Task(
            id=f"{self.name}/{self.split}/{self.seed}/{index}",
            prompt=(Message("user", entry["question"]),),
            reference="" if answer is None else str(answer),
            split=self.split,
            metadata={"family": self.family, "options": encode(self.options), "entry": scoring},
        )

    def _key(self, index: int, attempt: int) -> int:
        text = f"{self.name}/{self.split}/{self.seed}/{index}/{attempt}"
        return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "little")

    def _entry(self, key: int) -> dict[str, Any]:
        with _private_random_state(key):
            if self.family in WHOLE_SETS:  # one of size 1 is a function of its seed alone
                entry = family_dataset(self.family, self.options, seed=key)[0]
            else:
                entry = family_dataset(self.family, self.options)[key]
        return dict(entry)


@contextmanager
def _private_random_state(seed: int) -> Iterator[None]:
    """A few families use the global generators: fix them, then put them back."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
