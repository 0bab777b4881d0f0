"""Writing tasks made on demand, in the form of the shipped ones: they never run out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from ..tasks.base import in_split
from ..tasks.seeds import TasksOnDemand
from ..types import Message, Task
from .checks import checker
from .tasks import HOLDOUT, shipped_tasks

OPENINGS = (
    "I need {number} sentences about {topic}, no more and no fewer.",
    "Write a short text about {topic} in exactly {number} sentences.",
    "Tell me something about {topic}, in exactly {number} sentences.",
)
SENTENCES = (2, 5)  # asked for, least and most
SPARE_WORDS = 8  # by which the limit exceeds the reference, at most
_MAX_ATTEMPTS = 1000


class GeneratedTasks(TasksOnDemand):
    """Requests whose answers combine sentences of the shipped train tasks' references anew.

    Task `i` is a function of (seed, split, i). A request that the split rule gives to the other
    split is drawn again, so no held-out prompt, shipped or generated, is in training.
    """

    def __init__(self, *, split: str = "train", size: int | None = None, seed: int = 0) -> None:
        super().__init__("generated", split=split, size=size)
        self.seed = seed

    def task(self, index: int) -> Task:
        rng = np.random.default_rng((self.seed, self.split == "heldout", index))
        return draw_task(rng, self.split, f"rubric/{self.split}/{self.seed}/{index}")


def draw_task(rng: np.random.Generator, split: str = "train", id: str = "") -> Task:
    """A task of one split; `reference` meets every item of `metadata["rubric"]`."""
    for _ in range(_MAX_ATTEMPTS):
        task = _draw(rng, split, id)
        if in_split(task.question, split, HOLDOUT) and _is_met(task):
            return task
    raise AssertionError(f"no {split} task in {_MAX_ATTEMPTS} attempts")  # one in five would do


def _draw(rng: np.random.Generator, split: str, id: str) -> Task:
    topic = str(rng.choice(list(sentences())))
    least, most = SENTENCES
    number = min(int(rng.integers(least, most + 1)), len(sentences()[topic]))
    chosen = [str(s) for s in rng.permutation(sentences()[topic])[:number]]
    chosen.sort(key=lambda s: s.endswith("?"))  # a question comes last
    first = str(rng.choice(_words(chosen[0])))
    second = str(rng.choice([word for word in _words(chosen[1]) if word != first]))
    words = [first, second]
    reply = " ".join(chosen)
    limit = len(reply.split()) + int(rng.integers(SPARE_WORDS))
    asks = reply.endswith("?")
    prompt = (
        str(rng.choice(OPENINGS)).format(number=number, topic=topic)
        + f' Use the words "{words[0]}" and "{words[1]}".'
        + f' Do not use the word "{avoided()[topic]}". Write at most {limit} words.'
        + " End with a question." * asks
    )
    rubric = _items(words, avoided()[topic], number, limit, asks=asks)
    ask = (Message("user", prompt),)
    return Task(id, ask, reference=reply, split=split, metadata={"rubric": rubric})


def _items(
    words: Sequence[str], avoid: str, number: int, limit: int, *, asks: bool
) -> list[dict[str, Any]]:
    items: list[tuple[str, str, str, dict[str, Any]]] = [
        ("first_word", "essential", f'The reply uses the word "{words[0]}".', _mentions(words[0])),
        (
            *("avoids", "pitfall", f'The reply does not use the word "{avoid}".'),
            {"kind": "avoids", "words": [avoid]},
        ),
        ("second_word", "important", f'The reply uses the word "{words[1]}".', _mentions(words[1])),
        (
            *("sentences", "essential", f"The reply has exactly {number} sentences."),
            {"kind": "sentences", "least": number, "most": number},
        ),
        (
            *("short", "important", f"The reply has at most {limit} words."),
            {"kind": "words", "least": 1, "most": limit},
        ),
    ]
    if asks:
        ends = {"kind": "regex", "pattern": r"\?\s*$"}
        items.append(("question", "optional", "The reply ends with a question.", ends))
    return [
        {"name": name, "text": text, "category": category, "verify": verify}
        | ({"mandatory": True} if name in ("first_word", "avoids") else {})
        for name, category, text, verify in items
    ]


def _mentions(word: str) -> dict[str, Any]:
    return {"kind": "mentions", "words": [word]}


def _is_met(task: Task) -> bool:
    """Whether the reference meets what it does not by construction, as a question at its end."""
    drawn = [row for row in task.metadata["rubric"] if row["verify"]["kind"] != "regex"]
    return all(checker(row["verify"])(task.reference) is True for row in drawn)


@cache
def sentences() -> dict[str, tuple[str, ...]]:
    """The sentences of the shipped train tasks' references, by topic."""
    found: dict[str, dict[str, None]] = {}
    for task in shipped_tasks("train"):
        own = re.split(r"(?<=[.!?])\s+", task.reference)
        found.setdefault(topic_of(task), {}).update(dict.fromkeys(own))
    return {topic: tuple(own) for topic, own in found.items()}


@cache
def avoided() -> dict[str, str]:
    """The word that the tasks on a topic forbid."""
    return {topic_of(t): _found(r'Do not use the word "(\w+)"', t) for t in shipped_tasks("train")}


def topic_of(task: Task) -> str:
    """What a task in this form is about."""
    return _found(r"about ([\w ]+?)(?:,| in exactly)", task)


def _words(sentence: str) -> list[str]:
    """The words that a request may ask for: those of four letters and more."""
    found = re.findall(r"\w+", sentence.lower())
    return [word for word in found if len(word) > 3] or found


def _found(pattern: str, task: Task) -> str:
    match = re.search(pattern, task.question)
    assert match is not None
    return match[1]
