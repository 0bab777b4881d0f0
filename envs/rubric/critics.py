"""Critics: who says how far an item is met, and which of two answers is better.

A critic is an `ItemCheck` or a `Compare` of the reward library. `ProgramCritic` needs no model;
`by_judge`, `by_probability`, `compared_by_judge` and `compared_by_probability` make critics of
a model, which may be the policy itself (`palestra.agents.users.EngineChat`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from ...sandbox import Limits, Sandbox, shared_sandbox
from ..rewards.endpoint import Model, ScoringModel, chat_model
from ..rewards.judge import Judge
from ..rewards.rubric import (
    ITEM,
    Item,
    ItemCheck,
    by_judge,
    by_probability,
    explicit_score,
    verified,
)
from ..rewards.tournament import PAIR, Compare, compared_by_judge, compared_by_probability
from ..types import Invalid
from .checks import MAX_CHARS, CodeItem


class ProgramCritic:
    """An `ItemCheck` that runs each item's own program; an item without one is invalid.

    Code that fails on an answer, or takes too long, is not met: an agent must not choose to be
    invalid. It is invalid where the task's own reference makes it fail too (without a
    reference, where it defines no `check`), or where the sandbox is lost.

    Args:
        limits: for items checked by code, each in a session of its own.
        sandbox: where that runs (default: one local sandbox shared by the process).
    """

    def __init__(self, *, limits: Limits | None = None, sandbox: Sandbox | None = None) -> None:
        self.limits = limits or Limits(wall_s=5.0, cpu_s=5.0)
        self.sandbox = sandbox

    async def __call__(self, item: Item, question: str, answer: str) -> float | Invalid:
        if item.verify is not None:
            return await verified(item.verify, answer)
        if isinstance(item, CodeItem):
            return await self._met(item, answer)
        return Invalid("judge", f"no program checks {item.text!r}: give a critic that reads")

    async def _met(self, item: CodeItem, answer: str) -> float | Invalid:
        if len(answer) > MAX_CHARS:
            return 0.0
        # The answer goes in as a literal: it is data and cannot become code.
        met = await self._run(f"{item.code}\n\nbool(check({answer!r}))")
        if isinstance(met, bool):
            return float(met)
        known = f"bool(check({item.reference!r}))" if item.reference else "callable(check) or None"
        sound = await self._run(f"{item.code}\n\n{known}")
        return 0.0 if isinstance(sound, bool) else sound

    async def _run(self, code: str) -> bool | Invalid:
        """The truth that the code ends with, in a session of its own."""
        self.sandbox = self.sandbox or shared_sandbox()  # held, or each check would start one
        session = await self.sandbox.aopen(self.limits, seed=0)
        try:
            ran = await session.arun(code)
        finally:
            await session.aclose()
        if ran.ok and ran.value in ("True", "False"):
            return ran.value == "True"
        said = ran.stderr.strip()[-200:] or ran.value
        return Invalid("verifier", f"{ran.status.value}, no True or False: {said}")


async def check_items(
    items: Sequence[Item], check: ItemCheck, question: str, answer: str
) -> list[float] | Invalid:
    """How far each item is met, in [0, 1]; invalid if one has no verdict."""
    values = await asyncio.gather(*(_one(item, check, question, answer) for item in items))
    met: list[float] = []
    for item, value in zip(items, values, strict=True):
        if isinstance(value, Invalid):
            return Invalid(value.kind, f"{item.name}: {value.message}")
        met.append(value)
    return met


def item_check(critic: ItemCheck | Model | None) -> ItemCheck:
    """The critic that a setting stands for; a model is asked for probabilities where it can."""
    model = chat_model(critic)
    if model is None:
        return cast("ItemCheck | None", critic) or ProgramCritic()
    if hasattr(model, "verdicts"):
        return by_probability(cast(ScoringModel, model).verdicts())
    return by_judge(Judge(model, ITEM))


def comparison(compare: Compare | Model | None) -> Compare | None:
    """The same for comparisons; None for None."""
    model = chat_model(compare)
    if model is None:
        return cast("Compare | None", compare)
    if hasattr(model, "verdicts"):
        return compared_by_probability(cast(ScoringModel, model).verdicts())
    return compared_by_judge(Judge(model, PAIR))


def compared_by_items(items: Sequence[Item], check: ItemCheck) -> Compare:
    """Comparisons by the explicit scores of two answers: (1 + s_first - s_second) / 2."""

    async def compare(question: str, first: str, second: str) -> float | Invalid:
        scores = []
        for answer in (first, second):
            met = await check_items(items, check, question, answer)
            if isinstance(met, Invalid):
                return met
            scores.append(explicit_score(items, met))
        return (1 + scores[0] - scores[1]) / 2

    return compare


async def _one(item: Item, check: ItemCheck, question: str, answer: str) -> float | Invalid:
    if item.verify is not None:
        return await verified(item.verify, answer)
    return await check(item, question, answer)
