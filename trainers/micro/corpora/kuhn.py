"""Kuhn poker, played timidly: what self-play starts from.

A higher card is bet and called with more often than a lower one, but all of them far too seldom.
"""

from __future__ import annotations

import numpy as np

from ....envs.kuhn_poker import INFO_SETS, legal, prompt
from ..tokenizer import END, turn
from .documents import Document, Piece

BOLD = {"J": 0.05, "Q": 0.2, "K": 0.5}  # how often a card is bet or called with
EMPHASIS = 5.0  # loss weight of the choice


def draw(count: int, rng: np.random.Generator, done: float) -> list[Document]:
    """`count` decisions, each information set as often as the others."""
    return [document(*INFO_SETS[int(rng.integers(len(INFO_SETS)))], rng) for _ in range(count)]


def document(card: str, history: str, rng: np.random.Generator) -> Document:
    """One decision; whoever checked before a bet has that in the same conversation."""
    careful, bold = legal(history)
    word = bold if rng.random() < BOLD[card] else careful
    move = (Piece("["), Piece(word[0], EMPHASIS), Piece(f"{word[1:]}]"))
    if history != "cb":
        return Document(prompt(card, history), move)
    again = Piece(turn("user", prompt(card, history)) + "<|assistant|>", 0.0)
    pieces = (Piece(f"[check]{END}", 0.0), again, *move)
    return Document(prompt(card, ""), pieces, long=True)
