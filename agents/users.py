"""Models in other parts than the agent's: a simulated user, a judge, a writer of data.

    chat = EngineChat(engine, SamplingParams(max_tokens=256))
    palestra.make("palestra/Chat-v0", user=chat)       # a user simulator
    palestra.make("palestra/Rubric-v0", critic=chat)   # the policy as critic
    await write_warm_start("warm.jsonl", tasks, chat.reply)

The engine may be the policy's own: its version is then part of what verdicts are kept by, and
no other run finds them, since version 3 of this run is not version 3 of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any
from uuid import uuid4

from ..envs.rewards.endpoint import ModelReply
from ..envs.rewards.protocol import JudgeError
from ..envs.rewards.verdict import VerdictLogprobs, by_scoring
from ..envs.types import FinishReason, Message
from .engines.base import ContextOverflow, Engine, EngineError, SamplingParams
from .rendering import Renderer
from .seeding import derive_seed


class EngineChat:
    """A `ChatModel` (see `envs/rewards/endpoint.py`) behind which an engine stands.

    Args:
        sampling: the seed of each answer comes from `sampling.seed`, the conversation and the
            number of the sample, so that the same question has the same answer.
    """

    def __init__(self, engine: Engine, sampling: SamplingParams | None = None) -> None:
        self.engine = engine
        self.sampling = sampling or SamplingParams()
        self._renderer = Renderer(engine.tokenizer)
        self._token = uuid4().hex  # engines do not say which weights they hold

    @property
    def identity(self) -> Mapping[str, Any]:
        """The engine, the version of its weights, and the sampling; different for each object.

        A cache on disk therefore never gives one run's verdicts to another.
        """
        return {
            "engine": self.engine.name,
            "token": self._token,
            "policy_version": self.engine.policy_version,
            "sampling": asdict(self.sampling),
        }

    async def complete(
        self, messages: Sequence[Message], *, sample: int = 0, top_logprobs: int = 0
    ) -> ModelReply:
        """Answer once. `first_token` stays empty: `verdicts` scores verdicts exactly instead.

        Raises:
            JudgeError: the engine failed, or the conversation does not fit its context.
        """
        ids = self._renderer.opening(messages)
        stops = (*self.sampling.stop_token_ids, *self._renderer.stop_token_ids)
        seed = derive_seed(self.sampling.seed or 0, sample, *ids)
        params = replace(self.sampling, stop_token_ids=stops, seed=seed)
        try:
            completion = await self.engine.generate(ids, params)
        except (EngineError, ContextOverflow) as error:
            raise JudgeError(f"{self.engine.name}: {type(error).__name__}: {error}") from error
        finished = completion.finish_reason in (FinishReason.STOP, FinishReason.STOP_STRING)
        return ModelReply(self._renderer.decode(completion.token_ids), finished)

    async def reply(self, messages: Sequence[Message]) -> str:
        """The text of an answer, cut off or not."""
        return (await self.complete(messages)).text

    def verdicts(self) -> VerdictLogprobs:
        """Verdicts by their log-probabilities, for `by_probability` and its like."""
        encode = self.engine.tokenizer.encode
        return by_scoring(
            self.engine.logprobs,
            self._renderer.opening,
            lambda text: encode(text, add_special_tokens=False),
            end=self._renderer.stop_token_ids[:1],
        )
