"""The tasks that come with Palestra: short texts to write, with rubrics a program can check."""

from __future__ import annotations

import json
from pathlib import Path

from ..tasks import TaskSet
from ..tasks.base import TaskList, canonical_split, in_split
from ..types import Message, Task

SHIPPED = Path(__file__).parent / "data" / "tasks.jsonl"
HOLDOUT = 0.2


def shipped_tasks(split: str = "train") -> TaskSet:
    """The shipped tasks of one split; a fifth is held out, by a hash of the prompt.

    `reference` is a reply that meets every item; `metadata["rubric"]` holds the items.
    """
    split = canonical_split(split)
    rows = [json.loads(line) for line in SHIPPED.read_text(encoding="utf-8").splitlines()]
    tasks = [
        Task(
            id=row["id"],
            prompt=(Message("user", row["prompt"]),),
            reference=row["reply"],
            split=split,
            metadata={"rubric": row["rubric"]},
        )
        for row in rows
        if in_split(row["prompt"], split, HOLDOUT)
    ]
    return TaskList("rubric", split, tasks)
