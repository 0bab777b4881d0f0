"""Warm-start data: replies with a plan and a response, written by any model, for fine-tuning.

RLMT warms models up on about 6,000 prompts, for which a strong model was asked to write a plan
and then a response. The rows are chats in the form that the policy will see.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..driving import maybe_await
from ..rewards.thinking import NULL_ANSWER, answer_to_score
from ..types import Message, Task
from .environment import ZERO

Writer = Callable[[Sequence[Message]], str | Awaitable[str]]

ASK = (
    "Write the reply of a thoughtful assistant. First plan between <think> and </think>: what the "
    "user needs, what must be said, what to leave out. Then write the reply itself between "
    "<response> and </response>. Use each tag exactly once."
)


@dataclass(frozen=True, slots=True)
class WarmStart:
    """How many rows were written, and how many replies had no plan or no clear response."""

    written: int
    dropped: int


async def write_warm_start(
    path: str | Path,
    tasks: Iterable[Task],
    writer: Writer,
    *,
    ask: str = ASK,
    instruction: str = ZERO,
    concurrency: int = 16,
) -> WarmStart:
    """Ask `writer` for a plan and a response to each task; keep the well-formed ones as JSONL.

    A row is `{"id", "messages": [system, ...prompt, assistant]}` with `instruction` as the
    system message (none if empty), in the order of the tasks. The file is written aside and
    renamed when it is whole.

    Args:
        writer: (messages) -> text, plain or async: a model, or anything that writes.
        ask: what the writer is told, before the task's prompt.

    Raises:
        ValueError: `concurrency` is under 1.
        Exception: what the writer raises; nothing is written then.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, got {concurrency}")
    gate = asyncio.Semaphore(concurrency)

    async def row(task: Task) -> str | None:
        async with gate:
            text = await maybe_await(writer((Message("system", ask), *task.prompt)))
        return _row(task, text, instruction) if well_formed(text) else None

    rows = await asyncio.gather(*(row(task) for task in tasks))
    kept = [text for text in rows if text is not None]
    _write(Path(path), kept)
    return WarmStart(len(kept), len(rows) - len(kept))


def well_formed(text: str) -> bool:
    """Whether a reply is one plan that is not empty, then one response, and nothing else."""
    text = text.strip()
    plan, found, rest = text.removeprefix("<think>").partition("</think>")
    return (
        text.startswith("<think>")
        and bool(found and plan.strip())
        and rest.lstrip().startswith("<response>")
        and rest.endswith("</response>")
        and answer_to_score(text) != NULL_ANSWER
    )


def _row(task: Task, text: str, instruction: str) -> str:
    system = [Message("system", instruction)] if instruction else []
    messages = [*system, *task.prompt, Message("assistant", text.strip())]
    row = {"id": task.id, "messages": [message.to_dict() for message in messages]}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _write(path: Path, rows: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as aside:
        aside.writelines(rows)
    Path(aside.name).replace(path)
