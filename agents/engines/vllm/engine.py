"""vLLM as an engine: one `AsyncLLM` (V1) that belongs to this process.

Token ids go in; sampled ids and *processed* log-probs (after temperature, top-k and top-p)
come out. Prefix caching is on. Stop strings are found here rather than by vLLM, which
trims text, so every sampled token is kept.

vLLM runs in worker processes that are spawned: a script that makes this engine needs the
`if __name__ == "__main__":` guard. Set VLLM_LOGGING_LEVEL to hear more than errors. On a CPU
vLLM takes a fixed amount of memory for its cache, 2 GiB unless `cache_gb` or
VLLM_CPU_KVCACHE_SPACE says otherwise; with SmolLM2-135M in float32 its processes then hold
4.3 GB, to which a learner adds its own. It leaves one core to this process, so on two cores
VLLM_CPU_NUM_OF_RESERVED_CPU=0 makes sense where sampling and learning take turns.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ....envs.types import Completion, FinishReason
from ..base import ContextOverflow, Engine, EngineError, SamplingParams, Tokenizer
from ..loading import load_tokenizer
from ..requests import RequestGate, StopStrings, token_budget
from . import startup
from .convert import extend, finish_reason, parameter_names, save, shared_memory, to_vllm

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class VllmEngine(Engine):
    """Serves a Hugging Face model with vLLM (0.11 or later; on a CPU 0.32 or later).

    Starting takes 20 to 60 seconds and blocks. It may be used from any event loop.

    Args:
        model: a folder, a hub id, or "smollm2".
        tokenizer: the model's own unless given.
        dtype: "auto", "float32", "bfloat16", "float16".
        context_length: in tokens; the model's own limit unless given.
        cache_gb: GiB for the key/value cache; None leaves it to `gpu_memory_utilization`
            on a GPU and to VLLM_CPU_KVCACHE_SPACE, or 2, on a CPU.
        options: any other argument of vLLM's `AsyncEngineArgs`, such as
            `gpu_memory_utilization`, `tensor_parallel_size`, `enforce_eager`, `seed`.

    Raises:
        ImportError: vLLM is not installed, or does not import.
        EngineError: vLLM did not start.
    """

    name = "vllm"

    def __init__(
        self,
        model: str | Path,
        *,
        tokenizer: Tokenizer | None = None,
        dtype: str = "auto",
        context_length: int | None = None,
        cache_gb: int | None = None,
        **options: Any,
    ) -> None:
        self._closed = True  # until it has started
        startup.import_vllm()
        folder = startup.resolve(str(model))
        self.tokenizer: Tokenizer = tokenizer or load_tokenizer(folder)
        arguments = {
            "model": folder,
            "dtype": str(dtype).removeprefix("torch."),
            "max_model_len": context_length,
            **startup.memory_arguments(cache_gb),
            **options,
        }
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        try:
            self._llm: Any = asyncio.run_coroutine_threadsafe(
                startup.start(arguments), self._loop
            ).result()
        except BaseException:
            self._stop_loop()
            raise
        self._closed = False
        config = self._llm.vllm_config.model_config
        self.context_length: int = config.max_model_len
        self._dtype: torch.dtype = config.dtype
        self._vocab_size: int = config.get_vocab_size()
        self._parameters = parameter_names(folder)
        self._ends = startup.end_ids(self.tokenizer, config)
        self._version = 0
        self._names = map(str, itertools.count())
        self._gate = RequestGate()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def policy_version(self) -> int:
        return self._version

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams) -> Completion:
        """Sample one completion. See `Engine.generate`.

        Without stop strings vLLM answers once, at the end: `prefill_s` is then part of
        `decode_s`.
        """
        budget = token_budget(len(prompt_ids), params, self.context_length)
        self._check_ids(prompt_ids)
        return await self._on_loop(self._generate(list(prompt_ids), params, budget))

    async def _generate(self, prompt: list[int], params: SamplingParams, budget: int) -> Completion:
        queued = time.perf_counter()
        ends = {*self._ends, *params.stop_token_ids}
        request = to_vllm(params, budget, ends)
        stops = StopStrings(self.tokenizer, params.stop)
        ids: list[int] = []
        logprobs: list[float] = []
        found: str | None = None
        async with self._gate.request():
            started = first = time.perf_counter()
            cached = 0
            async with aclosing(self._stream(prompt, request)) as outputs:
                async for output in outputs:
                    first = first if ids or not params.stop else time.perf_counter()
                    cached = output.num_cached_tokens or 0
                    found = extend(ids, logprobs, output.outputs[0], stops)
                    if found:
                        break
            reason = finish_reason(ids, budget, ends, found)
            return Completion(
                tuple(ids),
                tuple(logprobs),
                reason,
                found if reason is FinishReason.STOP_STRING else None,
                policy_version=self._version,
                prompt_tokens=len(prompt),
                cached_tokens=cached,
                queue_s=started - queued,
                prefill_s=first - started,
                decode_s=time.perf_counter() - first,
            )

    def _check_ids(self, ids: Sequence[int]) -> None:
        # One id too large and vLLM's worker dies, and with it every request.
        if not 0 <= min(ids) <= max(ids) < self._vocab_size:
            raise ValueError(
                f"token ids must be within the vocabulary, 0 to {self._vocab_size - 1}, "
                f"got {min(ids)} to {max(ids)}: does the tokenizer belong to the model?"
            )

    async def _stream(self, prompt: list[int], request: Any) -> AsyncGenerator[Any, None]:
        """vLLM's outputs; leaving early, also by cancellation, aborts the request."""
        stream = self._llm.generate({"prompt_token_ids": prompt}, request, next(self._names))
        async with aclosing(stream) as outputs:
            async for output in outputs:
                if output.outputs[0].finish_reason in ("abort", "error"):
                    raise EngineError("vLLM aborted the request: see its log")
                yield output

    async def logprobs(self, token_ids: Sequence[int], temperature: float = 1.0) -> list[float]:
        """See `Engine.logprobs`. vLLM scores prompts at temperature 1 only, so for any other
        the engine scales the logits while this request, and no other, runs."""
        if len(token_ids) > self.context_length:
            raise ContextOverflow(
                f"{len(token_ids)} tokens cannot be scored in a context of {self.context_length}"
            )
        if len(token_ids) < 2:
            return []
        self._check_ids(token_ids)
        return await self._on_loop(self._logprobs(list(token_ids), temperature or 1.0))

    async def _logprobs(self, ids: list[int], temperature: float) -> list[float]:
        async with self._gate.request() if temperature == 1 else self._tempered(temperature):
            if len(ids) < self.context_length:
                output = await self._score(ids, prompt_logprobs=0)
                entries = output.prompt_logprobs[1:]
            else:  # vLLM wants room for one more: score the last token as a choice
                output = await self._score(ids[:-1], prompt_logprobs=0, logprobs=-1)
                entries = [*output.prompt_logprobs[1:], output.outputs[0].logprobs[0]]
        return [float(e[i].logprob) for e, i in zip(entries, ids[1:], strict=True)]

    async def _score(self, ids: list[int], **options: Any) -> Any:
        from vllm import SamplingParams as VllmParams

        request = VllmParams(max_tokens=1, detokenize=False, **options)
        outputs = [output async for output in self._stream(ids, request)]
        return outputs[-1]

    @asynccontextmanager
    async def _tempered(self, temperature: float) -> AsyncIterator[None]:
        async with self._gate.exclusive():
            try:
                await self._llm.collective_rpc("set_temperature", args=(temperature,))
                yield
            finally:
                await asyncio.shield(self._llm.collective_rpc("set_temperature", args=(1.0,)))

    async def load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `Engine.load_weights`. A tied head may be left out.

        Raises:
            ValueError: parameters of the model are missing from `tensors`.
            EngineError: vLLM did not take them; close the engine, its weights are undefined.
        """
        if missing := sorted(self._parameters - set(tensors)):
            raise ValueError(
                f"{len(missing)} of the model's {len(self._parameters)} parameters are missing, "
                f"such as {missing[0]!r}: give all of them under their Hugging Face names"
            )
        await self._on_loop(self._load_weights(version, tensors))

    async def _load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        async with self._gate.exclusive():
            with tempfile.TemporaryDirectory(dir=shared_memory(tensors)) as folder:
                path = Path(folder, "weights.safetensors")
                await asyncio.to_thread(save, tensors, path, self._dtype)
                await self._llm.collective_rpc("load_policy", args=(str(path),))
            await self._llm.reset_prefix_cache()
            self._version = version

    async def clear_cache(self) -> None:
        """See `Engine.clear_cache`."""
        await self._on_loop(self._clear_cache())

    async def _clear_cache(self) -> None:
        async with self._gate.exclusive():
            await self._llm.reset_prefix_cache()

    async def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the engine's own loop; what goes wrong in vLLM is an EngineError."""
        if self._closed:
            work.close()
            raise EngineError("the vLLM engine was closed: make a new one")
        future = asyncio.run_coroutine_threadsafe(self._tracked(work), self._loop)
        try:
            return await asyncio.wrap_future(future)
        except (ValueError, EngineError):
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the caller was cancelled; otherwise `aclose` was called meanwhile
            raise EngineError("the vLLM engine was closed during the request") from None
        except Exception as error:
            raise EngineError(f"vLLM failed: {type(error).__name__}: {error}") from error

    async def _tracked(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await work
        finally:
            self._tasks.discard(task)

    async def aclose(self) -> None:
        """End vLLM's processes. Requests in flight fail with EngineError. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for tasks in (self._tasks, None):  # requests first: they still have to be aborted
            cancel = asyncio.run_coroutine_threadsafe(_cancel_all(tasks), self._loop)
            await asyncio.wrap_future(cancel)
        llm, self._llm = self._llm, None
        await asyncio.to_thread(startup.shut_down, llm)
        self._stop_loop()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_all(tasks: Iterable[asyncio.Task[Any]] | None) -> None:
    """Cancel these tasks, or all others of the running loop, and wait for their end."""
    doomed = set(asyncio.all_tasks() if tasks is None else tasks) - {asyncio.current_task()}
    for task in doomed:
        task.cancel()
    await asyncio.gather(*doomed, return_exceptions=True)
