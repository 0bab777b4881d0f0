"""Kuhn poker and its exact theory: `palestra/KuhnPoker-v0`."""

from .environment import (
    CARDS,
    DEALS,
    FIRST,
    INFO_SETS,
    SEATS,
    SECOND,
    VALUE,
    KuhnPoker,
    Policy,
    best_response,
    equilibrium,
    exploitability,
    legal,
    payoff,
    prompt,
    value,
)

__all__ = [
    "CARDS",
    "DEALS",
    "FIRST",
    "INFO_SETS",
    "SEATS",
    "SECOND",
    "VALUE",
    "KuhnPoker",
    "Policy",
    "best_response",
    "equilibrium",
    "exploitability",
    "legal",
    "payoff",
    "prompt",
    "value",
]
