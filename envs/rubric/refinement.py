"""Kimi K2's closed loop: what is known to be right re-calibrates the critic.

Groups of verifiable tasks give pairs of a right and a wrong answer. `critic_accuracy` (in
`rewards/tournament.py`) tracks the critic on them; `critic_tasks` makes them tasks for
`Rubric-v0`, so that a policy which is its own critic learns to judge in an ordinary run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

from ..rewards.group import final_text
from ..rewards.judge import JudgePrompt, transcript
from ..rewards.tournament import CRITERIA, PAIR_TOKEN
from ..types import Group, Task

Triple = tuple[str, str, str]  # question, a correct answer, an incorrect one


def critic_triples(groups: Iterable[Group], answer_of: Callable[[str], str] = str) -> list[Triple]:
    """(question, a correct answer, an incorrect one) from groups whose tasks are verifiable."""
    triples = []
    for group in groups:
        right = [answer_of(final_text(t)) for t in group.valid if t.correct]
        wrong = [answer_of(final_text(t)) for t in group.valid if t.correct is False]
        asked = transcript(group.task.prompt)
        triples += [(asked, a, b) for a, b in zip(right, wrong, strict=False)]
    return triples


def critic_tasks(
    triples: Sequence[Triple],
    *,
    split: str = "train",
    criteria: str = CRITERIA,
    prompt: JudgePrompt = PAIR_TOKEN,
) -> list[Task]:
    """Judging as tasks: which of two answers is better, each pair in both orders.

    The prompt is word for word what `compared_by_probability` asks, and the one item of each
    task's rubric is met by the right letter alone: `Rubric(tasks=..., rubrics=["task"])`. A
    pair whose answers are equal, or that came before, is left out.
    """
    tasks: dict[str, Task] = {}
    for question, right, wrong in triples:
        for letter, first, second in (("A", right, wrong), ("B", wrong, right)):
            fields = {"question": question, "first": first, "second": second, "criteria": criteria}
            messages = prompt.messages(**fields)
            digest = blake2b(messages[-1].content.encode("utf-8", "surrogatepass"), digest_size=8)
            check = {"kind": "regex", "pattern": rf"\A\W*{letter}\W*\Z"}
            item = {"name": "verdict", "text": "Names the better answer.", "verify": check}
            task = Task(
                id=f"critic/{digest.hexdigest()}",
                prompt=messages,
                reference=letter,
                split=split,
                metadata={"rubric": [item]},
            )
            if right != wrong:
                tasks.setdefault(task.id, task)
    return list(tasks.values())


def write_critic_tasks(path: str | Path, tasks: Iterable[Task]) -> int:
    """Write tasks of `critic_tasks` as JSONL that `load_tasks` reads; returns how many.

    Hold out questions, not rows: give `tasks="train=a.jsonl,heldout=b.jsonl"` two files, or the
    same pair in its other order may be held out.
    """
    rows = [
        {
            "id": task.id,
            "messages": [message.to_dict() for message in task.prompt],
            "answer": task.reference,
            **task.metadata,
        }
        for task in tasks
    ]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    Path(path).write_text("".join(lines), encoding="utf-8")
    return len(rows)
