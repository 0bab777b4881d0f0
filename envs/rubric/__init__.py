"""Self-rubric grading after Kimi K2: `palestra/Rubric-v0`."""

from .critics import ProgramCritic, compared_by_items
from .environment import Rubric
from .refinement import critic_tasks, critic_triples, write_critic_tasks
from .report import CriticReport, critic_report

__all__ = [
    "CriticReport",
    "ProgramCritic",
    "Rubric",
    "compared_by_items",
    "critic_report",
    "critic_tasks",
    "critic_triples",
    "write_critic_tasks",
]
