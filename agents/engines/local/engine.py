"""`LocalEngine`: the engine protocol over a scheduler that runs in its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

from ....envs.types import Completion
from ..base import ContextOverflow, Engine, EngineError, SamplingParams, Tokenizer
from ..loading import load_model
from ..requests import StopStrings, token_budget
from .backend import Backend, Segment
from .batch import Request
from .decoder import Decoder
from .generic import GenericBackend
from .prefix import PrefixCache
from .scheduler import Scheduler, resolve
from .threads import release_threads
from .weights import is_supported

_CLOSED = "the engine is closed: make a new one"
_INTERRUPTED = "the engine was closed while the request was in flight"
_EPISODE: ContextVar[object] = ContextVar("episode", default=None)  # in which a request is made
_LINGER_S = 0.05  # a pause shorter than this is a tool at work, not the end of a phase
_CACHE_BYTES = 1 << 29  # of a full cache, above which batches are kept to 64
_SCORE_ROWS = 64  # positions whose logits are held at a time by `logprobs`


@dataclass(eq=False, slots=True)
class _Call:
    """Work for the worker thread besides sampling. `alone` waits until nothing is in flight."""

    work: Callable[[], Any]
    alone: bool
    episode: object = None
    future: Future[Any] = field(default_factory=Future)


class LocalEngine(Engine):
    """Runs a transformers causal language model in this process, on CPU or one GPU.

    Requests are batched continuously, keys and values of past requests are reused, and
    Llama, Mistral, Qwen2 and Qwen3 models run on a decoder of their own; any other
    architecture runs through its Hugging Face forward, more slowly.

    Args:
        model: a `transformers.PreTrainedModel`, or what `loading.load_model` accepts
            ("smollm2", a folder, a hub id). A model object is read, never changed.
        tokenizer: the model's; may be None when `model` is a string.
        dtype: type of the weights while sampling; None keeps the model's.
        max_batch: requests that decode together; more wait. None: 64, and up to 256 where the
            model and its context are so small that all of their cache takes half a gigabyte.
        context_length: tokens; None takes the model's own limit.
        prefix_cache_bytes: memory for keys and values of past requests; 0 turns it off.
        seed: where the seeds of unseeded requests come from.
        deterministic: step only while every live `episode()` waits on this engine, so that
            the composition of batches, and with it every last bit of the result, does not
            depend on how long tools take. An episode must then not wait for another one, and
            one that asks several things at once must ask nothing more until all are answered.
        device: None keeps the model's.
    """

    name = "local"

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer | None = None,
        *,
        dtype: torch.dtype | None = None,
        max_batch: int | None = None,
        context_length: int | None = None,
        prefix_cache_bytes: int = 1 << 30,
        seed: int = 0,
        deterministic: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        if max_batch is not None and max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {max_batch}")
        if isinstance(model, str):
            model, loaded = load_model(model, dtype)
            tokenizer = tokenizer or loaded
        if tokenizer is None:
            raise ValueError("tokenizer is None: give the model's tokenizer")
        self.tokenizer = tokenizer
        self.context_length = _context(model.config, context_length)
        self.deterministic = deterministic
        where = torch.device(device) if device is not None else model.device
        backend = _backend(model, dtype or model.dtype, where, self.context_length)
        self._scheduler = Scheduler(
            backend,
            PrefixCache(prefix_cache_bytes),
            max_batch=max_batch or _max_batch(backend),
            seed=seed,
            ordered=deterministic,
            device=where,
        )
        self._backend, self._device = backend, where
        self._ends = _end_tokens(model, tokenizer)
        self._pieces: dict[int, str] = {}
        self._wake = threading.Condition()
        # Everything below is shared with the worker and guarded by `_wake`.
        self._inbox: deque[Request | _Call] = deque()
        self._burst: list[Request | _Call] = []
        self._live: set[object] = set()  # episodes
        self._cancelled = False  # whether some request was since the worker last looked
        self._closed = ""  # why nothing is taken any more
        self._thread: threading.Thread | None = None

    @property
    def policy_version(self) -> int:
        return self._scheduler.version

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams) -> Completion:
        """See `base.Engine.generate`."""
        limit = token_budget(len(prompt_ids), params, self.context_length)
        ends = self._ends.union(params.stop_token_ids)
        stops = StopStrings(self.tokenizer, params.stop, self._pieces)
        request = Request(tuple(prompt_ids), params, limit, ends, stops, _EPISODE.get())
        completion: Completion = await self._submit(request)
        return completion

    async def logprobs(self, token_ids: Sequence[int], temperature: float = 1.0) -> list[float]:
        """See `base.Engine.logprobs`. One full forward; greedy (0) counts as temperature 1."""
        ids = list(token_ids)
        if len(ids) > self.context_length:
            raise ContextOverflow(
                f"{len(ids)} tokens do not fit into the context of {self.context_length}"
            )
        if len(ids) < 2:
            return []
        call = _Call(lambda: self._score(ids, temperature), alone=False)
        values: list[float] = await self._submit(call)
        return values

    async def load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `base.Engine.load_weights`. All weights must be given (a tied head may be left out).

        Raises:
            ValueError: a name is missing or unknown, or a shape differs; nothing is changed.
        """

        def work() -> None:
            self._backend.load(tensors)
            self._scheduler.clear()
            self._scheduler.version = version

        await self._submit(_Call(work, True))

    async def clear_cache(self) -> None:
        """See `base.Engine.clear_cache`."""
        await self._submit(_Call(self._scheduler.clear, True))

    @contextmanager
    def episode(self) -> Iterator[None]:
        """Count one live episode for as long as the block runs (see `deterministic`).

        Whatever is asked in the block, and in tasks begun there, is asked by this episode.
        """
        mark, outer = object(), _EPISODE.get()
        with self._wake:
            self._live.add(mark)
        _EPISODE.set(mark)
        try:
            yield
        finally:
            _EPISODE.set(outer)  # not by a token: the block may be left in another context
            with self._wake:
                self._live.discard(mark)
                self._wake.notify()

    async def aclose(self) -> None:
        """Stop the worker. What is still in flight ends with `EngineError`. Idempotent."""
        with self._wake:
            self._closed = self._closed or _CLOSED
            jobs, self._burst = self._burst, []
            self._wake.notify()
        for job in jobs:
            resolve(job.future, EngineError(_INTERRUPTED))
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    async def _submit(self, job: Request | _Call) -> Any:
        with self._wake:
            if self._closed:
                raise EngineError(self._closed)
            if not self._burst:
                # Requests made in one turn of the event loop are handed over together, so
                # that the members of a group share one prefill.
                asyncio.get_running_loop().call_soon(self._hand_over)
            self._burst.append(job)
        # Cancelling the waiter cancels the future; the worker then drops the row.
        job.future.add_done_callback(self._notify_cancelled)
        return await asyncio.wrap_future(job.future)

    def _hand_over(self) -> None:
        release_threads()
        with self._wake:
            self._inbox += self._burst
            self._burst.clear()
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(
                    target=self._run, name="palestra-local-engine", daemon=True
                )
                self._thread.start()
            self._wake.notify()

    def _notify_cancelled(self, future: Future[Any]) -> None:
        if future.cancelled():
            with self._wake:
                self._cancelled = True
                self._wake.notify()

    # The worker thread.

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                self._serve()
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            reason = f"the engine's worker died of {error!r}: make a new one"
            self._shut_down(_wrapped(error), reason)
        else:
            self._shut_down(EngineError(_INTERRUPTED), _CLOSED)

    def _serve(self) -> None:
        """Work until closed."""
        while True:
            with self._wake:
                call = self._next_call()
                linger: float | None = _LINGER_S
                while not (call or self._closed or self._can_step()):
                    if not self._wake.wait(linger):
                        release_threads()
                        linger = None
                    call = self._next_call()
                if self._closed:
                    if call is not None:
                        self._inbox.appendleft(call)
                    return
            if call is not None:
                self._execute(call)
            else:
                self._guarded(self._scheduler.step)

    def _next_call(self) -> _Call | None:
        """Hand requests to the scheduler up to the first call; return it if it may run now."""
        if self._cancelled:
            self._cancelled = False
            self._guarded(self._scheduler.drop_cancelled)
            self._inbox = deque(job for job in self._inbox if not job.future.cancelled())
        while self._inbox:
            job = self._inbox[0]
            if isinstance(job, Request):
                self._scheduler.waiting.append(job)
            elif job.alone and not self._scheduler.idle:
                return None
            self._inbox.popleft()
            if isinstance(job, _Call):
                return job
        return None

    def _can_step(self) -> bool:
        """Whether there is work, and in deterministic mode, whether every episode is inside."""
        scheduler = self._scheduler
        if scheduler.idle:
            return False
        if not self.deterministic:
            return True
        # However much an episode asks at once, it is one; a request of none stands for itself.
        jobs = (*scheduler.active, *scheduler.waiting, *self._inbox)
        inside = {job.episode if job.episode in self._live else job for job in jobs}
        return len(inside) >= len(self._live)

    def _execute(self, call: _Call) -> None:
        if not call.future.set_running_or_notify_cancel():
            return
        try:
            resolve(call.future, call.work())
        except ValueError as error:
            resolve(call.future, error)
        except BaseException as error:  # the engine boundary
            resolve(call.future, _wrapped(error))
            if not isinstance(error, Exception):
                raise

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run the scheduler; all that it works on fails with it, and it starts anew."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the engine boundary
            self._scheduler.fail(_wrapped(error))

    def _shut_down(self, error: EngineError, refusal: str) -> None:
        """Fail what waits with `error`, and from now on refuse what comes."""
        with self._wake:
            self._closed = self._closed or refusal
            jobs = [*self._inbox, *self._burst]
            self._inbox.clear()
            self._burst.clear()
        self._scheduler.fail(error)
        for job in jobs:
            resolve(job.future, error)

    def _score(self, ids: list[int], temperature: float) -> list[float]:
        row = len(self._scheduler.active)  # the first row that no request owns
        states = self._backend.prefill([Segment(row, 0, ids[:-1])], every=True)
        targets = torch.tensor(ids[1:], device=self._device)
        scale, size = 1.0 / (temperature or 1.0), targets.shape
        inverse = torch.full(size, scale, dtype=torch.float32, device=self._device)
        values: list[float] = []
        for start in range(0, len(targets), _SCORE_ROWS):
            part = slice(start, start + _SCORE_ROWS)
            scores = self._backend.score(states[part], inverse[part])
            logprobs = scores.at(targets[part]) - torch.logsumexp(scores.mass, -1)
            values += logprobs.tolist()
        return values


def _wrapped(error: BaseException) -> EngineError:
    wrapped = EngineError(f"the local engine failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _backend(model: Any, dtype: torch.dtype, device: torch.device, context: int) -> Backend:
    kind = Decoder if is_supported(model.config) else GenericBackend
    with torch.inference_mode():
        return kind(model, dtype, device, context)


def _max_batch(backend: Backend) -> int:
    rows = _CACHE_BYTES // backend.row_bytes if isinstance(backend, Decoder) else 0
    return min(max(rows, 64), 256)


def _context(config: Any, wanted: int | None) -> int:
    limit = getattr(config, "max_position_embeddings", None)
    if wanted is None:
        return int(limit or 8192)
    if limit is not None and not 1 <= wanted <= limit:
        raise ValueError(
            f"context_length {wanted} is outside the model's 1 .. {limit} "
            f"(max_position_embeddings); give a smaller one or another model"
        )
    return wanted


def _end_tokens(model: Any, tokenizer: Tokenizer) -> frozenset[int]:
    """End-of-turn ids: the tokenizer's, and those of the model's generation configuration."""
    generation = getattr(model, "generation_config", None)
    listed = getattr(generation, "eos_token_id", None)
    ids = listed if isinstance(listed, list) else [listed]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)
