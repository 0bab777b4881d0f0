"""Score an answer with the scorer of the reasoning-gym family that posed the task."""

from .datasets import HASH_SEEDED, WHOLE_SETS, family_dataset
from .inside import decode, encode
from .scoring import LIMITS, ascore_reasoning, score_reasoning, scoring_sandbox

__all__ = [
    "HASH_SEEDED",
    "LIMITS",
    "WHOLE_SETS",
    "ascore_reasoning",
    "decode",
    "encode",
    "family_dataset",
    "score_reasoning",
    "scoring_sandbox",
]
