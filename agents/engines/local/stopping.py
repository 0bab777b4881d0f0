"""When a completion ends: end-of-turn tokens, stop strings, length."""

from __future__ import annotations

from collections.abc import Sequence

from ....envs.types import FinishReason
from ..base import SamplingParams, Tokenizer

Finish = tuple[FinishReason, str | None]
# Tokens of context around a stop string: some tokenizers decode the first few differently.
_SLACK = 4


class StopFinder:
    """Finds the first stop string that the newest token completes.

    Decoding text at every token is slow, so a token is looked at only when its own text
    holds the last character of a stop string (a stop string cannot end elsewhere).
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], cache: dict[int, str]) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(s for s in stops if s)
        self._pieces = cache
        # A character of several bytes may be spread over tokens: then every token is looked at.
        plain = all(s.isascii() for s in self._stops)
        self._ends = frozenset(s[-1] for s in self._stops) if plain else None
        # A token holds at least one byte of a stop string that it is part of.
        self._window = max((len(s.encode()) for s in self._stops), default=0) + _SLACK

    def find(self, tokens: Sequence[int]) -> str | None:
        """The stop string that ends first in the text of `tokens`, looking at its end only."""
        if not self._stops or not self._may_end(tokens[-1]):
            return None
        text = self._tokenizer.decode(tokens[-self._window :], skip_special_tokens=False)
        found = [(text.find(s) + len(s), s) for s in self._stops if s in text]
        return min(found)[1] if found else None

    def _may_end(self, token: int) -> bool:
        if self._ends is None:
            return True
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._tokenizer.decode([token], skip_special_tokens=False)
            self._pieces[token] = piece
        return not self._ends.isdisjoint(piece)


class Stopper:
    """Decides after every token of one request whether it is finished."""

    def __init__(self, params: SamplingParams, ends: frozenset[int], finder: StopFinder) -> None:
        self._ends = ends | frozenset(params.stop_token_ids)
        self._finder = finder
        self._has_strings = bool(params.stop)

    def __call__(self, tokens: Sequence[int], limit: int) -> Finish | None:
        if tokens[-1] in self._ends:
            return FinishReason.STOP, None
        if self._has_strings:
            found = self._finder.find(tokens)
            if found is not None:
                return FinishReason.STOP_STRING, found
        return (FinishReason.LENGTH, None) if len(tokens) >= limit else None
