"""Small models of several architectures, and engines on them, for the local engine's tests.

Import it after `pytest.importorskip("torch")`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import cache
from typing import Any, TypeVar

import pytest
import torch
import transformers
from fakes import tiny_tokenizer

from palestra.agents.engines.base import SamplingParams
from palestra.agents.engines.local import LocalEngine
from palestra.envs.types import Completion

T = TypeVar("T")

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
# name -> (configuration class, model class, options)
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    "llama3-rope": ("LlamaConfig", "LlamaForCausalLM", {"rope_parameters": LLAMA3_ROPE}),
    "yarn": ("Qwen2Config", "Qwen2ForCausalLM", {"rope_parameters": YARN_ROPE}),
    "qwen2-tied": ("Qwen2Config", "Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 16}),
    "mistral-window": ("MistralConfig", "MistralForCausalLM", {"sliding_window": 12}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {}),
    "dynamic-rope": (
        "LlamaConfig",
        "LlamaForCausalLM",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    ),
}
OWN = ("llama", "llama3-rope", "yarn", "qwen2-tied", "qwen3", "mistral-window")


@cache
def model(arch: str = "qwen3", vocab: int = 0, seed: int = 0) -> Any:
    config_name, model_name, options = ARCHITECTURES[arch]
    config = getattr(transformers, config_name)(
        vocab_size=vocab or len(tiny_tokenizer()), **(SMALL | options)
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = getattr(transformers, model_name)(config).eval()
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.dim() == 1:  # norms and biases start out as ones and zeros
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def engine(arch: str = "qwen3", vocab: int = 0, **options: Any) -> LocalEngine:
    return LocalEngine(model(arch, vocab), tiny_tokenizer(), **options)


def run(work: Awaitable[T]) -> T:
    async def within_bounds() -> T:
        return await asyncio.wait_for(work, 60)

    return asyncio.run(within_bounds())


async def complete(local: LocalEngine, *requests: tuple[list[int], dict[str, Any]]) -> Any:
    """The completions of requests that are submitted together; closes the engine."""
    async with local:
        return await asyncio.gather(
            *(local.generate(prompt, SamplingParams(**params)) for prompt, params in requests)
        )


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(1000 * seed + length)
    ids: list[int] = torch.randint(3, 250, (length,), generator=generator).tolist()
    return ids


def hf_logprobs(arch: str, ids: list[int], temperature: float = 1.0, vocab: int = 0) -> Any:
    """Log-probability of every token after the first, by one Hugging Face forward."""
    with torch.no_grad():
        logits = model(arch, vocab)(torch.tensor([ids])).logits[0, :-1] / temperature
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()


def assert_exact(arch: str, ids: list[int], done: Completion, temperature: float = 1.0) -> None:
    expected = hf_logprobs(arch, [*ids, *done.token_ids], temperature)[len(ids) - 1 :]
    assert list(done.logprobs) == pytest.approx(expected, abs=1e-4)
