"""Every reasoning-gym family as a task set: `rg:chain_sum`, `rg:sudoku`, ..."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import Any

from ..global_random import GlobalRandom
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
        level: a step of the family's own curriculum, from 0 (`num_levels` tells how many).
        options: the family's own difficulty parameters, e.g. `min_terms=2` for chain_sum.
            They go before those of the level.

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
        level: int | None = None,
        **options: Any,
    ) -> None:
        self.split, self.seed, self.family = canonical_split(split), seed, family
        self.size = DEFAULT_SIZE[self.split] if size is None else size
        if self.size < 0:
            raise ValueError(f"size must not be negative, got {size}")
        shown = {"level": level} if level is not None else {}
        given = ",".join(f"{name}={value}" for name, value in (shown | options).items())
        if level is not None:
            options = level_options(family, level) | options
        self.options = dict(sorted(options.items()))
        self.name = f"rg:{family}({given})" if given else f"rg:{family}"
        with GlobalRandom(0).lent():
            family_dataset(family, self.options)
        if family in HASH_SEEDED and os.environ.get("PYTHONHASHSEED", "random") == "random":
            warnings.warn(
                f"tasks of 'rg:{family}' differ from process to process: set PYTHONHASHSEED=0",
                UserWarning,
                stacklevel=4,  # who calls `load_tasks`
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
        with GlobalRandom(key).lent():
            if self.family in WHOLE_SETS:  # one of size 1 is a function of its seed alone
                entry = family_dataset(self.family, self.options, seed=key)[0]
            else:
                entry = family_dataset(self.family, self.options)[key]
        return dict(entry)


def families() -> list[str]:
    """Every reasoning-gym family, by name.

    Raises:
        ImportError: reasoning-gym is not installed.
    """
    return sorted(_curricula())


def num_levels(family: str) -> int:
    """How many levels the curriculum of a family has; 1 for the few without one.

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError: unknown family.
    """
    curriculum = _curriculum(family)
    if curriculum is None:
        return 1
    return max((len(part.levels) for part in curriculum.attributes.values()), default=1)


def level_options(family: str, level: int) -> dict[str, Any]:
    """The difficulty parameters of one level: every attribute at that level, or at its last.

    Ranges go from the level before to this one, so that levels overlap little; where a
    family refuses so narrow a range, from the first level, and where it refuses its own
    level altogether (modulo_grid's second, knight_swap's first), the nearest that it takes.

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError: unknown family, or no such level.
    """
    top = num_levels(family) - 1
    if not 0 <= level <= top:
        raise ValueError(f"'rg:{family}' has levels 0 to {top}, got {level}")
    curriculum = _curriculum(family)
    if curriculum is None:
        return {}
    for near in sorted(range(top + 1), key=lambda other: (other > level, abs(other - level))):
        curriculum.set_global_level(near)
        for options in _configurations(curriculum):
            with GlobalRandom(0).lent(), suppress(ValueError):
                family_dataset(family, options)
                return options
    raise ValueError(f"'rg:{family}' refuses every level of its own curriculum")


def _configurations(curriculum: Any) -> Iterator[dict[str, Any]]:
    """The parameters at a curriculum's present level, with narrow ranges and with wide."""
    from reasoning_gym.coaching.base_curriculum import DefaultCurriculumContext

    kinds = ("field_name", "lower_field_name", "upper_field_name")
    parts = curriculum.attributes.values()
    names = {getattr(part, kind) for part in parts for kind in kinds if hasattr(part, kind)}
    for mode in ("upper_bound", "inclusive"):
        config = curriculum.generate_configuration({}, DefaultCurriculumContext(mode=mode))
        yield {name: getattr(config, name) for name in sorted(names)}


def _curricula() -> dict[str, Any]:
    try:
        from reasoning_gym.factory import CURRICULA, DATASETS
    except ImportError as error:
        raise ImportError(
            "'rg:' tasks need reasoning-gym: pip install 'palestra[tasks]'"
        ) from error
    return {name: CURRICULA.get(name) for name in DATASETS if name != "composite"}


def _curriculum(family: str) -> Any:
    known = _curricula()
    if family not in known:
        family_dataset(family, {})  # raises with the nearest names
    made = known[family]
    return made() if made is not None else None
