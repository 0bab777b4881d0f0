"""Policy losses: pure functions on flat tensors that return plain sums.

Every tensor is [m], one entry per trained token. Normalisers arrive as per-token
`weights` (`batching.token_weights`), so a loss over two micro-batches is the sum of
their losses, whatever the cut. Formulae: PPO's clipped surrogate (arXiv 1707.06347, eq.
7) per token with DAPO's separate bounds (2503.14476, eq. 10), and Schulman's k3 estimate
of KL(pi || ref) as in GRPO (2402.03300, eq. 4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .algorithms import Algorithm

# exp(20) is far outside every clip range; the bound only keeps exp() finite.
MAX_LOG_RATIO = 20.0


@dataclass(slots=True)
class Metrics:
    """Running sums and maxima over tokens, kept as tensors so that nothing waits on a GPU."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    maxima: dict[str, Tensor] = field(default_factory=dict)

    def update(self, other: Metrics) -> None:
        for name, value in other.sums.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        for name, value in other.maxima.items():
            mine = self.maxima.get(name, value)
            self.maxima[name] = torch.maximum(mine, value)

    def finish(self) -> dict[str, float]:
        """Means over the tokens counted under `tokens`, beside the maxima and `tokens`."""
        if "tokens" not in self.sums:
            return {"tokens": 0.0}
        tokens = self.sums["tokens"].item()
        means = {k: v.item() / max(tokens, 1.0) for k, v in self.sums.items() if k != "tokens"}
        return means | {k: v.item() for k, v in self.maxima.items()} | {"tokens": tokens}


def token_ratio(logprobs: Tensor, old: Tensor, sequence: Tensor) -> Tensor:
    """pi / pi_old of each token. `sequence` [m] tells which sequence a token is of."""
    return (logprobs - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped_surrogate(ratio: Tensor, advantages: Tensor, algorithm: Algorithm) -> Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A), [m]."""
    clipped = ratio.clamp(1 - algorithm.clip_low, 1 + algorithm.clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Unbiased, non-negative estimate of KL(pi || reference) from samples of pi, [m]."""
    difference = (reference - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return difference.exp() - difference - 1


RATIOS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"token": token_ratio}
SURROGATES: dict[str, Callable[[Tensor, Tensor, Algorithm], Tensor]] = {"clip": clipped_surrogate}


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    algorithm: Algorithm,
    *,
    sequence: Tensor,
    reference: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """sum_t w_t (surrogate_t + kl * k3_t), and what to log about it.

    Args:
        logprobs: [m] of the policy, with gradient.
        old_logprobs: [m] that the ratio is taken against, detached.
        advantages / weights: [m].
        sequence: [m] index of each token's sequence.
        reference: [m] log-probs of the reference policy; needed when `algorithm.kl` > 0.

    Returns:
        (scalar loss, metrics: ratio, clip_low, clip_high, kl when there is a reference).

    Raises:
        ValueError: the algorithm has a KL term and `reference` is None.
    """
    ratio = RATIOS[algorithm.ratio](logprobs, old_logprobs, sequence)
    losses = SURROGATES[algorithm.surrogate](ratio, advantages, algorithm)
    metrics = _ratio_metrics(ratio.detach(), advantages, algorithm)
    if algorithm.kl:
        if reference is None:
            raise ValueError(
                f"algorithm {algorithm.name!r} has kl={algorithm.kl}: give the learner a "
                f"reference model, or set kl=0"
            )
        kl = kl_k3(logprobs, reference)
        if algorithm.kl_correction:
            kl = kl * ratio
        losses = losses + algorithm.kl * kl
        metrics.sums["kl"] = kl.detach().sum()
    return (losses * weights).sum(), metrics


def _ratio_metrics(ratio: Tensor, advantages: Tensor, algorithm: Algorithm) -> Metrics:
    """A token counts as clipped when the bound is what takes its gradient away."""
    low = (ratio < 1 - algorithm.clip_low) & (advantages < 0)
    high = (ratio > 1 + algorithm.clip_high) & (advantages > 0)
    sums = {
        "tokens": ratio.new_tensor(float(len(ratio))),
        "ratio": ratio.sum(),
        "clip_low": low.sum().to(ratio.dtype),
        "clip_high": high.sum().to(ratio.dtype),
    }
    return Metrics(sums, {"ratio_max": ratio.max()} if len(ratio) else {})


@torch.no_grad()
def mismatch_metrics(logprobs: Tensor, sampler: Tensor) -> Metrics:
    """How far the learner's log-probs are from the sampler's, over [m] tokens.

    `mismatch` mean and max of |difference|; `approx_kl_k1` and `approx_kl_k3`: estimates of
    KL(sampler || learner) from the sampler's samples.
    """
    difference = logprobs - sampler
    bounded = difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    sums = {
        "mismatch": difference.abs().sum(),
        "approx_kl_k1": -difference.sum(),
        "approx_kl_k3": (bounded.exp() - 1 - bounded).sum(),
    }
    return Metrics(sums, {"mismatch_max": difference.abs().max()} if len(logprobs) else {})
