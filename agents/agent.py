"""An agent: an engine and how to sample from it. The weights behind it are the policy."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..envs.core import ChatEnv
from ..envs.types import Completion, FinishReason, Message
from .engines.base import ContextOverflow, Engine, SamplingParams
from .rendering import Renderer
from .seeding import derive_seed


@dataclass(frozen=True, slots=True)
class Agent:
    """Engine plus sampling parameters. `sampling.max_tokens` bounds one turn."""

    engine: Engine
    sampling: SamplingParams = field(default_factory=SamplingParams)

    def renderer(self, env: ChatEnv) -> Renderer:
        """The renderer for an environment's episodes."""
        return Renderer(
            self.engine.tokenizer, env.protocol, env.tool_schemas, env.tool_instructions
        )

    async def act(
        self,
        env: ChatEnv,
        renderer: Renderer,
        context: Sequence[int],
        *,
        max_tokens: int,
        seed: int,
    ) -> tuple[Completion, str]:
        """Sample one turn after `context`, and its text.

        A turn may take several requests: the fenced protocol's stop strings depend on what
        was written so far. Where the context is full after the first, the turn ends there.

        Raises:
            ContextOverflow: there is no room for a single token.
            EngineError: from the engine.
        """
        turn: Completion | None = None
        text = ""
        for piece in range(max_tokens):
            written = turn.token_ids if turn else ()
            params = self._params(env, renderer, text, max_tokens - len(written))
            params = replace(params, seed=derive_seed(seed, piece))
            try:
                part = await self.engine.generate([*context, *written], params)
            except ContextOverflow:
                if turn is None:
                    raise
                turn = replace(turn, finish_reason=FinishReason.LENGTH)
                break
            turn = turn + part if turn else part
            text = renderer.decode(turn.token_ids)
            if part.finish_reason is not FinishReason.STOP_STRING or not _is_open(env, text):
                break
            if len(turn.token_ids) >= max_tokens:  # stopped half way, with no budget to go on
                turn = replace(turn, finish_reason=FinishReason.LENGTH)
                break
        assert turn is not None
        return turn, text

    async def probabilities(
        self, env: ChatEnv, messages: Sequence[Message], replies: Sequence[str]
    ) -> list[float]:
        """How likely each of `replies` is as the answer to `messages`, its end included.

        What the policy says, not an estimate from samples: one forward for each reply. A text
        is scored in the tokens that the tokenizer makes of it; the same text may be sampled in
        others, too. Needs `Engine.logprobs`. The conversation may hold earlier turns of the
        agent, which ended where they end.

        Raises:
            ContextOverflow, EngineError: from the engine.
        """
        renderer = self.renderer(env)
        context = renderer.conversation(messages)
        # Greedy sampling is the limit of ever colder sampling, token by token.
        temperature = self.sampling.temperature or 1e-4

        async def score(reply: str) -> float:
            ids = renderer.turn(reply)
            logprobs = await self.engine.logprobs([*context, *ids], temperature)
            return math.exp(sum(logprobs[-len(ids) :]))

        return list(await asyncio.gather(*map(score, replies)))

    def _params(self, env: ChatEnv, renderer: Renderer, text: str, left: int) -> SamplingParams:
        stops = self.sampling.stop
        if env.protocol is not None:
            stops += env.protocol.stops(text, env.may_call)
        return replace(
            self.sampling,
            max_tokens=left,
            stop=stops,
            stop_token_ids=(*self.sampling.stop_token_ids, *renderer.stop_token_ids),
        )


def _is_open(env: ChatEnv, text: str) -> bool:
    return env.protocol is not None and env.protocol.turn_is_open(text)
