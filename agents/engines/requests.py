"""What the engines share about requests: stop strings, and who may run when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from .base import ContextOverflow, SamplingParams, Tokenizer


def token_budget(prompt_tokens: int, params: SamplingParams, context_length: int) -> int:
    """How many tokens a request may sample: `max_tokens`, less where the context is near.

    Raises:
        ContextOverflow: there is no room for a single token.
        ValueError: the prompt is empty.
    """
    if prompt_tokens < 1:
        raise ValueError("prompt_ids is empty: a completion needs at least one prompt token")
    room = context_length - prompt_tokens
    if room < 1:
        raise ContextOverflow(
            f"the prompt has {prompt_tokens} tokens and the context {context_length}, which "
            f"leaves no room for a new token: shorten the prompt or raise the context length"
        )
    return min(params.max_tokens, room)


class StopStrings:
    """Finds the token that completes a stop string.

    Decoding text at every token is slow. A string ends inside the newest token, so nothing
    is decoded unless that token's own text holds the last character of one; its text is kept in
    `pieces`, which may be shared. Then only the tail of the completion is decoded: every token
    that takes part in a match holds at least one byte of it, so the tail needs as many tokens
    as the string has bytes. `SLACK` more keep decoders that treat the first token of a text
    differently (a stripped space, half a character) away from the match.
    """

    SLACK = 8

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str], pieces: dict[int, str] | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(s for s in stop if s)
        self.tail = max((len(s.encode()) for s in self.stop), default=0) + self.SLACK
        self._pieces = {} if pieces is None else pieces
        # A character of several bytes may be spread over tokens, and a token that is one space
        # may decode to nothing: then every token is looked at.
        plain = all(s.isascii() and s[-1] != " " for s in self.stop)
        self._ends = frozenset(s[-1] for s in self.stop) if plain else None

    def match(self, token_ids: Sequence[int]) -> str | None:
        """The stop string that the last of `token_ids` completes; None if it does not.

        Call it after every token. Where one token completes several, the first to end wins.
        """
        if not self.stop or not self.may_end(token_ids[-1]):
            return None
        text = self.tokenizer.decode(token_ids[-self.tail :], skip_special_tokens=False)
        found = [(at + len(s), s) for s in self.stop if (at := text.find(s)) >= 0]
        return min(found)[1] if found else None

    def may_end(self, token: int) -> bool:
        """Whether a stop string could end in this token; False where none does."""
        if self._ends is None:
            return True
        piece = self._pieces.get(token)
        if piece is None:
            piece = self.tokenizer.decode([token], skip_special_tokens=False)
            self._pieces[token] = piece
        return not self._ends.isdisjoint(piece)


class RequestGate:
    """Lets many requests in at once, or one weight load alone.

    A load holds new requests back, waits for those inside and then runs by itself. Not
    bound to an event loop: it waits on events made at the time of need.
    """

    def __init__(self) -> None:
        self.active = 0
        self._open: asyncio.Event | None = None  # set while a load runs or waits
        self._idle: asyncio.Event | None = None

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        while self._open is not None:
            await self._open.wait()
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
            if self._idle is not None and self.active == 0:
                self._idle.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        while self._open is not None:
            await self._open.wait()
        self._open = asyncio.Event()
        try:
            if self.active:
                self._idle = asyncio.Event()
                await self._idle.wait()
            yield
        finally:
            self._idle = None
            self._open.set()
            self._open = None
