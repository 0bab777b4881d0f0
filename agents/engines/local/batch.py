"""Requests that decode together, and what is sampled for them.

A token costs microseconds, so nothing here is done for each token of each request: whether
some request ends is asked of the whole batch, and tokens are handed to their requests when the
company changes. Requests with stop strings are looked at one by one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ....envs.types import Completion, FinishReason
from ..base import SamplingParams
from ..requests import StopStrings
from .sampling import Floats, Scores, Truncation, sample

Finish = tuple[FinishReason, str | None]
_AHEAD = 32  # steps for which uniform numbers are laid out beforehand, at most


@dataclass(eq=False, slots=True)
class Request:
    """One call of `generate` and what has come of it so far."""

    prompt: tuple[int, ...]
    params: SamplingParams
    limit: int  # tokens to sample at most, cut to the context
    ends: frozenset[int]  # tokens that end a turn
    stops: StopStrings
    episode: object = None  # the live episode that asks, if one does
    future: Future[Completion] = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    first_token: float = 0.0
    cached: int = 0
    version: int = 0
    uniforms: Floats | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def order(self) -> tuple[bool, int, tuple[int, ...]]:
        """Where the request stands among those that wait, whatever the time it came."""
        seed = self.params.seed
        return seed is None, seed or 0, self.prompt

    @property
    def length(self) -> int:
        """Tokens whose keys and values are in the cache: all but the newest."""
        return len(self.prompt) + len(self.tokens) - 1

    def completion(self, finish: Finish) -> Completion:
        reason, stop = finish
        return Completion(
            token_ids=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            finish_reason=reason,
            stop=stop,
            policy_version=self.version,
            prompt_tokens=len(self.prompt),
            cached_tokens=self.cached,
            queue_s=self.started - self.submitted,
            prefill_s=self.first_token - self.started,
            decode_s=time.perf_counter() - self.first_token,
        )


class Batch:
    """Samples for `requests`, one for each row of what a model computes, in order.

    Attributes:
        newest: [N] int64, the token of each request that was sampled last.
        places: [N] int64, where in its request that token stands; `longest` is their maximum.
        inverse_temperature: [N] float32, or None for ones.
    """

    def __init__(self, requests: Sequence[Request], device: torch.device) -> None:
        self.requests = requests
        params = [r.params for r in requests]
        lengths = [r.length for r in requests]
        self.places, self.longest = torch.tensor(lengths, device=device), max(lengths)
        self.newest = torch.tensor([r.tokens[-1] if r.tokens else 0 for r in requests]).to(device)
        inverse = [1.0 / (p.temperature or 1.0) for p in params]
        plain = all(i == 1.0 for i in inverse)
        self.inverse_temperature = (
            None if plain else torch.tensor(inverse, dtype=torch.float32, device=device)
        )
        greedy = [p.temperature == 0 for p in params]
        self._greedy = torch.tensor(greedy, device=device) if any(greedy) else None
        self._cuts = [
            Truncation(row, p.top_k, p.top_p)
            for row, p in enumerate(params)
            if p.truncated and p.temperature > 0
        ]
        self._watched = [(row, r) for row, r in enumerate(requests) if r.stops.stop]
        self._ends = frozenset[int]().union(*(r.ends for r in requests))
        self._room = min(r.limit - len(r.tokens) for r in requests)
        self._uniform = torch.empty(0, len(requests), dtype=torch.float64, device=device)
        self._drawn = 0  # rows of them that are used up
        # Of every step since the beginning: one for each request.
        self._tokens: list[list[int]] = []
        self._logprobs: list[list[float]] = []

    def add(self, scores: Scores) -> list[tuple[Request, Finish]]:
        """Sample a token for each; the requests that end with it, in order, and why.

        Where there are any, `hand_over` has to come next.
        """
        self.newest, logprobs = sample(scores, self._draw(), self._greedy, self._cuts)
        self.places = self.places + 1
        self.longest += 1
        self._tokens.append(self.newest.tolist())
        self._logprobs.append(logprobs.tolist())
        finished = self._at_limit() | self._at_stop_string() | self._at_end()
        return [(self.requests[row], finished[row]) for row in sorted(finished)]

    def hand_over(self) -> None:
        """Give the requests their tokens. The batch is not used after that."""
        now = time.perf_counter()
        tokens_of, logprobs_of = zip(*self._tokens, strict=True), zip(*self._logprobs, strict=True)
        for request, tokens, logprobs in zip(self.requests, tokens_of, logprobs_of, strict=False):
            request.tokens += tokens
            request.logprobs += logprobs
            request.first_token = request.first_token or now
        self._tokens, self._logprobs = [], []

    def _draw(self) -> Tensor:
        """The next uniform number of each request: [N] float64."""
        if self._drawn == len(self._uniform):
            # From one step to many: at first the company may change at every step.
            done = len(self._tokens)
            steps = min(2 * self._drawn or 1, _AHEAD, self._room - done)
            numbers = np.zeros((len(self.requests), steps))
            for row, request in enumerate(self.requests):
                if request.uniforms is not None:
                    start = len(request.tokens) + done
                    numbers[row] = request.uniforms[start : start + steps]
            self._uniform = torch.from_numpy(numbers.T.copy()).to(self.places.device)
            self._drawn = 0
        self._drawn += 1
        return self._uniform[self._drawn - 1]

    def _at_end(self) -> dict[int, Finish]:
        tokens = self._tokens[-1]
        if self._ends.isdisjoint(tokens):
            return {}
        return {
            row: (FinishReason.STOP, None)
            for row, (token, request) in enumerate(zip(tokens, self.requests, strict=True))
            if token in request.ends
        }

    def _at_stop_string(self) -> dict[int, Finish]:
        found: dict[int, Finish] = {}
        tokens = self._tokens[-1]
        for row, request in self._watched:
            if request.stops.may_end(tokens[row]):
                tail = request.stops.tail
                recent = (step[row] for step in self._tokens[-tail:])
                written = [*request.tokens[-tail:], *recent]
                if (stop := request.stops.match(written)) is not None:
                    found[row] = FinishReason.STOP_STRING, stop
        return found

    def _at_limit(self) -> dict[int, Finish]:
        done = len(self._tokens)
        if done < self._room:
            return {}
        return {
            row: (FinishReason.LENGTH, None)
            for row, request in enumerate(self.requests)
            if len(request.tokens) + done >= request.limit
        }
