"""Answers compared in pairs, both orders judged, and the outcomes made into numbers.

Kimi K2 (arXiv 2507.20534) ranks the policy's own answers by pairwise self-judgement, but does
not publish how the outcomes become rewards. The choices here are ours: the win rate over the
opponents met (a Copeland or Borda score), or Bradley-Terry strengths.

Judges favour a position. Each pair is judged in both orders, which cancels a constant bias
exactly, and how often the two orders disagree is reported.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ..types import Invalid
from .judge import QUALITY, Judge, JudgePrompt
from .verdict import VerdictLogprobs, expected_score

Floats = NDArray[np.float64]

# (question, first answer, second answer) -> how far the first is better, in [0, 1].
Compare = Callable[[str, str, str], Awaitable[float | Invalid]]

TIE = 1e-9  # nearer to 1/2 than that names no winner: probabilities carry rounding errors
CRITERIA = "correctness, then helpfulness"

_SHOWN = """\
<conversation-$mark>
$question
</conversation-$mark>

<answer-A-$mark>
$first
</answer-A-$mark>

<answer-B-$mark>
$second
</answer-B-$mark>

"""

PAIR = JudgePrompt(
    name="pair",
    version="1",
    system=QUALITY.system,
    template="Which answer is better? Judge by these criteria: $criteria\n\n"
    + _SHOWN
    + "End with one line of JSON and nothing after it: 1 if A is better, 0 if B is, 0.5 if they "
    'are equal:\n{"score": N}',
    high=1.0,
)

PAIR_TOKEN = JudgePrompt(
    name="pair-token",
    version="1",
    system=QUALITY.system,
    template="Which answer is better? Judge by these criteria: $criteria\n\n"
    + _SHOWN
    + "Reply with one letter, A or B.",
    high=1.0,
)


def compared_by_judge(judge: Judge, criteria: str = CRITERIA) -> Compare:
    """Comparisons from a judge's generated JSON; its prompt should be `PAIR`."""

    async def compare(question: str, first: str, second: str) -> float | Invalid:
        verdict = await judge.verdict(
            question=question, first=first, second=second, criteria=criteria
        )
        return verdict if isinstance(verdict, Invalid) else verdict.score

    return compare


def compared_by_probability(
    ask: VerdictLogprobs,
    criteria: str = CRITERIA,
    prompt: JudgePrompt = PAIR_TOKEN,
) -> Compare:
    """Comparisons by P(A) / (P(A) + P(B))."""

    async def compare(question: str, first: str, second: str) -> float | Invalid:
        messages = prompt.messages(question=question, first=first, second=second, criteria=criteria)
        return await expected_score(ask, messages, {"A": 1.0, "B": 0.0})

    return compare


@dataclass(frozen=True, slots=True)
class Comparison:
    """One pair, judged in both orders.

    Attributes:
        value: how far the first is better, in [0, 1]: (p + 1 - q) / 2 with p from the order
            (first, second) and q from (second, first).
        position_bias: p + q - 1, how far the place shown first is favoured, in [-1, 1].
        consistent: both orders name the same winner, or both a tie.
    """

    value: float
    position_bias: float
    consistent: bool


async def compare_both_orders(
    compare: Compare, question: str, first: str, second: str
) -> Comparison | Invalid:
    """Judge one pair in both orders; invalid if either order gives no verdict."""
    p, q = await asyncio.gather(compare(question, first, second), compare(question, second, first))
    if isinstance(p, Invalid):
        return p
    if isinstance(q, Invalid):
        return q
    return Comparison((p + 1 - q) / 2, p + q - 1, winner(p) == -winner(q))


def winner(value: float) -> int:
    """Who a comparison's value names: 1 the first, -1 the second, 0 neither."""
    return 0 if abs(value - 0.5) < TIE else 1 if value > 0.5 else -1


@dataclass(frozen=True, slots=True)
class Tournament:
    """The outcome of a tournament of n answers.

    Attributes:
        wins: [n, n] how far i beat j; NaN where the two were not compared.
        win_rates: [n] mean over the opponents met; None for an answer that met none.
        position_bias: mean over the pairs (0 for a judge without).
        inconsistent: share of pairs whose two orders disagree.
        invalid: pairs without a verdict.
    """

    wins: Floats
    win_rates: tuple[float | None, ...]
    position_bias: float
    inconsistent: float
    invalid: int


async def tournament(
    question: str,
    answers: Sequence[str],
    compare: Compare,
    *,
    opponents: int | None = None,
    seed: int = 0,
) -> Tournament:
    """Compare answers in pairs, in both orders, all at once.

    Equal texts are a tie that nobody is asked about.

    Args:
        opponents: None for all against all, n (n - 1) comparisons; else this many or a few
            more on average: neighbours on rings drawn from `seed`, so all are connected.
    """
    pairs = _pairs(len(answers), opponents, seed)
    same = {(i, j) for i, j in pairs if answers[i] == answers[j]}
    asked = [pair for pair in pairs if pair not in same]
    outcomes = await asyncio.gather(
        *(compare_both_orders(compare, question, answers[i], answers[j]) for i, j in asked)
    )
    valid = {p: o for p, o in zip(asked, outcomes, strict=True) if isinstance(o, Comparison)}
    wins = np.full((len(answers), len(answers)), np.nan)
    for i, j in pairs:
        if (i, j) in same or (i, j) in valid:
            wins[i, j] = valid[i, j].value if (i, j) in valid else 0.5
            wins[j, i] = 1 - wins[i, j]
    return Tournament(
        wins,
        tuple(_mean(row) for row in wins),
        _mean(np.array([o.position_bias for o in valid.values()])) or 0.0,
        _mean(np.array([not o.consistent for o in valid.values()], dtype=float)) or 0.0,
        len(asked) - len(valid),
    )


def _pairs(n: int, opponents: int | None, seed: int) -> list[tuple[int, int]]:
    if opponents is None or opponents >= n - 1:
        return list(combinations(range(n), 2))
    if opponents < 1:
        raise ValueError(f"an answer needs at least one opponent, got {opponents}")
    draw, pairs = random.Random(seed), set[tuple[int, int]]()
    while len(pairs) < -(-n * opponents // 2):
        ring = draw.sample(range(n), n)
        pairs |= {(min(a, b), max(a, b)) for a, b in zip(ring, ring[1:] + ring[:1], strict=True)}
    return sorted(pairs)


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def bradley_terry(wins: Floats, *, prior: float = 0.1, tolerance: float = 1e-10) -> Floats:
    """Strengths [n] with mean 0 such that P(i beats j) = sigmoid(s_i - s_j), by maximum
    likelihood with the MM updates of Hunter (2004).

    Args:
        wins: [n, n] wins of i over j, fractions allowed; NaN counts as not compared.
        prior: of a win and a loss each, that every answer has against an imagined average
            one; without it an answer that always wins has no finite strength.

    Raises:
        ValueError: `prior` is 0 and an answer won or lost everything, or it is negative.
    """
    w = np.nan_to_num(wins, nan=0.0)
    np.fill_diagonal(w, 0.0)
    if prior < 0 or (prior == 0 and not (w.sum(axis=0).all() and w.sum(axis=1).all())):
        raise ValueError(f"an answer won or lost everything: give a positive prior, not {prior}")
    games, won = w + w.T, w.sum(axis=1) + prior
    p = np.ones(len(w))
    for _ in range(10_000):
        pulls = (games / (p[:, None] + p[None, :])).sum(axis=1) + 2 * prior / (p + 1)
        updated = won / pulls
        done = np.abs(np.log(updated / p)).max() < tolerance
        p = updated
        if done:
            break
    strengths: Floats = np.log(p) - np.log(p).mean()
    return strengths


async def critic_accuracy(
    compare: Compare, triples: Sequence[tuple[str, str, str]]
) -> Mapping[str, float]:
    """How well a critic tells right from wrong, on verifiable tasks where that is known.

    Args:
        triples: (question, a correct answer, an incorrect one).

    Returns:
        `accuracy` (both orders averaged; a tie counts half), `position_bias`, `inconsistent`,
        and `invalid`, the share of pairs without a verdict; the others are over the rest.

    Raises:
        ValueError: there are no triples, or none got a verdict.
    """
    outcomes = await asyncio.gather(*(compare_both_orders(compare, *t) for t in triples))
    valid = [o for o in outcomes if isinstance(o, Comparison)]
    if not valid:
        raise ValueError(f"the critic gave no verdict on any of {len(triples)} pairs")
    n = len(valid)
    return {
        "accuracy": sum((1 + winner(o.value)) / 2 for o in valid) / n,
        "position_bias": sum(o.position_bias for o in valid) / n,
        "inconsistent": sum(not o.consistent for o in valid) / n,
        "invalid": 1 - n / len(triples),
    }
