"""What every engine is: token ids in, token ids and log-probabilities out.

An engine schedules each request on its own and asynchronously, keeps the key/value cache
of what it has already seen, and never sees text except to look for stop strings. The
conformance suite in `tests/agents/test_engine_conformance.py` is the executable form of
this contract; every engine passes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from ...envs.types import Completion

if TYPE_CHECKING:
    import torch


class EngineError(RuntimeError):
    """The engine failed or was lost. A rollout that meets it ends `invalid`."""


class ContextOverflow(ValueError):
    """The prompt leaves no room for a single new token in the model's context."""


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that Palestra uses."""

    eos_token_id: int | None
    chat_template: Any

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample one completion.

    `temperature` 0 means greedy (log-probs are then those of the untempered distribution).
    `seed` fixes the whole completion: the uniform behind token t of a request depends on
    (seed, t) only, never on what else is running. Without a seed the engine draws one.
    `top_p` / `top_k` truncate the distribution; log-probs are then of the truncated,
    renormalised distribution, which a learner must refuse (it cannot score the ratio).
    `stop` strings end the completion at the token that completes the first match; all
    sampled tokens are kept. `stop_token_ids` end it likewise, as end-of-turn tokens do.
    """

    max_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative (0 means off), got {self.top_k}")

    @property
    def truncated(self) -> bool:
        """Whether top-p or top-k cut the distribution."""
        return self.top_p < 1 or self.top_k > 0


@runtime_checkable
class Engine(Protocol):
    """The protocol; a class that derives from it inherits the methods that have a body.

    `tokenizer` is the model's; `context_length` is in tokens.
    """

    name: str
    tokenizer: Tokenizer
    context_length: int

    @property
    def policy_version(self) -> int:
        """Version of the weights that the next token will be sampled from."""
        ...

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams) -> Completion:
        """Sample one completion of `prompt_ids`.

        At most `context_length - len(prompt_ids)` tokens are sampled (finish reason length).

        Raises:
            ContextOverflow: the prompt is as long as the context or longer.
            EngineError: the engine failed; the request may be tried on another engine.
        Cancelling the awaiting task frees the request's resources at once.
        """
        ...

    async def logprobs(self, token_ids: Sequence[int], temperature: float = 1.0) -> list[float]:
        """Log-probability of `token_ids[t]` given those before, for t >= 1: [T - 1] floats."""
        ...

    async def load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put new weights in place (Hugging Face parameter names) and drop stale caches.

        Tokens sampled after this returns come from `version`. Requests in flight are
        finished on the old weights first.
        """
        ...

    async def clear_cache(self) -> None:
        """Forget what is kept of past requests: the next ones run as they would on a new engine.

        Requests in flight are finished first. An engine that keeps nothing ignores it.
        """

    async def aclose(self) -> None:
        """Release everything. Idempotent."""
        ...

    def episode(self) -> AbstractContextManager[None]:
        """Open for as long as one more episode is live: rollouts hold one each.

        An engine whose sums depend on what else is in a batch may use it to decode only while
        every live episode waits for it, which makes runs reproducible. Others ignore it.
        """
        return nullcontext()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
