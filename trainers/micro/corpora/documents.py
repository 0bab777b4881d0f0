"""What a corpus is made of: documents of one user message and what an assistant answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an assistant turn and what each of its tokens weighs in the loss.

    It may hold control tokens, to end the turn and let a user speak again.
    """

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Document:
    """A user message and the assistant turn that follows; an end token closes it.

    `long` documents are forwarded apart from the others, which spares padding.
    """

    prompt: str
    pieces: tuple[Piece, ...]
    long: bool = False

    @property
    def response(self) -> str:
        return "".join(piece.text for piece in self.pieces)
