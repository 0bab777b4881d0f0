"""Continuous batching: requests join and leave between any two decode steps.

Synchronous and single-threaded; `engine.LocalEngine` drives it from its worker thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from .backend import Backend, Segment
from .batch import Batch, Request
from .prefix import Key, PrefixCache
from .sampling import uniforms

T = TypeVar("T")
_WAVE_TOKENS = 4096  # prompt tokens prefilled between two decode steps


@dataclass(slots=True)
class _Wave:
    """Requests to prefill together. `copies[i]` repeats the prompt of `leaders[copies[i]]`."""

    leaders: list[Request] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    followers: list[tuple[Request, int]] = field(default_factory=list)
    deferred: list[Request] = field(default_factory=list)


class Scheduler:
    """Rows 0 .. N-1 of the backend's cache belong to the N active requests, in order.

    With `ordered`, waiting requests are admitted in the order of seed and prompt.
    """

    def __init__(
        self,
        backend: Backend,
        prefix: PrefixCache,
        *,
        max_batch: int,
        seed: int,
        ordered: bool,
        device: torch.device,
    ) -> None:
        self.backend, self.prefix = backend, prefix
        self.max_batch, self.ordered, self.device = max_batch, ordered, device
        self.version = 0
        self.waiting: list[Request] = []
        self.active: list[Request] = []
        self._seed = seed
        self._unseeded = 0
        self._batch: Batch | None = None

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.active

    def step(self) -> None:
        """Admit what fits, then sample one token for every active request."""
        self._admit()
        if self.active:
            self._decode()

    def drop_cancelled(self) -> None:
        """Free what belongs to requests that nobody waits for any more."""
        self.waiting = [r for r in self.waiting if not r.future.cancelled()]
        self._remove([r for r in self.active if r.future.cancelled()])

    def clear(self) -> None:
        """Forget past requests, so that the next run as on a new engine. Only when idle."""
        self.prefix.clear()
        self.backend.clear()

    def fail(self, error: Exception) -> None:
        """Give every request the error and forget all cached state."""
        for request in (*self.active, *self.waiting):
            resolve(request.future, error)
        self.active, self.waiting, self._batch = [], [], None
        self.prefix.clear()

    def _admit(self) -> None:
        if self.ordered:
            self.waiting.sort(key=lambda r: r.order)
        budget = _WAVE_TOKENS
        while self.waiting and budget > 0 and len(self.active) < self.max_batch:
            wave = self._plan(budget)
            self._prefill(wave)
            self.waiting = wave.deferred
            budget -= sum(len(s.tokens) for s in wave.segments)

    def _plan(self, budget: int) -> _Wave:
        """Choose requests that share no uncached block: those that do come a wave later."""
        wave = _Wave()
        prompts: dict[tuple[int, ...], int] = {}
        pending: set[Key] = set()
        room = self.max_batch - len(self.active)
        for position, request in enumerate(self.waiting):
            if room == 0 or budget <= 0:
                wave.deferred += self.waiting[position:]
                break
            if request.prompt in prompts:
                wave.followers.append((request, prompts[request.prompt]))
                room -= 1
                continue
            blocks, missing = self.prefix.find(request.prompt)
            if missing in pending:
                wave.deferred.append(request)
                continue
            if missing is not None and self.prefix.enabled:
                pending.add(missing)
            prompts[request.prompt] = len(wave.leaders)
            segment = self._reuse(request, blocks, len(self.active) + len(wave.leaders))
            wave.leaders.append(request)
            wave.segments.append(segment)
            budget -= len(segment.tokens)
            room -= 1
        return wave

    def _reuse(self, request: Request, blocks: list[int], row: int) -> Segment:
        """Load cached blocks into the row; what is left is the segment to prefill."""
        request.started = time.perf_counter()
        # The last token always runs again: its state is what the first sample comes from.
        request.cached = min(len(blocks) * self.prefix.block, len(request.prompt) - 1)
        if blocks:
            self.backend.write(row, self.prefix.load(blocks, request.cached))
        return Segment(row, request.cached, request.prompt[request.cached :])

    def _prefill(self, wave: _Wave) -> None:
        if not wave.leaders:
            return
        self._part()
        states = self.backend.prefill(wave.segments)
        self.active += wave.leaders
        picks = list(range(len(wave.leaders)))
        for request, leader in wave.followers:
            request.started = time.perf_counter()
            request.cached = len(request.prompt)
            self.backend.copy(wave.segments[leader].row, len(self.active), len(request.prompt))
            self.active.append(request)
            picks.append(leader)
        for segment, request in zip(wave.segments, wave.leaders, strict=True):
            self._store(segment.row, request.prompt)
        fresh = [*wave.leaders, *(request for request, _ in wave.followers)]
        for request in fresh:
            self._start(request)
        self._sample(Batch(fresh, self.device), states[torch.tensor(picks, device=self.device)])

    def _start(self, request: Request) -> None:
        request.version = self.version
        seed = request.params.seed
        if seed is None:
            seed = self._seed * 1_000_003 + self._unseeded
            self._unseeded += 1
        if request.params.temperature > 0:
            request.uniforms = uniforms(seed, request.limit)

    def _store(self, row: int, tokens: Sequence[int]) -> None:
        if self.prefix.enabled and len(tokens) >= self.prefix.block:
            self.prefix.store(tokens, partial(self.backend.read, row))

    def _decode(self) -> None:
        batch = self._batch
        if batch is None:
            batch = self._batch = Batch(tuple(self.active), self.device)
        states = self.backend.decode(batch.newest, batch.places, batch.longest)
        self._sample(batch, states)

    def _sample(self, batch: Batch, states: Tensor) -> None:
        finished = batch.add(self.backend.score(states, batch.inverse_temperature))
        if batch is not self._batch:
            batch.hand_over()
        self._remove([request for request, _ in finished])
        for request, finish in finished:
            resolve(request.future, request.completion(finish))

    def _part(self) -> None:
        """The active requests will be others: give them what they have been waiting for."""
        if self._batch is not None:
            self._batch.hand_over()
            self._batch = None

    def _remove(self, requests: Sequence[Request]) -> None:
        """Park the rows in the prefix cache and close the gaps with rows from the end.

        `requests` are in the order of their rows: from the last one on, none of them is moved.
        """
        if requests:
            self._part()
        for request in reversed(requests):
            row = self.active.index(request)
            self._store(row, (*request.prompt, *request.tokens[:-1]))
            last = self.active.pop()
            if last is not request:
                self.backend.move(len(self.active), row, last.length)
                self.active[row] = last


def resolve(future: Future[T], outcome: T | Exception) -> None:
    """Settle a future that its owner may cancel at any moment."""
    try:
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:  # cancelled a moment ago: nobody waits any more
        pass
