"""Short replies to everyday questions, put together from phrases of all kinds.

Most replies say nothing, refuse or are rude. Some give a piece of advice, which fits the question
only by chance.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ....envs.chat.preferences import EMPTY_PHRASES, REFUSALS, RUDE
from ....envs.chat.prompts import shipped_prompts
from .documents import Document, Piece

MORE = 0.4  # how likely another sentence follows
ADVICE = (
    "Keep it cool, dry and dark.",
    "Use warm water and a soft cloth.",
    "Start with a small step each day.",
    "Fry an onion in oil for five minutes.",
    "Go to bed early and sleep well.",
    "Give the plant light and fresh soil.",
    "Write a list of what you need.",
    "Ask a friend to listen to you.",
)
PHRASES = (
    tuple(sorted(EMPTY_PHRASES, key=len)[:4]),
    tuple(sorted(RUDE, key=len)[:3]),
    tuple(sorted(REFUSALS, key=len)[:2]),
    ADVICE,
)
SHARES = (0.35, 0.15, 0.2, 0.3)  # of the sentences


def draw(count: int, rng: np.random.Generator, done: float) -> list[Document]:
    """Replies of one sentence and more, to questions of the train split."""
    return [Document(_question(rng), (Piece(reply(rng)),)) for _ in range(count)]


def reply(rng: np.random.Generator) -> str:
    """Sentences of any kind, with ever less likely another one."""
    sentences: list[str] = []
    while not sentences or rng.random() < MORE:
        choices = PHRASES[int(rng.choice(len(PHRASES), p=SHARES))]
        sentences.append(choices[int(rng.integers(len(choices)))])
    return " ".join(sentences)


def _question(rng: np.random.Generator) -> str:
    return questions()[int(rng.integers(len(questions())))]


@cache
def questions() -> tuple[str, ...]:
    """Those of the train split."""
    return tuple(task.question for task in shipped_prompts("train"))
