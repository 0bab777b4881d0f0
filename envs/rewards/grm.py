"""Generative reward models after DeepSeek-GRM (arXiv 2504.02495): principles, critique, scores.

For a query and n answers the model writes principles with weights, a critique by them, and a
whole score from 1 to 10 for each answer. More compute makes it better: k votes are sampled, each
with the answers in another order, and added up,

    S_i* = sum_k S_{i,k},

where a meta reward model may first keep the k_meta = k / 2 votes whose critique it trusts most.
A vote that does not parse is dropped; without a single one the verdict is `Invalid("judge")`.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ..episode import Grade
from ..types import Group, Invalid, Task
from .cache import Cache, Memo, content_key
from .endpoint import ChatModel
from .extraction import last_boxed
from .group import GroupReward, Values, final_text
from .judge import QUALITY, JudgePrompt, question_of, transcript
from .protocol import JudgeError, Messages

LOW, HIGH = 1, 10

GRM = JudgePrompt(
    name="grm",
    version="1",
    system=QUALITY.system,
    template="""\
Grade the answers to this query, in three steps.
1. Principles: what a good answer to this very query must do, each point with a weight in percent.
2. Critique: hold each answer against these points.
3. Scores: a whole number from 1 (worst) to 10 (best) for each answer, in the order given.

<query-$mark>
$question
</query-$mark>

$answers
End with one line and nothing after it, with $count numbers:
Scores: \\boxed{$example}""",
    low=LOW,
    high=HIGH,
)


@dataclass(frozen=True, slots=True)
class Vote:
    """One sampled judgement. `scores` are in the order of the answers, `order` is that in which
    they were shown: place p held answer `order[p]`."""

    scores: tuple[int, ...]
    order: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class GrmVerdict:
    """The votes on n answers.

    Attributes:
        totals: S_i*, over the votes that were kept.
        kept: those votes; `dropped` did not parse, `filtered` the meta reward model left out.
    """

    totals: tuple[int, ...]
    kept: tuple[Vote, ...]
    dropped: int = 0
    filtered: int = 0

    @property
    def rewards(self) -> tuple[float, ...]:
        """Mean score of each answer, / 10: in [0.1, 1]."""
        return tuple(total / len(self.kept) / HIGH for total in self.totals)


# (question, answers in the order they were shown, principles and critique) -> trust.
MetaScore = Callable[[str, Sequence[str], str], Awaitable[float | Invalid]]


def parse_scores(text: str, count: int) -> tuple[int, ...] | None:
    """The whole numbers 1..10 in the last box of a judgement, or None unless there are `count`."""
    found = last_boxed(text.rpartition("</think>")[2])
    if found is None or not re.fullmatch(r"\s*\d{1,2}(\s*,\s*\d{1,2})*\s*", found):
        return None
    scores = tuple(int(number) for number in found.split(","))
    fits = len(scores) == count and all(LOW <= score <= HIGH for score in scores)
    return scores if fits else None


def add_votes(votes: Sequence[Vote]) -> tuple[int, ...]:
    """S_i* = sum_k S_{i,k}."""
    return tuple(map(sum, zip(*(vote.scores for vote in votes), strict=True)))


def spct_reward(scores: Sequence[int], best: int, *, label: int | None = None) -> float:
    """The rule that trains such a model (SPCT): +1 where its scores are right, else -1.

    Right is a labelled best answer strictly above all others, or, for an only answer, the
    score that it is labelled with.
    """
    if len(scores) == 1:
        return 1.0 if scores[0] == label else -1.0
    others = [score for i, score in enumerate(scores) if i != best]
    return 1.0 if scores[best] > max(others) else -1.0


class GenerativeRewardModel:
    """A reward, and with `grm_scores` a group reward, by k votes of a generative model.

    Args:
        votes: k. The model must sample (temperature above 0) for more than one to say more.
        meta: trust in a judgement; the better half of the votes is kept.
        answer_of: what of an assistant turn is judged.
        cache: of votes by content.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        votes: int = 1,
        meta: MetaScore | None = None,
        prompt: JudgePrompt = GRM,
        answer_of: Callable[[str], str] = str,
        cache: Cache | None = None,
    ) -> None:
        if votes < 1:
            raise ValueError(f"votes must be at least 1, got {votes}")
        self.model, self.votes, self.meta, self.prompt = model, votes, meta, prompt
        self.answer_of = answer_of
        self.memo = Memo(cache)

    async def __call__(self, task: Task, messages: Messages) -> Grade | Invalid:
        """Judge one answer on its own."""
        question = question_of(task, messages, self.answer_of)
        verdict = await self.judge(question, [self.answer_of(messages[-1].content)])
        if isinstance(verdict, Invalid):
            return verdict
        parts = {"votes": float(len(verdict.kept)), "dropped": float(verdict.dropped)}
        return Grade(verdict.rewards[0], parts)

    async def judge(self, question: str, answers: Sequence[str]) -> GrmVerdict | Invalid:
        """Judge answers to one query beside each other.

        Raises:
            ValueError: there are no answers.
        """
        if not answers:
            raise ValueError("there is nothing to judge: no answers were given")
        found = await asyncio.gather(
            *(self._vote(question, answers, number) for number in range(self.votes))
        )
        votes = [vote for vote in found if isinstance(vote, Vote)]
        if not votes:
            return next(vote for vote in found if isinstance(vote, Invalid))
        kept = await self._trusted(question, answers, votes) if self.meta else votes
        if isinstance(kept, Invalid):
            return kept
        return GrmVerdict(
            add_votes(kept), tuple(kept), len(found) - len(votes), len(votes) - len(kept)
        )

    async def _vote(self, question: str, answers: Sequence[str], number: int) -> Vote | Invalid:
        key = content_key(
            kind="grm",
            model=dict(self.model.identity),
            prompt=self.prompt.id,
            question=question,
            answers=list(answers),
            vote=number,
        )
        order = list(range(len(answers)))
        random.Random(key).shuffle(order)
        shown = [answers[i] for i in order]
        text = await self.memo(key, lambda: self._judgement(question, shown, number))
        if isinstance(text, Invalid):
            return text
        by_answer = dict(zip(order, parse_scores(text, len(order)) or (), strict=True))
        scores = tuple(by_answer[i] for i in range(len(answers)))
        return Vote(scores, tuple(order), text)

    async def _judgement(self, question: str, shown: Sequence[str], number: int) -> str | Invalid:
        """The text of one judgement; it parses."""
        try:
            reply = await self.model.complete(self._ask(question, shown), sample=number)
        except JudgeError as error:
            return Invalid("judge", str(error))
        if not reply.finished or parse_scores(reply.text, len(shown)) is None:
            wanted = f"{len(shown)} whole numbers in 1..10"
            return Invalid("judge", f"expected {wanted} in a box, in {reply.text[-200:]!r}")
        return reply.text

    def _ask(self, question: str, shown: Sequence[str]) -> Messages:
        mark = content_key(question=question, shown=list(shown))[:12]
        blocks = [
            f"<answer-{number}-{mark}>\n{answer}\n</answer-{number}-{mark}>\n"
            for number, answer in enumerate(shown, 1)
        ]
        example = ", ".join("N" * len(shown))
        return self.prompt.messages(
            question=question, answers="\n".join(blocks), count=str(len(shown)), example=example
        )

    async def _trusted(
        self, question: str, answers: Sequence[str], votes: Sequence[Vote]
    ) -> list[Vote] | Invalid:
        assert self.meta is not None
        trust = await asyncio.gather(
            *(self.meta(question, [answers[i] for i in v.order], v.text) for v in votes)
        )
        ranked: list[tuple[float, int]] = []
        for number, value in enumerate(trust):
            if isinstance(value, Invalid):
                return value
            ranked.append((-value, number))
        keep = sorted(number for _, number in sorted(ranked)[: max(1, len(votes) // 2)])
        return [votes[number] for number in keep]


def grm_scores(model: GenerativeRewardModel) -> GroupReward:
    """A group reward: the members' final answers judged beside each other."""

    async def reward(group: Group) -> Values:
        members = group.valid
        if not members:
            return [None] * len(group.trajectories)
        answers = [model.answer_of(final_text(t)) for t in members]
        verdict = await model.judge(transcript(group.task.prompt), answers)
        values: Sequence[float | Invalid]
        values = [verdict] * len(members) if isinstance(verdict, Invalid) else verdict.rewards
        left = iter(values)
        return [None if t.reward is None else next(left) for t in group.trajectories]

    return reward
