"""Shape and weights of a Llama-type model, fused and laid out for `decoder.Decoder`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Self

import torch
from torch import Tensor

from .linear import Linear
from .sampling import Scorer

MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
# These change their frequencies with the length that runs, so no fixed table can hold them.
_MOVING_ROPE = frozenset({"dynamic", "longrope"})


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of a Llama-type configuration; `windows[i]` is layer i's sliding window."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    eps: float
    tied: bool
    windows: tuple[int | None, ...]

    @property
    def scale(self) -> float:
        return float(self.head_dim**-0.5)

    @classmethod
    def of(cls, config: Any) -> Self:
        count, window = config.num_hidden_layers, getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * count
        return cls(
            layers=count,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None)
            or config.hidden_size // config.num_attention_heads,
            vocab=config.vocab_size,
            eps=config.rms_norm_eps,
            tied=config.tie_word_embeddings,
            windows=tuple(window if kind == "sliding_attention" else None for kind in kinds),
        )


def is_supported(config: Any) -> bool:
    """Whether `decoder.Decoder` computes this architecture exactly."""
    if config.model_type not in MODEL_TYPES:
        return False
    rope = config.rope_parameters
    return (
        config.hidden_act == "silu"
        and rope.get("rope_type", "default") not in _MOVING_ROPE
        and rope.get("partial_rotary_factor", 1.0) == 1.0
    )


def check_tensors(
    given: Mapping[str, Tensor], expected: Mapping[str, torch.Size], optional: set[str]
) -> None:
    """Raise ValueError where names or shapes of `given` are not those of the model."""
    for name, tensor in given.items():
        if name not in expected:
            near = get_close_matches(name, expected, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"the model has no weight {name!r}{hint}")
        if tensor.shape != expected[name]:
            raise ValueError(
                f"weight {name!r} must have shape {tuple(expected[name])}, "
                f"got {tuple(tensor.shape)}"
            )
    missing = sorted(expected.keys() - given.keys() - optional)
    if missing:
        raise ValueError(
            f"{len(missing)} weights of the model are missing, the first is {missing[0]!r}: "
            f"give all of them under their Hugging Face names"
        )


@dataclass(slots=True)
class Layer:
    """One block. `qk_norm` is [heads + kv_heads, head_dim] float32, or None without norms."""

    attention_norm: Tensor
    qkv: Linear
    qk_norm: Tensor | None
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


class _Source:
    """Tensors by name, converted one by one as they are asked for."""

    def __init__(
        self, tensors: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._tensors, self._dtype, self._device = tensors, dtype, device

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].detach().to(self._device, self._dtype)


class Weights:
    """The fused weights, built from tensors under their Hugging Face names."""

    def __init__(self, model: Any, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        state = model.state_dict()
        self._expected = {name: tensor.shape for name, tensor in state.items()}
        # Rotation turns dimension i with i + D/2; side by side they are one complex number.
        self._pairs = torch.arange(shape.head_dim).view(2, -1).T.flatten()
        self.layers: list[Layer] = []
        self.load(state)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace all weights. The head may be left out where it is tied to the embedding.

        Raises:
            ValueError: a name is missing or unknown, or a shape differs.
        """
        check_tensors(tensors, self._expected, {"lm_head.weight"} if self.shape.tied else set())
        source = _Source(tensors, self.dtype, self.device)
        for number in range(self.shape.layers):  # one at a time: the peak is one layer, not all
            self.layers[number : number + 1] = [self._layer(source, number)]
        # Cloned, because these may still be the caller's own storage, which a trainer changes.
        self.embedding = source["model.embed_tokens.weight"].clone()
        self.final_norm = source["model.norm.weight"].clone()
        head = self.embedding if self.shape.tied else source["lm_head.weight"].clone()
        scorer = Scorer(self.shape.vocab)
        self.head = [Linear(head[slice(*scorer.bounds(i))]) for i in range(scorer.tiles)]

    def _layer(self, source: _Source, number: int) -> Layer:
        prefix = f"model.layers.{number}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        qkv = [attention + f"{p}_proj" for p in "qkv"]
        bias = self._qkv(source, qkv, "bias") if f"{qkv[0]}.bias" in source else None
        return Layer(
            attention_norm=source[prefix + "input_layernorm.weight"].clone(),
            qkv=Linear(self._qkv(source, qkv, "weight"), bias),
            qk_norm=self._qk_norm(source, attention),
            output=_linear(source, attention + "o_proj"),
            mlp_norm=source[prefix + "post_attention_layernorm.weight"].clone(),
            gate_up=_linear(source, mlp + "gate_proj", mlp + "up_proj"),
            down=_linear(source, mlp + "down_proj"),
        )

    def _qkv(self, source: _Source, names: list[str], kind: str) -> Tensor:
        query, key, value = (source[f"{name}.{kind}"] for name in names)
        return torch.cat((self._reorder(query), self._reorder(key), value))

    def _reorder(self, projection: Tensor) -> Tensor:
        """Put rotation pairs side by side in every head. Scores q . k do not change by it."""
        heads = projection.view(-1, self.shape.head_dim, *projection.shape[1:])
        return heads[:, self._pairs].reshape(projection.shape)

    def _qk_norm(self, source: _Source, prefix: str) -> Tensor | None:
        if prefix + "q_norm.weight" not in source:
            return None
        counts = ("q", self.shape.heads), ("k", self.shape.kv_heads)
        parts = [source[f"{prefix}{p}_norm.weight"][self._pairs].expand(n, -1) for p, n in counts]
        return torch.cat(parts).float()


def _linear(source: _Source, *names: str) -> Linear:
    """One layer that computes all of `names` on the same input."""
    weight = torch.cat([source[f"{name}.weight"] for name in names])
    if f"{names[0]}.bias" not in source:
        return Linear(weight)
    return Linear(weight, torch.cat([source[f"{name}.bias"] for name in names]))
