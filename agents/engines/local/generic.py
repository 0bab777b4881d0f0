"""The fallback for every other architecture: the Hugging Face forward, one row at a time."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .backend import Segment
from .sampling import Scorer, Scores
from .weights import check_tensors

_PIECE = 2048  # tokens of one prefill pass


class GenericBackend:
    """See `backend.Backend`. Works on a deep copy of `model`; states are logits already."""

    def __init__(
        self, model: Any, dtype: torch.dtype, device: torch.device, context_length: int
    ) -> None:
        self.model = copy.deepcopy(model).to(device=device, dtype=dtype).eval()
        self.context_length = context_length
        self.device = device
        self.scorer: Scorer | None = None
        self._rows: dict[int, Any] = {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        state = self.model.state_dict()
        tied = set(getattr(self.model, "all_tied_weights_keys", None) or ())
        buffers = {name for name, _ in self.model.named_buffers()}
        check_tensors(tensors, {n: t.shape for n, t in state.items()}, tied | buffers)
        for name, tensor in tensors.items():
            state[name].copy_(tensor)

    def clear(self) -> None:
        self._rows.clear()

    def prefill(self, segments: Sequence[Segment], *, every: bool = False) -> Tensor:
        outputs = [self._run(s.row, s.start, s.tokens, every) for s in segments]
        return torch.cat(outputs)

    def decode(self, tokens: Tensor, places: Tensor, longest: int) -> Tensor:
        pairs = enumerate(zip(tokens.tolist(), places.tolist(), strict=True))
        return torch.cat([self._run(row, at, [token], False) for row, (token, at) in pairs])

    def _run(self, row: int, start: int, tokens: Sequence[int], every: bool) -> Tensor:
        """Logits [1, vocab] after the last token, or [len(tokens), vocab] with `every`."""
        from transformers import DynamicCache

        if start == 0:
            self._rows[row] = DynamicCache(config=self.model.config)
        cache = self._rows[row]
        parts: list[Tensor] = []
        for first in range(0, len(tokens), _PIECE):
            ids = torch.tensor([list(tokens[first : first + _PIECE])], device=self.device)
            keep = 0 if every else 1
            out = self.model(
                input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=keep
            )
            parts.append(out.logits[0])
        return torch.cat(parts) if every else parts[-1][-1:]

    def score(self, states: Tensor, inverse_temperature: Tensor | None) -> Scores:
        if self.scorer is None or self.scorer.vocab != states.shape[1]:
            self.scorer = Scorer(states.shape[1])
        bounds = (self.scorer.bounds(i) for i in range(self.scorer.tiles))
        # Some models mask ids that they never emit with -inf; see `sampling._NEVER`.
        tiles = (states[:, start:end].float().clamp(min=-1e30) for start, end in bounds)
        return self.scorer(tiles, states, inverse_temperature)

    def copy(self, source: int, target: int, length: int) -> None:
        self._rows[target] = copy.deepcopy(self._rows[source])

    def move(self, source: int, target: int, length: int) -> None:
        self._rows[target] = self._rows.pop(source)

    def read(self, row: int, start: int, stop: int) -> Tensor | None:
        layers = [_stackable(layer) for layer in self._rows[row].layers]
        shapes = {None if kv is None else kv.shape for kv in layers}
        if len(shapes) != 1 or None in shapes:
            return None
        return torch.stack([kv for kv in layers if kv is not None])[..., start:stop, :]

    def write(self, row: int, data: Tensor) -> None:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        for number, (keys, values) in enumerate(data):
            cache.update(keys[None].clone(), values[None].clone(), number)
        self._rows[row] = cache


def _stackable(layer: Any) -> Tensor | None:
    """[2, kv_heads, length, head_dim] of one cache layer; None if it keeps something else."""
    from transformers.cache_utils import DynamicLayer

    if type(layer) is not DynamicLayer:
        return None
    keys, values = layer.keys, layer.values
    if keys is None or values is None or keys.dim() != 4:
        return None
    return torch.stack((keys[0], values[0]))
