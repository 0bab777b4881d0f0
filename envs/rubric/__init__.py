"""Self-rubric grading after Kimi K2: `palestra/Rubric-v0`."""

from .critics import ProgramCritic, compared_by_items
from .environment import Rubric
from .report import CriticReport, critic_report, critic_triples

__all__ = [
    "CriticReport",
    "ProgramCritic",
    "Rubric",
    "compared_by_items",
    "critic_report",
    "critic_triples",
]
