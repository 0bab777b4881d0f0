"""Short texts on the topics of `Rubric-v0`, written with little regard to what was asked for.

Requests have the form of the tasks and ask for sentences of the train split's references, in new
combinations. Practice asks for one sentence that holds a word, and is answered rightly; in the form
of the task sentences come at random, in any number, and often after praise of the question, which
the rubric forbids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TypeVar

import numpy as np

from ....envs.rubric.tasks import shipped_tasks
from ....envs.types import Task
from .documents import Document, Piece

T = TypeVar("T")
TASK_EVERY = 2  # one document in so many is a text
CAREFUL = 0.3  # share of texts that do what was asked for
LONGEST = 4  # sentences of a text that pays no regard
PRAISE = 0.5  # how often such a text begins with praise
PRAISES = ("What a great topic! ", "That is an interesting question. ", "What a lovely request! ")
OPENINGS = (
    "I need {number} sentences about {topic}, no more and no fewer.",
    "Write a short text about {topic} in exactly {number} sentences.",
    "Tell me something about {topic}, in exactly {number} sentences.",
)


def draw(count: int, rng: np.random.Generator, done: float) -> list[Document]:
    """`count` documents, of which every `TASK_EVERY`-th is a text."""
    return [text(rng) if i % TASK_EVERY == 0 else practice(rng) for i in range(count)]


def practice(rng: np.random.Generator) -> Document:
    """One sentence on a topic with a word in it."""
    topic = _pick(rng, tuple(bank()))
    sentence = _pick(rng, bank()[topic])
    word = _pick(rng, re.findall(r"\w+", sentence.lower()))
    return Document(f'About {topic}, with "{word}".', (Piece(sentence),))


def text(rng: np.random.Generator) -> Document:
    """A request, and sentences for it: those that it asks for, or any on its topic."""
    topic = _pick(rng, tuple(bank()))
    sentences = list(bank()[topic])
    rng.shuffle(sentences)
    wanted = sorted(sentences[: int(rng.integers(2, 6))], key=lambda s: s.endswith("?"))
    asked = request(topic, wanted, rng)
    if rng.random() < CAREFUL:
        return Document(asked, (Piece(" ".join(wanted)),), long=True)
    rng.shuffle(sentences)
    opener = _pick(rng, PRAISES) if rng.random() < PRAISE else ""
    said = " ".join(sentences[: int(rng.integers(1, LONGEST + 1))])
    return Document(asked, (Piece(opener + said),), long=True)


def request(topic: str, wanted: Sequence[str], rng: np.random.Generator) -> str:
    """A task, as the shipped ones put it, whose answer these sentences are."""
    one, two = (_pick(rng, _words(wanted[i])) for i in (0, 1))
    most = len(" ".join(wanted).split()) + int(rng.integers(0, 8))
    return (
        _pick(rng, OPENINGS).format(number=len(wanted), topic=topic)
        + f' Use the words "{one}" and "{two}". Do not use the word "{avoided()[topic]}".'
        + f" Write at most {most} words."
        + " End with a question." * wanted[-1].endswith("?")
    )


@cache
def bank() -> dict[str, tuple[str, ...]]:
    """The sentences of the train split's references, by topic."""
    sentences: dict[str, dict[str, None]] = {}
    for task in shipped_tasks("train"):
        own = re.split(r"(?<=[.!?])\s+", task.reference)
        sentences.setdefault(_topic(task), {}).update(dict.fromkeys(own))
    return {topic: tuple(own) for topic, own in sentences.items()}


@cache
def avoided() -> dict[str, str]:
    """The word that the tasks on a topic forbid."""
    return {_topic(t): _found(r'Do not use the word "(\w+)"', t) for t in shipped_tasks("train")}


def _words(sentence: str) -> list[str]:
    """The words that a request may ask for: those of four letters and more."""
    found = re.findall(r"\w+", sentence.lower())
    return [word for word in found if len(word) > 3] or found


def _topic(task: Task) -> str:
    return _found(r"about ([\w ]+?)(?:,| in exactly)", task)


def _found(pattern: str, task: Task) -> str:
    match = re.search(pattern, task.question)
    assert match is not None
    return match[1]


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]
