"""What the scheduler needs from a model: prefill, decode, and rows of key/value cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .sampling import Scores


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens to run through the model: `tokens` stand at `start`, `start + 1`, ... of `row`."""

    row: int
    start: int
    tokens: Sequence[int]


class Backend(Protocol):
    """One model with a key/value cache of numbered rows. Not thread-safe.

    States are whatever `score` turns into logits: final hidden states, or logits already.
    """

    context_length: int

    def prefill(self, segments: Sequence[Segment], *, every: bool = False) -> Tensor:
        """Run segments; the states [S, *] after each, or of all their tokens with `every`."""
        ...

    def decode(self, tokens: Tensor, places: Tensor, longest: int) -> Tensor:
        """Run one token in each of rows 0 .. N-1; the states [N, *].

        Tokens and their places in the rows are [N] int64; `longest` is the last of the places.
        """
        ...

    def score(self, states: Tensor, inverse_temperature: Tensor | None) -> Scores:
        """Logits for sampling; `inverse_temperature` is [N] float32, None for ones."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a row."""
        ...

    def move(self, source: int, target: int, length: int) -> None:
        """The same, where the source row is not needed any more."""
        ...

    def read(self, row: int, start: int, stop: int) -> Tensor | None:
        """Keys and values of tokens start .. stop - 1 of a row; None if they do not stack.

        They are [layers, 2, kv_heads, stop - start, head_dim].
        """
        ...

    def write(self, row: int, data: Tensor) -> None:
        """Put what `read` gave at the start of a row."""
        ...

    def clear(self) -> None:
        """Forget all rows, and whatever of them could change the bits of later ones."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace weights by their Hugging Face names.

        Raises:
            ValueError: a name or shape is not the model's.
        """
        ...
