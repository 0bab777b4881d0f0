"""Easy programming tasks on an integer, as often as not answered with the wrong operation.

Practice lines translate phrases to expressions, always rightly: the model *knows* the Python for
each phrase. In the form of the task it uses what it knows half of the time. Both hold functions of
the train split only.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np

from ....envs.python_exec.generator import ProgramTasks
from ....envs.python_exec.steps import STEPS, VARIABLES, Step
from .documents import Document, Piece

LEVEL = 1
TASKS = 300  # different ones in the corpus
RIGHT = 0.5  # share of right programs in the form of the task
TASK_EVERY = 3  # one document in so many is a task
EASY = tuple(step for step in STEPS if step.tier == LEVEL and step.source == "int")
EMPHASIS = 5.0  # loss weight of what is copied, so that copying is learnt from few documents
_TOLD = re.compile(r"integer n: (.+)\. Return")


def draw(count: int, rng: np.random.Generator, done: float) -> list[Document]:
    """`count` documents, of which every `TASK_EVERY`-th is a task."""
    return [attempt(rng) if i % TASK_EVERY == 0 else practice(rng) for i in range(count)]


def practice(rng: np.random.Generator) -> Document:
    """A phrase and its expression."""
    step, k = _told(_question(rng))
    return Document(f"{step.phrase.format(k=k)}.", (Piece(expression(step, k), EMPHASIS),))


def attempt(rng: np.random.Generator) -> Document:
    """A task and a program for it, one in `RIGHT` the right one, the others with another step and
    the constant that was asked for."""
    question = _question(rng)
    step, k = _told(question)
    if rng.random() >= RIGHT:
        others = [other for other in EASY if other.choices and other is not step]
        step = others[int(rng.integers(len(others)))]
        k = 2 if k is None else k
    chosen = expression(step, k)
    head = "```python\ndef f(n):\n    return n "
    pieces = (Piece(head), Piece(chosen[2:4]), Piece(chosen[4:], EMPHASIS), Piece("\n```"))
    return Document(question, pieces, long=True)


def expression(step: Step, k: int | None) -> str:
    return step.template.format(v=VARIABLES[step.source], k=k)


def _question(rng: np.random.Generator) -> str:
    return questions()[int(rng.integers(TASKS))]


@cache
def questions() -> tuple[str, ...]:
    """The first tasks of the train split, as they are told."""
    tasks = ProgramTasks(split="train", level=LEVEL, argument="int")
    return tuple(tasks.task(index).question for index in range(TASKS))


def _told(question: str) -> tuple[Step, int | None]:
    """The step that a task asks for and its constant, read off its text."""
    found = _TOLD.search(question)
    assert found is not None
    return _phrases()[found[1]]


@cache
def _phrases() -> dict[str, tuple[Step, int | None]]:
    return {step.phrase.format(k=k): (step, k) for step in EASY for k in step.choices or (None,)}
