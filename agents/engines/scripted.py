"""An engine that follows a script: a small language model with known probabilities.

It serves tests, examples and measurements of overhead. There is no network and no torch,
yet every token has a true log-probability: the next token is the scripted one with
`probability`, and any other of the vocabulary with an equal share of the rest.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ...envs.types import Completion, FinishReason
from .base import Engine, EngineError, SamplingParams, Tokenizer
from .byte_tokenizer import ByteTokenizer
from .requests import RequestGate, StopStrings, token_budget

if TYPE_CHECKING:
    import torch

Floats = np.ndarray[Any, np.dtype[np.float64]]
WEIGHT = "script_logit"


class ScriptedEngine(Engine):
    """Answers with scripted replies, token by token.

    The prompt must end in a turn of the assistant, as a chat template with
    `add_generation_prompt=True` leaves it; `turn_start` names the ids that open such a turn
    when the tokenizer's template does not. Tokens after the last turn start count as the
    beginning of the reply, so a completion can be continued, forked or scored. The script
    goes on by position: it does not notice that another token was sampled.

    Args:
        replies: the replies to the first, second, ... assistant turn of a conversation (the
            last one repeats), or a pure function from the text of the conversation to the
            reply. The end-of-turn token is added to each.
        tokenizer: a `ByteTokenizer` unless given.
        probability: of the scripted token, in (0, 1]. At 1 every reply is the script.
        token_s: seconds to wait for each token, to stand for a slower engine.

    Example: `ScriptedEngine(["Let me see.", "It is 4."], probability=0.9)`.
    """

    name = "scripted"

    def __init__(
        self,
        replies: Sequence[str] | Callable[[str], str],
        tokenizer: Tokenizer | None = None,
        *,
        probability: float = 1.0,
        context_length: int = 32768,
        turn_start: Sequence[int] | None = None,
        token_s: float = 0.0,
    ) -> None:
        if not 0 < probability <= 1:
            raise ValueError(f"probability must be in (0, 1], got {probability}")
        if isinstance(replies, str) or not (callable(replies) or replies):
            raise ValueError(f"replies must be a non-empty list or a function, got {replies!r}")
        self.tokenizer: Tokenizer = tokenizer or ByteTokenizer()
        self.context_length = context_length
        self.token_s = token_s
        self.vocab_size = len(self.tokenizer)  # type: ignore[arg-type]
        self._eos = self.tokenizer.eos_token_id
        self._turn_start = _as_text(turn_start or _turn_start(self.tokenizer))
        self._replies = replies
        self._reply_to = lru_cache(maxsize=256)(self._encode_reply)
        self._version = 0
        self._set_logit(_logit(probability, self.vocab_size))
        self._gate = RequestGate()
        self._seeds = random.Random()
        self._closed = False

    @property
    def policy_version(self) -> int:
        return self._version

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams) -> Completion:
        """Sample one completion. See `Engine.generate`.

        Raises:
            ValueError: the prompt has no turn of the assistant to continue.
        """
        if self._closed:
            raise EngineError("the scripted engine was closed: make a new one")
        budget = token_budget(len(prompt_ids), params, self.context_length)
        queued = time.perf_counter()
        async with self._gate.request():
            started = time.perf_counter()
            await asyncio.sleep(0)
            script = self._script(prompt_ids)
            ids, logprobs, reason, stop = await self._decode(script, params, budget)
            return Completion(
                tuple(ids),
                tuple(logprobs),
                reason,
                stop,
                policy_version=self._version,
                prompt_tokens=len(prompt_ids),
                queue_s=started - queued,
                decode_s=time.perf_counter() - started,
            )

    async def _decode(
        self, script: Iterator[int], params: SamplingParams, budget: int
    ) -> tuple[list[int], list[float], FinishReason, str | None]:
        ids: list[int] = []
        logprobs: list[float] = []
        ends = {*params.stop_token_ids, self._eos}
        stops = StopStrings(self.tokenizer, params.stop)
        for token, logprob in self._sample(script, params):
            ids.append(token)
            logprobs.append(logprob)
            if self.token_s:
                await asyncio.sleep(self.token_s)
            if token in ends:
                return ids, logprobs, FinishReason.STOP, None
            if params.stop and (found := stops.match(ids)):
                return ids, logprobs, FinishReason.STOP_STRING, found
            if len(ids) == budget:
                break
        return ids, logprobs, FinishReason.LENGTH, None

    def _sample(self, script: Iterator[int], params: SamplingParams) -> Iterator[tuple[int, float]]:
        """Endless tokens with their log-probs; the script has slot 0 of the distribution."""
        logprobs, cumulative = self._distribution(params.temperature, params.top_p, params.top_k)
        if params.temperature == 0:
            slot = int(logprobs.argmax())
            yield from ((_token(slot, s), float(logprobs[slot])) for s in script)
        seed = self._seeds.getrandbits(32) if params.seed is None else params.seed
        uniform = random.Random(seed).random
        first, first_logprob = float(cumulative[0]), float(logprobs[0])
        for scripted in script:
            u = uniform()
            if u < first:
                yield scripted, first_logprob
            else:
                slot = int(np.searchsorted(cumulative, u, side="right"))
                yield _token(slot, scripted), float(logprobs[slot])

    def _script(self, prefix: Sequence[int]) -> Iterator[int]:
        """The scripted ids that follow `prefix`, without end."""
        text = _as_text(prefix)
        at = text.rfind(self._turn_start)
        if at < 0:
            raise ValueError(
                "the prompt opens no turn of the assistant: render it with "
                "add_generation_prompt=True, or give the engine the ids that do as turn_start"
            )
        start = at + len(self._turn_start)
        return self._follow(text[:start], len(text) - start)

    def _follow(self, conversation: str, position: int) -> Iterator[int]:
        yield from self._reply_to(conversation)[position:]
        while True:
            yield 0 if self._eos is None else self._eos

    def _encode_reply(self, conversation: str) -> tuple[int, ...]:
        if callable(self._replies):
            reply = self._replies(self.tokenizer.decode([ord(c) for c in conversation]))
        else:
            turn = conversation.count(self._turn_start) - 1
            reply = self._replies[min(turn, len(self._replies) - 1)]
        return tuple(self.tokenizer.encode(reply, add_special_tokens=False))

    async def logprobs(self, token_ids: Sequence[int], temperature: float = 1.0) -> list[float]:
        """See `Engine.logprobs`. Before the first turn start all tokens are equally likely."""
        text = _as_text(token_ids)
        starts = []
        at = text.find(self._turn_start)
        while at >= 0:
            starts.append(at + len(self._turn_start))
            at = text.find(self._turn_start, starts[-1])
        table, _ = self._distribution(temperature, 1.0, 0)
        first = starts[0] if starts else len(text)
        scores = [-math.log(self.vocab_size)] * (min(first, len(text)) - 1)
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
            script = self._follow(text[:start], 0)
            pairs = zip(text[start:end], script, strict=False)
            scores += [float(table[_slot(ord(c), s)]) for c, s in pairs]
        return scores

    async def load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take `version`. The one weight is `script_logit`, how far the logit of the scripted
        token stands above all others (below 0 it is the least likely); a scripted policy has
        no use for other names and passes over them."""
        async with self._gate.exclusive():
            if WEIGHT in tensors:
                self._set_logit(float(tensors[WEIGHT]))
            self._version = version

    def _set_logit(self, logit: float) -> None:
        def distribution(temperature: float, top_p: float, top_k: int) -> tuple[Floats, Floats]:
            return _distribution(logit, self.vocab_size, temperature, top_p, top_k)

        self._distribution = lru_cache(maxsize=16)(distribution)

    async def aclose(self) -> None:
        self._closed = True


def _as_text(ids: Sequence[int]) -> str:
    """Ids as code points, for the fast substring search of `str`."""
    return "".join(map(chr, ids))


def _turn_start(tokenizer: Tokenizer) -> list[int]:
    """What the chat template adds for `add_generation_prompt`.

    Raises:
        ValueError: there is no template, or it adds nothing.
    """
    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template: give `turn_start`")
    probe = [{"role": "user", "content": "x"}]
    without = tokenizer.apply_chat_template(probe, tokenize=False)
    opened = tokenizer.apply_chat_template(probe, tokenize=False, add_generation_prompt=True)
    start = opened.removeprefix(without)
    if not start or start == opened:
        raise ValueError("the chat template adds no generation prompt: give `turn_start`")
    return tokenizer.encode(start, add_special_tokens=False)


def _logit(probability: float, vocab_size: int) -> float:
    if probability == 1:
        return math.inf
    return math.log(probability / (1 - probability) * (vocab_size - 1))


def _slot(token: int, scripted: int) -> int:
    """Where `token` stands: the scripted one at 0, then all others in ascending order."""
    return 0 if token == scripted else token + (token < scripted)


def _token(slot: int, scripted: int) -> int:
    return scripted if slot == 0 else slot - (slot <= scripted)


def _distribution(
    logit: float, vocab_size: int, temperature: float, top_p: float, top_k: int
) -> tuple[Floats, Floats]:
    """Log-probs [V] by slot and their cumulative sum in probability space [V].

    Temperature, then top-k, then top-p, then renormalised; temperature 0 is read as 1
    (greedy choice takes the argmax and reports the untempered distribution).
    """
    logits = np.zeros(vocab_size)
    logits[0] = 0.0 if logit == math.inf else logit / (temperature or 1.0)
    probs = np.exp(logits - logits.max())
    if logit == math.inf:
        probs[1:] = 0.0
    order = np.argsort(-probs, kind="stable")
    if 0 < top_k < vocab_size:
        probs[order[top_k:]] = 0.0
    probs /= probs.sum()
    if top_p < 1:
        before = np.cumsum(probs[order]) - probs[order]
        probs[order[before >= top_p]] = 0.0
        probs /= probs.sum()
    cumulative = np.cumsum(probs)
    cumulative[probs.nonzero()[0][-1] :] = 1.0  # whatever the rounding, u < 1 finds a token
    with np.errstate(divide="ignore"):
        return np.log(probs), cumulative
