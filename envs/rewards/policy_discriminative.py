"""Policy-discriminative rewards after POLAR (arXiv 2507.05197), as a scoring interface.

A model is pre-trained to tell whether two trajectories came from the same policy, then
fine-tuned on ranked triples; as a reward it says how close a candidate is to a reference,
relative to it: higher is closer, and the number means nothing on its own (the authors' example:
-0.57 for an equal answer, -11.03 for a wrong one). Its training is the learner's affair.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..types import Invalid, Task
from .judge import question_of
from .protocol import JudgeError, Messages
from .splicing import TextCodec

# Texts as `PolarFormat` makes them -> one score each.
PairScores = Callable[[Sequence[str]], Awaitable[Sequence[float]]]


@dataclass(frozen=True, slots=True)
class PolarFormat:
    """How POLAR's released models are asked: prompt and reference, a separator, prompt and
    candidate, an end token; the score is read at the end.

    Lengths are in tokens of `codec`. Answers over `max_response` lose their beginning (as in
    the client that XTuner ships; `cut="right"` keeps it and drops the end), then prompts lose
    theirs until the whole fits `max_length`.
    """

    codec: TextCodec
    separator: str = "<|reward|>"
    end: str = "[UNUSED_TOKEN_130]"
    max_length: int = 16384
    max_response: int = 4096
    cut: Literal["left", "right"] = "left"

    def __call__(self, prompt: str, reference: str, candidate: str) -> str:
        """One text for the model. The separator and the end token are taken out of what
        users and policies wrote."""
        prompt, reference, candidate = map(self._inert, (prompt, reference, candidate))
        first, second = self._ids(reference), self._ids(candidate)
        first, second = self._cut(first), self._cut(second)
        room = (self.max_length - 4 - len(first) - len(second)) // 2
        ids = self._ids(prompt)
        ids = ids[max(0, len(ids) - max(0, room)) :]
        asked, one, other = (self.codec.decode(part) for part in (ids, first, second))
        return f"{asked}\n{one}{self.separator}{asked}\n{other}{self.end}"

    def _ids(self, text: str) -> list[int]:
        return self.codec.encode(text, add_special_tokens=False)

    def _cut(self, ids: list[int]) -> list[int]:
        if len(ids) <= self.max_response:
            return ids
        return ids[-self.max_response :] if self.cut == "left" else ids[: self.max_response]

    def _inert(self, text: str) -> str:
        for token in (self.separator, self.end):
            while token in text:
                text = text.replace(token, "")
        return text


class PolicyDiscriminative:
    """A reward: how close the final answer is to `task.reference`. Unbounded; use it within a
    group, or with weights that fit its scale.

    Args:
        answer_of: what of an assistant turn is compared.
    """

    def __init__(
        self,
        scores: PairScores,
        form: PolarFormat,
        *,
        answer_of: Callable[[str], str] = str,
    ) -> None:
        self.scores, self.form, self.answer_of = scores, form, answer_of

    async def __call__(self, task: Task, messages: Messages) -> float | Invalid:
        if not task.reference:
            return Invalid("verifier", f"task {task.id!r} has no reference to compare with")
        prompt = question_of(task, messages, self.answer_of)
        text = self.form(prompt, task.reference, self.answer_of(messages[-1].content))
        try:
            (score,) = await self.scores([text])
        except JudgeError as error:
            return Invalid("judge", str(error))
        except Exception as error:  # noqa: BLE001 - the reward boundary: any model may be behind
            return Invalid("judge", f"{type(error).__name__}: {error}")
        return float(score) if math.isfinite(score) else Invalid("judge", f"the score is {score}")


def bradley_terry_loss(better: Sequence[float], worse: Sequence[float]) -> float:
    """mean -log sigmoid(r_better - r_worse): POLAR's loss, for pairs of the same policy against
    pairs of two in pre-training, and for ranked triples after."""
    gaps = [w - b for b, w in zip(better, worse, strict=True)]
    return math.fsum(max(0.0, gap) + math.log1p(math.exp(-abs(gap))) for gap in gaps) / len(gaps)


@dataclass(frozen=True, slots=True)
class PolicyPair:
    """Pre-training data: three answers to one prompt, the first two of the same policy."""

    prompt: str
    reference: str
    same: str
    other: str


def policy_pairs(answers: Sequence[tuple[str, Sequence[Sequence[str]]]]) -> list[PolicyPair]:
    """Every comparison "same policy above another" that sampled answers allow.

    Symmetric by construction: each ordered pair of policies, and within a policy each ordered
    pair of its answers, comes equally often, so neither a policy nor a place gives the label
    away. Comparisons whose two candidates are the same text are left out: nothing tells them
    apart.

    Args:
        answers: per prompt, for each policy (in the same order) its sampled answers.
    """
    return [
        PolicyPair(prompt, reference, same, other)
        for prompt, policies in answers
        for a, mine in enumerate(policies)
        for i, reference in enumerate(mine)
        for j, same in enumerate(mine)
        if i != j
        for b, theirs in enumerate(policies)
        if a != b
        for other in theirs
        if other != same
    ]
