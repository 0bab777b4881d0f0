"""Turn one row of a data file into a task, whatever field names its author chose."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ..rewards.extraction import last_boxed
from ..types import Message, Role, Task
from .countdown import countdown_task

PROMPT_KEYS = ("prompt", "messages", "question", "problem")
# The most specific name first: a verl row may have an `answer` beside its ground truth.
ANSWER_KEYS = (
    "reward_model.ground_truth",
    "reward_spec.ground_truth",
    "reward_spec",
    "ground_truth",
    "answer",
    "solution",
)
Row = Mapping[str, Any]
_LEVEL = re.compile(r"\s*(?:level\s*)?([0-9]+(?:\.[0-9]+)?)\s*", re.IGNORECASE)
_LONGEST_ANSWER = 300  # characters


@dataclass(frozen=True, slots=True)
class RowFormat:
    """Where prompt and reference stand in a row; None means: look for the usual names.

    A key may be dotted (`reward_model.ground_truth`). `answer_key=""` says that the rows
    have no reference.
    """

    prompt_key: str | None = None
    answer_key: str | None = None

    def to_task(self, row: Any, where: str, task_id: str, split: str) -> Task:
        """Read `row`; `where` (file and line) starts every error message.

        Raises:
            ValueError: the row is no object, or a field is missing or of the wrong kind.
        """
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
        if self.prompt_key is None and {"nums", "target"} <= set(row):
            return _countdown(row, where, task_id, split)
        prompt_key, prompt = _find(row, self.prompt_key, PROMPT_KEYS, "prompt", where)
        metadata = {k: v for k, v in row.items() if k not in (prompt_key, "id", "difficulty")}
        reference = ""
        if self.answer_key != "":
            answer_key, answer = _find(row, self.answer_key, ANSWER_KEYS, "answer", where)
            reference = _reference(answer, answer_key, where)
            if reference == answer:
                metadata.pop(answer_key, None)
        if "subject" not in metadata and {"problem", "level", "type"} <= set(row):
            metadata["subject"] = row["type"]  # as MATH calls it
        return Task(
            id=str(row.get("id") or task_id),
            prompt=_messages(prompt, prompt_key, where),
            reference=reference,
            split=split,
            difficulty=_difficulty(row),
            metadata=json.loads(json.dumps(metadata, default=str)),
        )


def _countdown(row: Row, where: str, task_id: str, split: str) -> Task:
    """A row of a Countdown file: the numbers `nums`, and the `target` to make of them."""
    numbers, target = list(row["nums"]), row["target"]
    if len(numbers) < 2 or not all(type(n) is int and n > 0 for n in (*numbers, target)):
        raise ValueError(
            f"{where}: a Countdown row has two or more positive numbers as 'nums' and one as "
            f"'target', got {row['nums']!r} and {target!r}"
        )
    return countdown_task(numbers, target, id=str(row.get("id") or task_id), split=split)


def _lookup(row: Row, key: str) -> Any:
    """`row[key]`, following dots; None when it is not there."""
    if key in row:
        return row[key]
    value: Any = row
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _find(
    row: Row, chosen: str | None, usual: tuple[str, ...], role: str, where: str
) -> tuple[str, Any]:
    for key in (chosen,) if chosen else usual:
        value = _lookup(row, key)
        if value is not None:
            return key, value
    wanted = repr(chosen) if chosen else "one of " + ", ".join(map(repr, usual))
    raise ValueError(
        f"{where}: no {role}: expected {wanted}, got the fields {sorted(row)}. "
        f'Name the right one with {role}_key="..."'
        + (', or answer_key="" if the tasks have no reference' if role == "answer" else "")
    )


def _reference(value: Any, key: str, where: str) -> str:
    """The final answer in `value`: GSM8K's `#### 18`, a solution's last box, or all of it.

    A solution without a box is the answer itself only while it is short enough to be one.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return json.dumps(value, default=str)
    text = str(value).strip()
    if "####" in text:
        text = text.rpartition("####")[2].strip().replace(",", "")
    elif key == "solution":
        answer = last_boxed(text) or text
        if len(answer) > _LONGEST_ANSWER or "\n" in answer:
            raise ValueError(
                f"{where}: no \\boxed{{}} in {key!r}, which is too long to be the answer itself: "
                f'name the field with the answer by answer_key="..."'
            )
        text = answer
    if not text:
        raise ValueError(f"{where}: the field {key!r} holds an empty answer")
    return text


def _difficulty(row: Row) -> float | None:
    """The row's `difficulty`, or its `level` where that is a number or says "Level 3"."""
    for value in (row.get("difficulty"), row.get("level")):
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str) and (level := _LEVEL.fullmatch(value)):
            return float(level[1])
    return None


def _messages(value: Any, key: str, where: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        if not value.strip():
            raise ValueError(f"{where}: the field {key!r} holds an empty prompt")
        return (Message("user", value),)
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"{where}: the field {key!r} must be a string or a list of messages, "
            f"got {type(value).__name__}"
        )
    for message in value:
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, str) or message.get("role") not in get_args(Role):
            raise ValueError(
                f"{where}: every message in {key!r} needs a role ({', '.join(get_args(Role))}) "
                f"and a text as content, got {str(message)[:200]}"
            )
    if value[-1]["role"] == "assistant":
        raise ValueError(
            f"{where}: the messages in {key!r} end with the assistant's reply: a prompt ends "
            f"before it. Remove that message, or name another field with prompt_key=..."
        )
    return tuple(Message.from_dict(message) for message in value)
