"""Put the named parts of a reward together: by weight, or behind a gate.

    total = gated("format", weighted({"answer": 1.0, "brevity": 0.1}))
    total({"format": 1.0, "answer": 1.0, "brevity": 0.5})  # 1.05

A part that is `Invalid` makes the whole invalid: there is no reward to speak of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..types import Invalid

Parts = Mapping[str, float | Invalid]
Composition = Callable[[Parts], float | Invalid]


def first_invalid(parts: Parts) -> Invalid | None:
    """The first part that is invalid, if one is."""
    return next((part for part in parts.values() if isinstance(part, Invalid)), None)


def _part(parts: Parts, name: str) -> float:
    value = parts.get(name)
    if value is None or isinstance(value, Invalid):
        raise ValueError(f"the reward needs a part {name!r}, but got {sorted(parts)}")
    return value


@dataclass(frozen=True)
class Weighted:
    """The sum of weight times part. Parts without a weight are recorded, not counted."""

    weights: Mapping[str, float]

    def __call__(self, parts: Parts) -> float | Invalid:
        if (invalid := first_invalid(parts)) is not None:
            return invalid
        return sum(weight * _part(parts, name) for name, weight in self.weights.items())


@dataclass(frozen=True)
class Gated:
    """`inner` where part `gate` is at least `threshold`, else `otherwise`."""

    gate: str
    inner: Composition
    threshold: float = 1.0
    otherwise: float = 0.0

    def __call__(self, parts: Parts) -> float | Invalid:
        if (invalid := first_invalid(parts)) is not None:
            return invalid
        return self.inner(parts) if _part(parts, self.gate) >= self.threshold else self.otherwise


def weighted(weights: Mapping[str, float]) -> Weighted:
    """A weighted sum, e.g. `weighted({"answer": 1.0, "format": 0.1})`.

    Raises:
        ValueError: there are no weights. Calling the result raises it for a missing part.
    """
    if not weights:
        raise ValueError('expected at least one weight, e.g. weighted({"answer": 1.0})')
    return Weighted(dict(weights))


def gated(
    gate: str, inner: Composition, *, threshold: float = 1.0, otherwise: float = 0.0
) -> Gated:
    """`inner`, paid only where the part `gate` reaches `threshold`."""
    return Gated(gate, inner, threshold, otherwise)
