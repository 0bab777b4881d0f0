"""The texts that micro base models are pre-trained on, one corpus for each family.

A corpus makes documents without end, in the exact form that an environment gives its episodes.
The wanted behaviour is in them, rare or mediocre: what reinforcement learning is to find.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import chat, kuhn, programs, rubric, tools
from .documents import Document, Piece

# (how many, random generator, how much of the training is over) -> documents
Draw = Callable[[int, np.random.Generator, float], list[Document]]

CORPORA: dict[str, Draw] = {
    "tools": tools.draw,
    "programs": programs.draw,
    "chat": chat.draw,
    "rubric": rubric.draw,
    "kuhn": kuhn.draw,
}

__all__ = ["CORPORA", "Document", "Draw", "Piece"]
