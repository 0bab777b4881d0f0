"""Continuous batching: requests join and leave between any two decode steps.

Synchronous and single-threaded; `engine.LocalEngine` drives it from its worker thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from ....envs.types import Completion, FinishReason
from ..base import SamplingParams
from ..requests import StopStrings
from .backend import Backend, Segment
from .prefix import Key, PrefixCache
from .sampling import Scores, Truncation, sample, uniforms

T = TypeVar("T")
Finish = tuple[FinishReason, str | None]
_WAVE_TOKENS = 4096  # prompt tokens prefilled between two decode steps


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
    uniforms: list[float] = field(default_factory=list)
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

    def add(self, token: int, logprob: float) -> Finish | None:
        """Take over a sampled token; what ended the completion, if it did."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token in self.ends:
            return FinishReason.STOP, None
        if self.stops.stop and (found := self.stops.match(self.tokens)) is not None:
            return FinishReason.STOP_STRING, found
        return (FinishReason.LENGTH, None) if len(self.tokens) >= self.limit else None

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
        self._batch: _Batch | None = None

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
        self._batch = None
        fresh = [*wave.leaders, *(request for request, _ in wave.followers)]
        for request in fresh:
            self._start(request)
        self._sample(fresh, states[torch.tensor(picks, device=self.device)])

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
        tokens = [r.tokens[-1] for r in self.active]
        states = self.backend.decode(tokens, [r.length for r in self.active])
        self._sample(self.active, states)

    def _sample(self, requests: Sequence[Request], states: Tensor) -> None:
        batch = self._batch
        if batch is None or batch.requests is not requests:
            batch = _Batch.of(requests, self.device)
            self._batch = batch if requests is self.active else None
        scores = self.backend.score(states, batch.inverse_temperature)
        tokens, logprobs = batch.sample(scores)
        now = time.perf_counter()
        finished: list[tuple[Request, Finish]] = []
        for request, token, logprob in zip(requests, tokens, logprobs, strict=True):
            if not request.tokens:
                request.first_token = now
            finish = request.add(token, logprob)
            if finish is not None:
                finished.append((request, finish))
        self._remove([request for request, _ in finished])
        for request, finish in finished:
            resolve(request.future, request.completion(finish))

    def _remove(self, requests: Iterable[Request]) -> None:
        """Park the rows in the prefix cache and close the gaps with rows from the end."""
        for request in requests:
            row = self.active.index(request)
            self._store(row, (*request.prompt, *request.tokens[:-1]))
            last = self.active.pop()
            if last is not request:
                self.backend.move(len(self.active), row, last.length)
                self.active[row] = last
            self._batch = None


@dataclass(slots=True)
class _Batch:
    """What sampling needs from the active requests; rebuilt only when they change."""

    requests: Sequence[Request]
    inverse_temperature: Tensor | None
    device: torch.device
    greedy: Tensor | None
    truncations: list[Truncation]

    @classmethod
    def of(cls, requests: Sequence[Request], device: torch.device) -> _Batch:
        params = [r.params for r in requests]
        inverse = [1.0 / (p.temperature or 1.0) for p in params]
        greedy = [p.temperature == 0 for p in params]
        cuts = [
            Truncation(row, p.top_k, p.top_p)
            for row, p in enumerate(params)
            if p.truncated and p.temperature > 0
        ]
        chosen = torch.tensor(greedy, device=device) if any(greedy) else None
        plain = all(i == 1.0 for i in inverse)
        scale = None if plain else torch.tensor(inverse, dtype=torch.float32, device=device)
        return cls(requests, scale, device, chosen, cuts)

    def sample(self, scores: Scores) -> tuple[list[int], list[float]]:
        numbers = [r.uniforms[len(r.tokens)] if r.uniforms else 0.0 for r in self.requests]
        uniform = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        tokens, logprobs = sample(scores, uniform, self.greedy, self.truncations)
        ids: list[int] = tokens.tolist()
        values: list[float] = logprobs.tolist()
        return ids, values


def resolve(future: Future[T], outcome: T | Exception) -> None:
    """Settle a future that its owner may cancel at any moment."""
    try:
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:  # cancelled a moment ago: nobody waits any more
        pass
