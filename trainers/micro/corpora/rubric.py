"""Short texts on the topics of `Rubric-v0`, written with little regard to what was asked for.

Requests are generated train tasks. Practice asks for one sentence that holds a word, and is
answered rightly; in the form of the task sentences come at random, in any number, and often after
praise of the question, which the rubric forbids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from ....envs.rubric.generator import draw_task, sentences, topic_of
from .documents import Document, Piece

T = TypeVar("T")
TASK_EVERY = 2  # one document in so many is a text
CAREFUL = 0.3  # share of texts that do what was asked for
LONGEST = 4  # sentences of a text that pays no regard
PRAISE = 0.5  # how often such a text begins with praise
PRAISES = ("What a great topic! ", "That is an interesting question. ", "What a lovely request! ")


def draw(count: int, rng: np.random.Generator, done: float) -> list[Document]:
    """`count` documents, of which every `TASK_EVERY`-th is a text."""
    return [text(rng) if i % TASK_EVERY == 0 else practice(rng) for i in range(count)]


def practice(rng: np.random.Generator) -> Document:
    """One sentence on a topic with a word in it."""
    topic = _pick(rng, tuple(sentences()))
    sentence = _pick(rng, sentences()[topic])
    word = _pick(rng, re.findall(r"\w+", sentence.lower()))
    return Document(f'About {topic}, with "{word}".', (Piece(sentence),))


def text(rng: np.random.Generator) -> Document:
    """A request, and sentences for it: those that it asks for, or any on its topic."""
    task = draw_task(rng)
    if rng.random() < CAREFUL:
        return Document(task.question, (Piece(task.reference),), long=True)
    own = rng.permutation(sentences()[topic_of(task)])
    opener = _pick(rng, PRAISES) if rng.random() < PRAISE else ""
    said = " ".join(own[: int(rng.integers(1, LONGEST + 1))])
    return Document(task.question, (Piece(opener + said),), long=True)


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]
