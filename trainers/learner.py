"""The learner: a batch in, one or more AdamW updates, metrics out.

`Learner.step` is the whole of training as the rest of the system sees it. The gradient is
a sum over micro-batches of weighted token losses (`losses.py`), so `micro_batch_tokens`,
packing and prefix sharing never change it beyond rounding. On CPU with a fixed number of
threads a step is deterministic to the bit.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import attention
from .algorithms import Algorithm
from .batching import Batch, Ints, token_weights
from .config import LearnerConfig
from .logprobs import can_pack, score
from .losses import Metrics, mismatch_metrics, policy_loss
from .packing import MicroBatch, micro_batches
from .products import speed_up

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..agents.engines.base import SamplingParams

_WEIGHTS = {
    "float32": torch.float32,
    "autocast": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


class Learner:
    """Owns the trained model and its optimiser.

    Args:
        model: a Hugging Face causal LM. It is moved to the device and dtype of `config`, and
            its dropout is turned off: log-probs must be those of the policy that sampled.
        algorithm: its surrogate, clipping and aggregation.
        reference: the frozen policy of the KL term; needed when `algorithm.kl` > 0.

    Attributes:
        version: number of `step` calls that changed the weights.
        updates: number of optimiser updates.
        packed: whether the model takes packed rows (else padded batches are used).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: LearnerConfig,
        algorithm: Algorithm,
        reference: PreTrainedModel | None = None,
    ) -> None:
        if algorithm.kl and reference is None:
            raise ValueError(
                f"algorithm {algorithm.name!r} has kl={algorithm.kl}: pass the reference "
                f"model, or set kl=0"
            )
        self.config, self.algorithm = config, algorithm
        self.temperature = 1.0 if config.temperature is None else config.temperature
        self.device = torch.device(config.device or _default_device())
        self.model = self._prepare(model)
        self.packed = can_pack(self.model)
        if config.activation_checkpointing:
            self._checkpoint_layers()
            self.model.train()  # layers recompute only in training mode; dropout is 0
        self.reference = None if reference is None else self._prepare(reference)
        if self.reference is not None:
            self.reference.requires_grad_(False)
            if self.packed:
                attention.enable(self.reference)
        self.version = 0
        self.updates = 0
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        # In bfloat16 an update is smaller than the spacing of the numbers: it would be lost.
        low = config.dtype == "bfloat16"
        self.masters = [p.detach().float().clone() for p in self.weights] if low else self.weights
        self.optimizer = torch.optim.AdamW(
            self.masters,
            lr=config.lr,
            betas=config.betas,
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def _prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        torch.nn.Module.to(model, device=self.device, dtype=_WEIGHTS[self.config.dtype])
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "attention_dropout"):
                vars(module)["attention_dropout"] = 0.0
        speed_up(model)
        model.train(False)
        return model

    def _checkpoint_layers(self) -> None:
        model: Any = self.model
        new_name = hasattr(model, "activation_checkpointing_enable")  # of transformers 5
        enable = (
            model.activation_checkpointing_enable
            if new_name
            else model.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})

    def check(self, sampling: SamplingParams) -> None:
        """Refuse samples whose log-probs this learner cannot reproduce.

        Raises:
            ValueError: top-p or top-k truncated the distribution (the ratio would be biased
                by the mass that was kept), or the temperature is not `config.temperature`.
        """
        if sampling.truncated:
            raise ValueError(
                f"cannot train on samples drawn with top_p={sampling.top_p}, "
                f"top_k={sampling.top_k}: the ratio would be biased by the kept mass. "
                f"Sample with top_p=1 and top_k=0"
            )
        if sampling.temperature != self.temperature:
            raise ValueError(
                f"samples drawn at temperature {sampling.temperature} but the learner divides "
                f"logits by {self.temperature}: set both to the same value above 0"
            )

    def step(self, batch: Batch) -> dict[str, float]:
        """Update the weights on one batch.

        Returns:
            Metrics under `train/`; means are over forwarded trained tokens. A batch with no
            trained token changes nothing and returns `train/skipped` = 1.

        Raises:
            FloatingPointError: the gradient is not finite; the weights are untouched by the
                update that found it.
        """
        began = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        parts = batch.split(self.config.updates_per_batch)
        recompute = self.config.old_logprobs == "recompute" and len(parts) > 1
        old = [self.logprobs(p) if recompute else None for p in parts]
        metrics, loss, norms, forwarded = Metrics(), 0.0, [], 0
        if batch.num_trained:
            for part, old_part in zip(parts, old, strict=True):
                part_loss, norm, tokens = self._update(part, old_part, metrics)
                loss, forwarded = loss + part_loss / len(parts), forwarded + tokens
                norms.append(norm)
            self.version += 1
        seconds = time.perf_counter() - began
        result = {f"train/{k}": v for k, v in (metrics.finish() | batch.stats).items()}
        result |= {
            "train/loss": loss,
            "train/grad_norm": float(np.mean(norms)) if norms else 0.0,
            "train/lr": self._lr(max(self.updates - 1, 0)),
            "train/updates": float(len(norms)),
            "train/skipped": float(not norms),
            "train/trained_tokens": float(batch.num_trained),
            "train/forwarded_tokens": float(forwarded),
            "train/tokens_per_s": batch.num_tokens / max(seconds, 1e-9),
            "train/seconds": seconds,
            "train/peak_memory_bytes": float(_peak_memory(self.device)),
        }
        return result

    def _update(
        self, batch: Batch, old: Tensor | None, metrics: Metrics
    ) -> tuple[float, float, int]:
        """One optimiser update; returns (loss, gradient norm, forwarded tokens)."""
        for master in self.masters:
            master.grad = torch.zeros_like(master)
        weights = token_weights(batch, self.algorithm)
        total = torch.zeros((), device=self.device)
        tokens = 0
        for micro in self._micro_batches(batch, self._needed(batch)):
            loss, part = self._loss(batch, micro, weights, old)
            loss.backward()  # type: ignore[no-untyped-call]
            self._collect()
            metrics.update(part)
            total, tokens = total + loss.detach(), tokens + micro.num_tokens
        norm = self._apply()
        return total.item(), norm, tokens

    def _loss(
        self, batch: Batch, micro: MicroBatch, weights: NDArray[np.float64], old: Tensor | None
    ) -> tuple[Tensor, Metrics]:
        logprobs, entropy = self._score(self.model, micro, self.config.entropy)
        take = _Take(micro.index, logprobs)
        sampler = take(batch.sampler_logprobs)
        if old is not None:
            base = old[torch.as_tensor(micro.index, device=self.device)]
        else:
            # One update per batch: what the trainer would recompute is what it just computed.
            on_policy = self.config.old_logprobs == "recompute"
            base = logprobs.detach() if on_policy else sampler
        reference = None
        if self.algorithm.kl and self.reference is not None:
            with torch.no_grad():
                reference, _ = self._score(self.reference, micro, False)
        loss, metrics = policy_loss(
            logprobs,
            base,
            take(batch.advantages),
            take(weights),
            self.algorithm,
            sequence=torch.as_tensor(batch.sequence_ids[micro.index], device=self.device),
            reference=reference,
        )
        metrics.update(mismatch_metrics(logprobs.detach(), sampler))
        if entropy is not None:
            metrics.sums["entropy"] = entropy.sum()
        return loss, metrics

    def _score(
        self, model: PreTrainedModel, micro: MicroBatch, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        auto = self.config.dtype == "autocast"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=auto):
            return score(
                model,
                micro,
                temperature=self.temperature,
                entropy=entropy,
                dtype=torch.bfloat16 if auto else None,
            )

    @torch.no_grad()
    def logprobs(self, batch: Batch) -> Tensor:
        """[T] log-probs of the trained tokens under the current weights; 0 elsewhere."""
        wide = torch.float64 if self.config.dtype == "float64" else torch.float32
        result = torch.zeros(batch.num_tokens, dtype=wide, device=self.device)
        for micro in self._micro_batches(batch, None):
            values, _ = self._score(self.model, micro, False)
            result[torch.as_tensor(micro.index, device=self.device)] = values
        return result

    def _micro_batches(self, batch: Batch, only: Ints | None) -> list[MicroBatch]:
        return list(
            micro_batches(
                batch,
                self.config.micro_batch_tokens,
                share_prefix=self.config.share_prefix,
                min_shared=self.config.min_shared,
                padded=not self.packed,
                only=only,
            )
        )

    def _needed(self, batch: Batch) -> Ints | None:
        """Sequences that can have a gradient; None for all of them."""
        if self.algorithm.kl or not self.config.skip_zero_advantage:
            return None
        ids = batch.sequence_ids[batch.advantages != 0]
        return np.unique(ids)

    def _collect(self) -> None:
        """Add bfloat16 gradients to the masters' float32 ones; otherwise they are the same."""
        if self.masters is self.weights:
            return
        for weight, master in zip(self.weights, self.masters, strict=True):
            if weight.grad is not None and master.grad is not None:
                master.grad += weight.grad
                weight.grad = None

    @torch.no_grad()
    def _apply(self) -> float:
        limit = self.config.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.masters, limit).item()
        if not np.isfinite(norm):
            raise FloatingPointError(
                f"gradient norm is {norm} at update {self.updates}: the weights were not "
                f"changed. Look at train/ratio_max and train/mismatch_max of the last steps, "
                f"and lower lr"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(self.updates)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.masters is not self.weights:
            for weight, master in zip(self.weights, self.masters, strict=True):
                weight.copy_(master)
        self.updates += 1
        return norm

    def _lr(self, update: int) -> float:
        warmup = self.config.warmup_updates
        return self.config.lr * min(1.0, (update + 1) / warmup if warmup else 1.0)

    def publish(self) -> tuple[int, dict[str, Tensor]]:
        """(version, weights by Hugging Face name; tied ones once).

        The tensors are the live weights, detached: copy them before the next `step`.
        """
        return self.version, {n: p.detach() for n, p in self.model.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next `step` depends on (the live tensors, not copies)."""
        return {"model": dict(self.publish()[1])} | self.training_state()

    def training_state(self) -> dict[str, Any]:
        """`state_dict` without the model's weights."""
        masters = [] if self.masters is self.weights else self.masters
        return {
            "version": self.version,
            "updates": self.updates,
            "masters": masters,
            "optimizer": self.optimizer.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of a learner of the same model and dtype."""
        own = dict(self.model.named_parameters())
        if own.keys() != state["model"].keys():
            odd = sorted(own.keys() ^ state["model"].keys())[:3]
            raise ValueError(f"the state is of another model: {odd} are in only one of them")
        if bool(state["masters"]) != (self.masters is not self.weights):
            raise ValueError(
                f"the state was saved with another dtype than {self.config.dtype!r}: continue "
                f"with the one the run was started with"
            )
        for name, value in state["model"].items():
            own[name].copy_(value)
        for master, value in zip(self.masters, state["masters"], strict=False):
            master.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.version, self.updates = state["version"], state["updates"]


class _Take:
    """Picks the entries of a micro-batch out of a batch's [T] array, as a tensor like `like`."""

    def __init__(self, index: Ints, like: Tensor) -> None:
        self.index, self.like = index, like

    def __call__(self, values: NDArray[np.float64]) -> Tensor:
        return torch.as_tensor(values[self.index], dtype=self.like.dtype, device=self.like.device)


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _peak_memory(device: torch.device) -> int:
    """Peak of the step on cuda; of the whole process so far on cpu. In bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
