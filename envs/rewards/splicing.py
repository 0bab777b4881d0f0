"""Put a reference answer where a model's own answer stood, token for token.

The tokenisation trap of likelihood rewards: written after a cut in the text, the reference may
fall into tokens that the model would never sample there ("> 4 </" in other pieces, say), and its
probability is then that of an oddity. A `Splice` keeps the ids that were sampled, cuts inside
the answer's opening tag, and encodes on from the last sampled boundary before it, so that
splicing in the answer that was sampled gives back the sampled ids.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import Protocol


class TextCodec(Protocol):
    """The part of a tokenizer that splicing uses."""

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...


@dataclass(frozen=True, slots=True)
class Spliced:
    """A completion with the reference in place of its answer.

    Attributes:
        token_ids: reasoning as it was sampled, then the reference and its tags.
        start, end: `token_ids[start:end]` are to be scored; before that is the reasoning.
    """

    token_ids: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Splice:
    """Where the answer of a completion begins, and what is put there instead.

    Attributes:
        marker: the text after whose first occurrence the completion is cut. It should stop
            short of the tag's `>`, which may share a token with what follows.
        tail: what follows then, with `$reference`.
        only_reference: score the tokens that hold the reference, not its tags.
    """

    marker: str = "<answer"
    tail: str = "> \\boxed{$reference} </answer>"
    only_reference: bool = False

    def __call__(
        self, completion: Sequence[int], reference: str, codec: TextCodec
    ) -> Spliced | None:
        """The spliced ids, or None where the marker does not occur."""
        text = codec.decode(completion)
        at = text.find(self.marker)
        if at < 0:
            return None
        kept, kept_text = _boundary(completion, text, at, codec)
        head = text[: at + len(self.marker)]
        return self._join(list(completion[:kept]), kept_text, head, reference, codec)

    def without_reasoning(self, reference: str, codec: TextCodec, opening: str = "") -> Spliced:
        """The same tail after `opening` and the marker alone: what z is compared with."""
        return self._join([], "", opening + self.marker, reference, codec)

    def _join(
        self, kept: list[int], kept_text: str, head: str, reference: str, codec: TextCodec
    ) -> Spliced:
        whole = head + Template(self.tail).substitute(reference=reference)
        ids = codec.encode(whole, add_special_tokens=False)
        if ids[: len(kept)] != kept:
            # The model did not write its reasoning as the tokenizer would: leave it so.
            rest = codec.encode(whole[len(kept_text) :], add_special_tokens=False)
            ids = kept + rest
        before, _, after = self.tail.partition("$reference")
        first, last = len(head), len(whole)
        if self.only_reference:
            first, last = first + len(before), last - len(after)
        start = _tokens_within(ids, whole, first, codec)
        end = _tokens_reaching(ids, whole, last, codec)
        return Spliced(tuple(ids), start, end)


def _boundary(ids: Sequence[int], text: str, at: int, codec: TextCodec) -> tuple[int, str]:
    """How many ids lie wholly before character `at`, and their text."""
    kept = bisect.bisect_right(range(len(ids) + 1), at, key=lambda k: len(codec.decode(ids[:k])))
    kept -= 1
    while kept > 0 and not text.startswith(codec.decode(ids[:kept])):
        kept -= 1  # a boundary inside a character
    return kept, codec.decode(ids[:kept])


def _tokens_within(ids: Sequence[int], text: str, at: int, codec: TextCodec) -> int:
    """The most leading tokens whose text ends at character `at` or before."""
    return _boundary(ids, text, at, codec)[0]


def _tokens_reaching(ids: Sequence[int], text: str, at: int, codec: TextCodec) -> int:
    """The fewest leading tokens whose text holds all of `text[:at]`."""
    count = _tokens_within(ids, text, at, codec)
    while count < len(ids) and not codec.decode(ids[:count]).startswith(text[:at]):
        count += 1
    return count
