"""Sampling by inverse CDF over a tiled vocabulary, with exact log-probabilities.

The vocabulary is scored a tile at a time, while a tile's logits are still in the processor's
cache, and reduced to one log-sum-exp per chunk of 256 tokens. One uniform number then picks
the chunk and, with what is left of it, the token inside the chunk, so that only 256 of
152,000 probabilities are ever written out. `torch.multinomial` needs several passes over all.
On a CPU with a compiler all of it is two calls (`kernels.py`), else it is torch's operators.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .kernels import Kernels, load_kernels

Floats = npt.NDArray[np.float64]
CHUNK = 256
_NEVER = -1e30  # a finite stand-in for -inf: a chunk of nothing else must not give NaN
TILE = 8192  # tokens of the vocabulary; with 64 rows of float32 logits, 2 MiB


@dataclass(slots=True)
class Scores:
    """Tempered logits of N rows and what normalises them.

    logits: [tiles, N, width] float32, already divided by the temperature, -1e30 past the
        vocabulary. mass: [N, tiles * width / CHUNK], the log-sum-exp of each chunk.
    """

    logits: Tensor
    mass: Tensor
    kernels: Kernels | None = None

    @property
    def chunked(self) -> Tensor:
        tiles, rows, width = self.logits.shape
        return self.logits.view(tiles, rows, width // CHUNK, CHUNK)

    def row(self, index: int) -> Tensor:
        """All logits of one row: [tiles * width]."""
        return self.logits[:, index].flatten()

    def at(self, tokens: Tensor) -> Tensor:
        """The logit of one token per row: [N]."""
        width = self.logits.shape[2]
        rows = torch.arange(len(tokens), device=tokens.device)
        return self.logits[tokens // width, rows, tokens % width]


class Scorer:
    """Turns tiles of raw logits into `Scores`, in buffers that are reused from step to step.

    Fresh buffers of this size would be mapped and faulted in by the kernel at every step.
    """

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab
        self.width = min(TILE, -(-vocab // CHUNK) * CHUNK)
        self.tiles = -(-vocab // self.width)
        self._buffer = torch.empty(0)

    def bounds(self, tile: int) -> tuple[int, int]:
        """First and one past the last vocabulary index of a tile."""
        return tile * self.width, min((tile + 1) * self.width, self.vocab)

    def __call__(
        self, tiles: Iterable[Tensor], states: Tensor, inverse_temperature: Tensor | None
    ) -> Scores:
        """`tiles` yields the [N, <= width] logits of `states` in order.

        `inverse_temperature` is [N] float32; None stands for ones.
        """
        rows = len(states)
        logits = self._take(rows, states.device)
        mass = logits.new_empty(rows, self.tiles * (self.width // CHUNK))
        per_tile = self.width // CHUNK
        kernels = load_kernels() if states.device.type == "cpu" else None
        for number, (out, tile) in enumerate(zip(logits, tiles, strict=True)):
            if kernels is not None and tile.dtype in kernels.dtypes:
                part = mass[:, number * per_tile :]
                kernels.reduce_tile(tile.contiguous(), inverse_temperature, _NEVER, out, part)
                continue
            filled = tile.shape[1]
            out[:, :filled] = tile
            if inverse_temperature is not None:
                out *= inverse_temperature[:, None]
            if filled < self.width:
                out[:, filled:] = _NEVER
            mass[:, number * per_tile : (number + 1) * per_tile] = _chunk_mass(out)
        return Scores(logits, mass, kernels)

    def _take(self, rows: int, device: torch.device) -> Tensor:
        need = self.tiles * rows * self.width
        if self._buffer.numel() < need or self._buffer.device != device:
            self._buffer = torch.empty(need, dtype=torch.float32, device=device)
        return self._buffer[:need].view(self.tiles, rows, self.width)


def _chunk_mass(logits: Tensor) -> Tensor:
    """Log-sum-exp of each chunk, through log_softmax: the one fused kernel for it on a CPU."""
    chunks = logits.view(len(logits), -1, CHUNK)
    first = chunks[..., 0]
    return first - torch.log_softmax(chunks, -1)[..., 0]


def uniforms(seed: int, count: int) -> Floats:
    """The uniform numbers behind the tokens of one request: entry t depends on (seed, t) only.

    Philox 4x64 is counter-based (Salmon et al. 2011): a longer stream starts with a shorter one.
    """
    generator = np.random.Generator(np.random.Philox(key=seed % 2**64))
    return generator.random(count)


@dataclass(frozen=True, slots=True)
class Truncation:
    """Top-k and top-p of one row (0 and 1.0 mean off)."""

    row: int
    top_k: int
    top_p: float


def sample(
    scores: Scores,
    uniform: Tensor,
    greedy: Tensor | None,
    truncations: Sequence[Truncation] = (),
) -> tuple[Tensor, Tensor]:
    """One token per row: (ids [N] int64, log-probabilities [N] float32).

    `uniform` is [N] float64 in [0, 1); rows where `greedy` is set take the most likely token.
    """
    if scores.kernels is not None:
        ids, logprobs = scores.kernels.sample(scores.logits, scores.mass, uniform, greedy)
    else:
        ids, logprobs = _sample(scores, uniform, greedy)
    for cut in truncations:
        one = sample_truncated(scores.row(cut.row), float(uniform[cut.row]), cut)
        ids[cut.row], logprobs[cut.row] = one
    return ids, logprobs


def _sample(scores: Scores, uniform: Tensor, greedy: Tensor | None) -> tuple[Tensor, Tensor]:
    chunk, rest = _invert(scores.mass, uniform)
    if greedy is not None:
        best = scores.chunked.amax(-1).movedim(1, 0).flatten(1).argmax(-1)
        chunk = torch.where(greedy, best, chunk)
    inside = _gather_chunk(scores, chunk)
    token, _ = _invert(inside, rest)
    if greedy is not None:
        token = torch.where(greedy, inside.argmax(-1), token)
    logit = inside.gather(1, token[:, None])[:, 0]
    return chunk * CHUNK + token, logit - torch.logsumexp(scores.mass, -1)


def _gather_chunk(scores: Scores, chunk: Tensor) -> Tensor:
    chunks = scores.chunked
    rows = torch.arange(len(chunk), device=chunk.device)
    return chunks[chunk // chunks.shape[2], rows, chunk % chunks.shape[2]]


def _invert(log_weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse CDF of unnormalised log-weights [N, C]: index [N], and a fresh uniform [N].

    The part of the uniform number inside the chosen interval is itself uniform, so one
    number serves both levels. In float64, 53 bits cover both.
    """
    weights = torch.softmax(log_weights.double(), -1)
    cdf = weights.cumsum(-1)
    last = cdf[:, -1]
    # Below the last value even after rounding, so no zero-weight index is ever reached.
    point = torch.minimum(uniform * last, torch.nextafter(last, torch.zeros_like(last)))
    index = torch.searchsorted(cdf, point[:, None], right=True)
    weight = weights.gather(1, index)
    below = cdf.gather(1, index) - weight
    rest = ((point[:, None] - below) / weight).clamp_(0.0, 1.0)
    return index[:, 0], rest[:, 0]


def sample_truncated(logits: Tensor, uniform: float, cut: Truncation) -> tuple[Tensor, Tensor]:
    """Top-k, then top-p of what is left, renormalised; the smallest set that reaches top_p."""
    values, order = logits.sort(descending=True, stable=True)
    if 0 < cut.top_k < len(values):
        values = values[: cut.top_k]
    logprobs = torch.log_softmax(values.double(), -1)
    if cut.top_p < 1:
        before = logprobs.exp().cumsum(0) - logprobs.exp()
        keep = max(int((before < cut.top_p).sum()), 1)
        logprobs = torch.log_softmax(logprobs[:keep], -1)
    index, _ = _invert(logprobs[None], logits.new_tensor([uniform], dtype=torch.float64))
    return order[index[0]], logprobs[index[0]].float()
