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
    "Keep it cool, dry and away from light.",
    "Use warm water, soap and a soft cloth.",
    "Start with a small step and do it every day.",
    "Put it in a pan with oil and an onion for five minutes.",
    "Go to bed early and leave your phone in another room.",
    "Take a book, a map and a bottle of water with you.",
    "Give the plant light, fresh soil and little water.",
    "Write a list, and cross off what is done.",
    "Ask a friend to listen and tell you what to change.",
    "Save a little money each month before you spend it.",
    "Walk for half an hour and rest on the next day.",
    "Mix flour, eggs and milk, and add some salt.",
)
PHRASES = (EMPTY_PHRASES[:6], RUDE[:4], REFUSALS[:3], ADVICE)
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
