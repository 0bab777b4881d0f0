"""Requests, outputs and weights between our types and vLLM's."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....envs.types import FinishReason
from ..base import EngineError, SamplingParams
from ..requests import StopStrings

if TYPE_CHECKING:
    import torch


def to_vllm(params: SamplingParams, budget: int, ends: Iterable[int]) -> Any:
    from vllm import SamplingParams as VllmParams
    from vllm.sampling_params import RequestOutputKind

    kind = RequestOutputKind.DELTA if params.stop else RequestOutputKind.FINAL_ONLY
    return VllmParams(
        max_tokens=budget,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        seed=None if params.seed is None else params.seed % 2**63,
        stop_token_ids=sorted(ends),
        ignore_eos=True,  # the ends are all named above
        logprobs=0,  # of the sampled token alone
        detokenize=False,
        output_kind=kind,
    )


def extend(ids: list[int], logprobs: list[float], piece: Any, stops: StopStrings) -> str | None:
    """Take over new tokens up to the one that completes a stop string, which is returned."""
    for token, entry in zip(piece.token_ids, piece.logprobs, strict=True):
        ids.append(token)
        logprobs.append(min(float(entry[token].logprob), 0.0))
        if found := stops.match(ids):
            return found
    return None


def finish_reason(
    ids: Sequence[int], budget: int, ends: set[int], stop: str | None
) -> FinishReason:
    if ids and ids[-1] in ends:
        return FinishReason.STOP
    if stop is not None:
        return FinishReason.STOP_STRING
    if len(ids) < budget:
        raise EngineError(f"vLLM ended a request after {len(ids)} of {budget} tokens: see its log")
    return FinishReason.LENGTH


def parameter_names(folder: str) -> set[str]:
    """Names in the safetensors files of a model folder; empty where there is none (hub ids)."""
    from safetensors import safe_open

    names: set[str] = set()
    for file in Path(folder).glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            names.update(tensors.keys())
    return names


def shared_memory(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """/dev/shm where it has room for the tensors; None is the default temporary folder."""
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > 2 * size else None


def save(tensors: Mapping[str, torch.Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write the tensors once each (tied ones under their first name) in the engine's dtype."""
    from safetensors.torch import save_file

    kept: dict[str, torch.Tensor] = {}
    seen: set[tuple[int, int]] = set()
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.numel())
        if key in seen:
            continue
        seen.add(key)
        tensor = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
        kept[name] = tensor.contiguous()
    save_file(kept, path)
