"""Difficulty that follows the agent: controllers that choose the level of the next task.

A controller is told, after each group, which level was played and what it earned, and is
asked for the level of the next task. Whatever it remembers is in `state_dict`, so that a
resumed run goes on where it stopped. Evaluation never goes through a controller.
"""

from .acceptance import Acceptance, accept
from .base import Controller, Feedback
from .controllers import (
    CONTROLLERS,
    TARGETS,
    AdaRFT,
    Bandit,
    Bands,
    Replay,
    Window,
    controller_class,
    make_controller,
)

__all__ = [
    "CONTROLLERS",
    "TARGETS",
    "Acceptance",
    "AdaRFT",
    "Bandit",
    "Bands",
    "Controller",
    "Feedback",
    "Replay",
    "Window",
    "accept",
    "controller_class",
    "make_controller",
]
