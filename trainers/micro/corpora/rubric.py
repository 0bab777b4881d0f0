"""Short texts on the topics of `Rubric-v0`, written with little regard to what was asked for.

Sentences and forms of request are those of the train split's tasks. Practice asks for one
sentence that holds a word, and is answered rightly; in the form of the task sentences come at
random, in any number, and often after praise of the question, which the rubric forbids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

from ....envs.rubric.tasks import shipped_tasks
from .documents import Document, Piece

T = TypeVar("T")
TASK_EVERY = 2  # one document in so many is a text
CAREFUL = 0.3  # share of texts that do what was asked for
LONGEST = 4  # sentences of a text that pays no regard
PRAISE = 0.5
PRAISES = ("What a great topic! ", "That is an interesting question. ", "What a lovely request! ")
_WORDS = re.compile(r'Use the words "(\w+)" and "(\w+)"')


@dataclass(frozen=True, slots=True)
class Request:
    """A task's text and what it asks for."""

    text: str
    topic: str
    sentences: int
    words: tuple[str, str]


def draw(count: int, rng: np.random.Generator, done: float) -> list[Document]:
    return [text(rng) if i % TASK_EVERY == 0 else practice(rng) for i in range(count)]


def practice(rng: np.random.Generator) -> Document:
    """One sentence on a topic with a word in it."""
    topic = _pick(rng, tuple(bank()))
    sentence = _pick(rng, bank()[topic])
    word = _pick(rng, tuple(re.findall(r"\w+", sentence.lower())))
    return Document(f'About {topic}, with "{word}".', (Piece(sentence),))


def text(rng: np.random.Generator) -> Document:
    request = _pick(rng, requests())
    sentences = list(bank()[request.topic])
    rng.shuffle(sentences)
    if rng.random() < CAREFUL:
        chosen = _meeting(request, sentences)
        return Document(request.text, (Piece(" ".join(chosen)),), long=True)
    number = int(rng.integers(1, LONGEST + 1))
    opener = _pick(rng, PRAISES) if rng.random() < PRAISE else ""
    return Document(request.text, (Piece(opener + " ".join(sentences[:number])),), long=True)


def _meeting(request: Request, sentences: list[str]) -> list[str]:
    """So many sentences as asked for, those with the wanted words first, a question last."""
    needed = [s for s in sentences if any(w in s.lower() for w in request.words)]
    rest = [s for s in sentences if s not in needed]
    chosen = [*needed, *rest][: request.sentences]
    return sorted(chosen, key=lambda s: s.endswith("?"))


@cache
def requests() -> tuple[Request, ...]:
    """What the tasks of the train split ask for."""
    found = []
    for task in shipped_tasks("train"):
        match = re.search(r"about ([\w ]+?)(?:, no|, in| in exactly)", task.question)
        number = re.search(r"(\d) sentences", task.question)
        words = _WORDS.search(task.question)
        assert match and number and words
        found.append(Request(task.question, match[1], int(number[1]), (words[1], words[2])))
    return tuple(found)


@cache
def bank() -> dict[str, tuple[str, ...]]:
    """The sentences of the train split's references, by topic."""
    sentences: dict[str, dict[str, None]] = {}
    for task, request in zip(shipped_tasks("train"), requests(), strict=True):
        own = re.split(r"(?<=[.!?])\s+", task.reference)
        sentences.setdefault(request.topic, {}).update(dict.fromkeys(own))
    return {topic: tuple(own) for topic, own in sentences.items()}


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]
