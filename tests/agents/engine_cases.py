"""The engines that `test_engine_conformance` runs on, each with a model to go with it."""

from __future__ import annotations

import asyncio
import importlib.util
import math
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from fakes import CONTEXT, save_tiny_model, tiny_model, tiny_tokenizer

from palestra.agents.engines import make_engine
from palestra.agents.engines.base import Engine, SamplingParams
from palestra.envs.types import Completion

T = TypeVar("T")

HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_VLLM = importlib.util.find_spec("vllm") is not None


@dataclass
class Case:
    """An engine under test. `other_weights` changes what the model says."""

    kind: str
    engine: Engine
    other_weights: dict[str, Any]
    weights: dict[str, Any]
    caches: bool = True
    tolerance: float = 2e-4
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def run(self, work: Awaitable[T]) -> T:
        async def within_bounds() -> T:
            return await asyncio.wait_for(work, 300)

        return self.runner.run(within_bounds())

    def generate(self, prompt: list[int], **params: Any) -> Completion:
        return self.run(self.engine.generate(prompt, SamplingParams(**params)))

    def prompt(self, text: str = "What is 2 + 2?") -> list[int]:
        chat = [{"role": "user", "content": text}]
        ids: list[int] = self.engine.tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=False
        )
        return ids

    def assert_close(self, ours: Any, theirs: Any) -> None:
        assert list(ours) == pytest.approx(list(theirs), abs=self.tolerance)


def scripted_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    # Replies differ between prompts and run long, as those of a model would.
    def reply(conversation: str) -> str:
        return f"About {conversation[16:40]!r}: " + " ".join(str(i) for i in range(40))

    engine = make_engine("scripted", reply, probability=0.7, context_length=CONTEXT)
    logit = math.log(0.7 / 0.3 * 258)
    return Case("scripted", engine, {"script_logit": -5.0}, {"script_logit": logit}, caches=False)


def hf_weights(seed: int) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in tiny_model(seed=seed).named_parameters()}


def local_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    pytest.importorskip("torch")
    engine = make_engine("local", tiny_model(), tokenizer=tiny_tokenizer())
    return Case("local", engine, hf_weights(seed=1), hf_weights(seed=0))


def vllm_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = save_tiny_model(tmp_path_factory.mktemp("tiny"))
    engine = make_engine("vllm", str(folder), dtype="float32", enforce_eager=True, cache_gb=1)
    return Case("vllm", engine, hf_weights(seed=1), hf_weights(seed=0))


CASES = {"scripted": scripted_case, "local": local_case, "vllm": vllm_case}
MARKS = {
    "scripted": [],
    "local": [pytest.mark.skipif(not HAS_TORCH, reason="needs torch")],
    "vllm": [
        pytest.mark.vllm,
        pytest.mark.timeout(400),
        pytest.mark.skipif(not HAS_VLLM, reason="needs vLLM"),
    ],
}
