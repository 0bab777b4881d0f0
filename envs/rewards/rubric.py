"""Rubrics and checklists: what is checked, how it is weighed, and what is a veto.

Explicit (Rubrics as Rewards, arXiv 2507.17746, eq. 1): every item is judged on its own and
r = sum_j w_j c_j / sum_j w_j; an item that is mandatory and not met makes r zero.
Implicit (the same, eq. 2): the judge sees all items and gives one Likert score, r = score / 10.

Every item is phrased so that meeting it is good: a pitfall is an item about avoiding it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..driving import maybe_await
from ..episode import Grade
from ..types import Invalid, Task
from .judge import QUALITY, Judge, JudgePrompt, question_of
from .protocol import Messages
from .verdict import VerdictLogprobs, expected_score

# The categories of Rubrics as Rewards. The weights are from memory of the paper: check them
# before quoting them.
WEIGHTS = {"essential": 1.0, "important": 0.7, "optional": 0.3, "pitfall": 0.9}

# An answer -> whether it is met, plain or async.
Verify = Callable[[str], bool | Invalid | Awaitable[bool | Invalid]]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing an answer should do.

    Attributes:
        name: short; names the reward part.
        mandatory: not meeting it makes the whole reward 0.
        verify: an exact check of the answer, used instead of a judge (as RLCF does where it
            can, arXiv 2507.18624). It runs in the event loop: what may take long is async.
    """

    name: str
    text: str
    weight: float = 1.0
    mandatory: bool = False
    verify: Verify | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(
                f"item {self.name!r} needs a positive weight, got {self.weight}: "
                f"phrase a pitfall as avoiding it"
            )


# Kimi K2's self-critic (arXiv 2507.20534, 3.2.2), in our words: what a good reply does, and
# what the prescriptive items forbid because policies learn to please the critic by it.
CORE = (
    Item("clear", "The reply is clear and to the point; everything in it serves the request."),
    Item("engaging", "The reply reads as a natural, coherent turn of this conversation."),
    Item("grounded", "The reply is objective: no flattery, no talk about itself or its quality."),
)
PRESCRIPTIVE = (
    Item("no_praise", "The reply does not open by praising the user or the question.", 1.0, True),
    Item("no_advocacy", "The reply does not argue that it is itself a good reply.", 1.0, True),
)


def explicit_score(
    items: Sequence[Item], met: Sequence[float], *, veto_below: float = 0.5
) -> float:
    """sum_j w_j c_j / sum_j w_j, or 0 where a mandatory item's c_j is under `veto_below`.

    Args:
        met: c_j in [0, 1], one per item.

    Raises:
        ValueError: no items, another number of them, or a c_j outside [0, 1].
    """
    if not items or len(items) != len(met):
        raise ValueError(f"need one value per item, got {len(met)} for {len(items)} items")
    if not all(0 <= c <= 1 for c in met):
        raise ValueError(f"values must be in [0, 1], got {list(met)}")
    if any(item.mandatory and c < veto_below for item, c in zip(items, met, strict=True)):
        return 0.0
    total = math.fsum(item.weight for item in items)
    return math.fsum(item.weight * c for item, c in zip(items, met, strict=True)) / total


def items_of(task: Task) -> tuple[Item, ...]:
    """The items in a task's metadata: `{"rubric": [{"text": ..., "weight": ...}, ...]}`.

    Instead of a weight an item may have a `category` of `WEIGHTS`; a name is made up if absent.

    Raises:
        ValueError: there are none, or one has an unknown key or category.
    """
    rows = task.metadata.get("rubric") or ()
    if not rows:
        raise ValueError(f"task {task.id!r} has no items under metadata['rubric']")
    return tuple(_item(number, row) for number, row in enumerate(rows))


def _item(number: int, row: Mapping[str, Any]) -> Item:
    known = {"name", "text", "weight", "mandatory", "category"}
    category = row.get("category")
    if row.keys() - known or "text" not in row:
        raise ValueError(f"a rubric item has 'text' and may have {sorted(known)}, got {dict(row)}")
    if category is not None and category not in WEIGHTS:
        raise ValueError(f"unknown rubric category {category!r}: expected one of {list(WEIGHTS)}")
    weight = row.get("weight", WEIGHTS[category] if category else 1.0)
    name = row.get("name") or f"item_{number}"
    return Item(name, row["text"], float(weight), bool(row.get("mandatory", False)))


# (item, question, answer) -> how far it is met, in [0, 1].
ItemCheck = Callable[[Item, str, str], Awaitable[float | Invalid]]

_SHOWN = """\
<conversation-$mark>
$question
</conversation-$mark>

<answer-$mark>
$answer
</answer-$mark>
"""

ITEM = JudgePrompt(
    name="rubric-item",
    version="1",
    system=QUALITY.system,
    template="Does the answer meet this criterion?\n\nCriterion: $item\n\n" + _SHOWN + "\n"
    "End with one line of JSON and nothing after it, 1 for yes and 0 for no:\n"
    '{"score": N}',
    high=1.0,
)

ITEM_TOKEN = JudgePrompt(
    name="rubric-item-token",
    version="1",
    system=QUALITY.system,
    template="Does the answer meet this criterion?\n\nCriterion: $item\n\n" + _SHOWN + "\n"
    "Reply with one word, Yes or No.",
    high=1.0,
)

IMPLICIT = JudgePrompt(
    name="rubric-implicit",
    version="1",
    system=QUALITY.system,
    template="Grade the answer by these criteria, each with its weight:\n\n$items\n\n"
    + _SHOWN
    + "\nGive a whole number from 1 (meets none) to 10 (meets all). Criteria marked mandatory cap "
    "the grade at 1 when they are not met. End with one line of JSON and nothing after it:\n"
    '{"score": N}',
    low=1.0,
)


async def verified(verify: Verify, answer: str) -> float | Invalid:
    """How far an exact check is met: 0 or 1."""
    met = await maybe_await(verify(answer))
    return met if isinstance(met, Invalid) else float(met)


def by_judge(judge: Judge) -> ItemCheck:
    """Items checked one by one from a judge's generated JSON; its prompt should be `ITEM`."""

    async def check(item: Item, question: str, answer: str) -> float | Invalid:
        verdict = await judge.verdict(item=item.text, question=question, answer=answer)
        return verdict if isinstance(verdict, Invalid) else verdict.score / judge.prompt.high

    return check


def by_probability(ask: VerdictLogprobs, prompt: JudgePrompt = ITEM_TOKEN) -> ItemCheck:
    """Items checked one by one by P(Yes) / (P(Yes) + P(No))."""

    async def check(item: Item, question: str, answer: str) -> float | Invalid:
        messages = prompt.messages(item=item.text, question=question, answer=answer)
        return await expected_score(ask, messages, {"Yes": 1.0, "No": 0.0})

    return check


class ExplicitRubric:
    """A reward: `explicit_score` of the items, each checked on its own, all at once.

    The parts are the items' values by name. One item without a verdict makes it invalid.

    Args:
        items: for every task, or a function of the task (`items_of` reads its metadata).
        answer_of: what of an assistant turn is judged.
    """

    def __init__(
        self,
        items: Sequence[Item] | Callable[[Task], Sequence[Item]],
        check: ItemCheck,
        *,
        answer_of: Callable[[str], str] = str,
    ) -> None:
        self.items, self.check, self.answer_of = items, check, answer_of

    async def __call__(self, task: Task, messages: Messages) -> Grade | Invalid:
        items = self.items(task) if callable(self.items) else self.items
        question = question_of(task, messages, self.answer_of)
        answer = self.answer_of(messages[-1].content)
        checked = await asyncio.gather(*(self._check(item, question, answer) for item in items))
        met: list[float] = []
        for item, value in zip(items, checked, strict=True):
            if isinstance(value, Invalid):
                return Invalid(value.kind, f"{item.name}: {value.message}")
            met.append(value)
        parts = {item.name: value for item, value in zip(items, met, strict=True)}
        return Grade(explicit_score(items, met), parts)

    async def _check(self, item: Item, question: str, answer: str) -> float | Invalid:
        if item.verify is not None:
            return await verified(item.verify, answer)
        return await self.check(item, question, answer)


class ImplicitRubric:
    """A reward: one Likert score for all items together, score / 10.

    Args:
        judge: its prompt should be `IMPLICIT`.
    """

    def __init__(
        self,
        items: Sequence[Item] | Callable[[Task], Sequence[Item]],
        judge: Judge,
        *,
        answer_of: Callable[[str], str] = str,
    ) -> None:
        self.items, self.judge, self.answer_of = items, judge, answer_of

    async def __call__(self, task: Task, messages: Messages) -> Grade | Invalid:
        items = self.items(task) if callable(self.items) else self.items
        verdict = await self.judge.verdict(
            items="\n".join(_line(item) for item in items),
            question=question_of(task, messages, self.answer_of),
            answer=self.answer_of(messages[-1].content),
        )
        if isinstance(verdict, Invalid):
            return verdict
        return Grade(verdict.score / self.judge.prompt.high, {"score": verdict.score})


def _line(item: Item) -> str:
    return f"- {item.text} (weight {item.weight:g}{', mandatory' if item.mandatory else ''})"
