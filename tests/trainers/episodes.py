"""Hand-made trajectories and tiny random models for the learner's tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from palestra.envs.types import Group, Invalid, StopReason, Task, Trajectory
from palestra.trainers.batching import Batch

VOCAB = 61
TASK = Task("t", ())
KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def trajectory(
    tokens: Sequence[int],
    mask: Sequence[int],
    reward: float | None,
    *,
    stop: StopReason = StopReason.COMPLETED,
    logprobs: Sequence[float] | None = None,
) -> Trajectory:
    """One episode; the prompt ends where the first sampled token stands."""
    given = list(logprobs) if logprobs is not None else [-1.0 * m for m in mask]
    prompt = list(mask).index(1) if 1 in mask else len(mask)
    failure = Invalid("sandbox", "died") if reward is None else None
    return Trajectory(
        task_id="t",
        env_id="test/Env-v0",
        token_ids=tuple(tokens),
        mask=tuple(bool(m) for m in mask),
        logprobs=tuple(given),
        prompt_length=prompt,
        turns=(),
        stop_reason=StopReason.ENV_ERROR if reward is None else stop,
        reward=reward,
        failure=failure,
    )


def random_groups(
    rng: np.random.Generator, groups: int = 3, size: int = 4, prompt: int = 20, scale: int = 30
) -> list[Group]:
    """Groups that share a prompt (some a first turn too), with tool tokens in the middle."""
    made = []
    for _ in range(groups):
        shared = rng.integers(1, VOCAB, prompt + int(rng.integers(0, 8))).tolist()
        turn = rng.integers(1, VOCAB, 18).tolist()
        members = []
        for i in range(size):
            tokens, mask = list(shared), [0] * len(shared)
            if i < size // 2:  # these begin with the same sampled turn
                tokens, mask = tokens + turn, mask + [1] * len(turn)
            for sampled in (1, 0, 1):
                count = int(rng.integers(1, scale))
                tokens += rng.integers(1, VOCAB, count).tolist()
                mask += [sampled] * count
            logprobs = (-rng.random(len(mask)) * 2 - 3) * np.array(mask)
            reward = float(rng.integers(0, 2)) + 0.25 * (i == 0)
            members.append(trajectory(tokens, mask, reward, logprobs=logprobs.tolist()))
        made.append(Group(TASK, tuple(members)))
    return made


def tiny_model(kind: str = "qwen3", dtype: torch.dtype = torch.float64, **kwargs: Any) -> Any:
    """Two layers, grouped heads, tied embedding; weights large enough to matter."""
    config_type, model_type = KINDS[kind]
    options = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": 0,
    } | kwargs
    if kind == "qwen2":
        del options["head_dim"]
    torch.manual_seed(0)
    model = model_type(config_type(**options)).to(dtype)
    return exact(model) if dtype == torch.float64 else model


def exact(model: Any) -> Any:
    """Make the norms compute in float64: transformers rounds inside them to float32."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(_exact_norm, module)
    return model


def _exact_norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    return (
        module.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
    )


def sampled_by(model: Any, batch: Batch) -> np.ndarray:
    """[T] the model's own log-probs, one unpadded plain forward per sequence; 0 off the mask."""
    result = np.zeros(batch.num_tokens)
    for start, length in zip(batch.starts, batch.lengths, strict=True):
        ids = torch.as_tensor(batch.token_ids[start : start + length])[None]
        with torch.no_grad():
            logs = torch.log_softmax(model(ids).logits[0].double(), -1)
        values = logs[:-1].gather(1, ids[0, 1:, None])[:, 0].numpy()
        result[start + 1 : start + length] = values
    return np.where(batch.loss_mask, result, 0.0)
