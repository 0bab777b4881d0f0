"""The prompts that come with Palestra: everyday questions, some with a good reply.

A row has an id, a prompt, `expects` (stems of words that a good reply is likely to use and
that the prompt does not give away), and for some a `reply`, which is the task's reference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..tasks import TaskSet
from ..tasks.base import TaskList, canonical_split, in_split
from ..types import Message, Task

SHIPPED = Path(__file__).parent / "data" / "prompts.jsonl"
HOLDOUT = 0.2


@cache
def shipped_rows() -> tuple[Mapping[str, Any], ...]:
    """All rows of the shipped file, both splits."""
    return tuple(json.loads(line) for line in SHIPPED.read_text(encoding="utf-8").splitlines())


def shipped_prompts(split: str = "train") -> TaskSet:
    """The shipped prompts of one split; a fifth is held out, by a hash of the prompt."""
    split = canonical_split(split)
    tasks = [
        Task(
            id=row["id"],
            prompt=(Message("user", row["prompt"]),),
            reference=row.get("reply", ""),
            split=split,
            metadata={"expects": row["expects"]},
        )
        for row in shipped_rows()
        if in_split(row["prompt"], split, HOLDOUT)
    ]
    return TaskList("chat", split, tasks)
