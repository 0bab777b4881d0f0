"""Policy-gradient algorithms as data: one frozen row per algorithm, no class tree.

A row says how rewards become advantages, how the ratio is taken and clipped, how token
losses are added up, and which episodes enter. `advantages.py`, `batching.py` and
`losses.py` read the fields; none of them knows a name. A new method is a new row, plus a
new entry in the one small table (`BASELINES`, `RATIOS`, `SURROGATES`, `token_weights`)
that its formula touches.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal

Baseline = Literal["mean"]
Ratio = Literal["token"]
Surrogate = Literal["clip"]
Aggregation = Literal["token_mean", "sequence_mean", "constant"]
OverlongCounts = Literal["sampled", "response"]
Truncated = Literal["keep", "mask"]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One row of the table.

    Attributes:
        baseline: what is subtracted from a reward: `mean` of the group's valid members.
        scale_by_std: divide by (std + `std_eps`) of the group; std with `std_ddof`.
        ratio: `token`: exp(log pi - log pi_old) of each token (PPO).
        surrogate: `clip`: -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A).
        aggregation: how token losses are added up over one optimiser update.
            `token_mean`: divided by the number of trained tokens (DAPO, eq. 12);
            `sequence_mean`: mean over each sequence, then over sequences (GRPO, eq. 3);
            `constant`: divided by sequences x `constant_length` (Dr. GRPO).
        dynamic_sampling: the training loop replaces groups whose rewards are all equal
            (DAPO, eq. 11); see `advantages.has_signal`.
        overlong_length / overlong_cache: L_max and L_cache of DAPO's soft overlong
            punishment (eq. 13), in tokens; a length of 0 turns it off.
        overlong_counts: which tokens that length counts: `sampled` by the model, or the
            whole `response` (tool output included, everything after the first prompt).
        kl: coefficient of the k3 estimate of KL(pi || reference); 0 needs no reference.
        kl_correction: multiply that estimate by the ratio, so that its gradient is that of
            the reverse KL (DeepSeek-V3.2, arXiv 2512.02556; TRL's default).
        truncated: episodes that ran out of a budget: `keep` them as rewarded, or `mask`
            them out of the loss (DAPO's overlong filtering). Their reward stays in the
            group's statistics either way.
    """

    name: str
    baseline: Baseline = "mean"
    scale_by_std: bool = True
    std_eps: float = 1e-6
    std_ddof: int = 1
    ratio: Ratio = "token"
    surrogate: Surrogate = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Aggregation = "sequence_mean"
    constant_length: int = 0
    dynamic_sampling: bool = False
    overlong_length: int = 0
    overlong_cache: int = 0
    overlong_counts: OverlongCounts = "sampled"
    kl: float = 0.0
    kl_correction: bool = False
    truncated: Truncated = "keep"

    def __post_init__(self) -> None:
        if not 0 <= self.clip_low <= 1 or self.clip_high < 0:
            raise ValueError(
                f"clip_low must be in [0, 1] and clip_high at least 0: "
                f"got {self.clip_low} and {self.clip_high}"
            )
        if self.std_eps < 0 or self.kl < 0:
            raise ValueError(
                f"std_eps and kl must not be negative: got {self.std_eps} and {self.kl}"
            )
        if self.aggregation == "constant" and self.constant_length < 1:
            raise ValueError(
                f"aggregation 'constant' divides by constant_length tokens: set it to the "
                f"longest response you allow, got {self.constant_length}"
            )
        if self.overlong_length and not 0 < self.overlong_cache <= self.overlong_length:
            raise ValueError(
                f"overlong_cache must be in 1..overlong_length ({self.overlong_length}): "
                f"got {self.overlong_cache}"
            )


# Defaults of the papers. Not from a paper: std_eps (none gives one; 1e-6 as in verl, TRL
# has 1e-4), and kl 0 for GRPO (DeepSeekMath used 0.04; later work dropped the term).
# GRPO: arXiv 2402.03300. Dr. GRPO: 2503.20783, 3000 tokens allowed. DAPO: 2503.14476.
ALGORITHMS: dict[str, Algorithm] = {
    "grpo": Algorithm("grpo"),
    "dr_grpo": Algorithm(
        "dr_grpo", scale_by_std=False, aggregation="constant", constant_length=3000
    ),
    "dapo": Algorithm(
        "dapo",
        clip_high=0.28,
        aggregation="token_mean",
        dynamic_sampling=True,
        overlong_length=20480,
        overlong_cache=4096,
    ),
}


def get_algorithm(name: str, **overrides: Any) -> Algorithm:
    """The row called `name`, with fields replaced.

    Example: `get_algorithm("dapo", overlong_length=1024, overlong_cache=256)`.

    Raises:
        ValueError: unknown name or field; the message gives the nearest known one.
    """
    if name not in ALGORITHMS:
        raise ValueError(_unknown("algorithm", name, list(ALGORITHMS)))
    known = [f.name for f in fields(Algorithm) if f.name != "name"]
    for key in overrides:
        if key not in known:
            raise ValueError(_unknown("algorithm field", key, known))
    return replace(ALGORITHMS[name], **overrides)


def _unknown(kind: str, given: str, known: list[str]) -> str:
    near = get_close_matches(given, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {given!r}: {hint}known: {', '.join(known)}"
