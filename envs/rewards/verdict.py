"""Verdicts read from the probabilities of the verdict tokens, instead of from sampled text.

A judge that is asked for "Yes" or "No" holds a probability for each; their share is a graded
verdict without sampling noise, for the price of a prefill. An engine gives it exactly
(`by_scoring`), an endpoint for the likeliest first tokens (`by_first_token`).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ..episode import Grade
from ..types import Invalid, Message, Task
from .endpoint import ChatModel
from .judge import JudgePrompt, question_of
from .protocol import JudgeError, Messages, TokenLogprobs

# (conversation that ends with the question, K verdicts) -> [K] log P(verdict | conversation).
VerdictLogprobs = Callable[[Sequence[Message], Sequence[str]], Awaitable[Sequence[float] | Invalid]]


def by_scoring(
    logprobs: TokenLogprobs,
    render: Callable[[Sequence[Message]], Sequence[int]],
    encode: Callable[[str], Sequence[int]],
    *,
    end: Sequence[int] = (),
) -> VerdictLogprobs:
    """Verdict log-probabilities by scoring each verdict after the conversation: exact.

    Args:
        logprobs: an engine's.
        render: a conversation as the ids after which the model would answer.
        encode: a verdict as ids, without special tokens.
        end: ids that end a turn; appended, they tell "1" from the beginning of "10".
    """

    async def score(messages: Sequence[Message], verdicts: Sequence[str]) -> Sequence[float]:
        prompt = list(render(messages))
        options = [[*encode(verdict), *end] for verdict in verdicts]
        _refuse_prefixes(verdicts, options)
        return [math.fsum((await logprobs(prompt + o))[len(prompt) - 1 :]) for o in options]

    return score


def _refuse_prefixes(verdicts: Sequence[str], options: Sequence[Sequence[int]]) -> None:
    for a, one in zip(verdicts, options, strict=True):
        for b, other in zip(verdicts, options, strict=True):
            if one is not other and list(other[: len(one)]) == list(one):
                raise ValueError(
                    f"verdict {a!r} begins as {b!r} does, so its probability holds the other's: "
                    f"give the end-of-turn ids as end="
                )


def by_first_token(
    model: ChatModel, *, top_logprobs: int = 20, min_mass: float = 0.5
) -> VerdictLogprobs:
    """Verdict log-probabilities from the likeliest first tokens of a model's answer.

    A token counts for the one verdict that begins with it, white space and case aside; one
    that fits several counts for none. Where less than `min_mass` of probability fits a
    verdict, the judge was saying something else: `Invalid("judge")`.
    """

    async def score(
        messages: Sequence[Message], verdicts: Sequence[str]
    ) -> Sequence[float] | Invalid:
        try:
            reply = await model.complete(messages, top_logprobs=top_logprobs)
        except JudgeError as error:
            return Invalid("judge", str(error))
        masses = [0.0] * len(verdicts)
        for token, logprob in reply.first_token.items():
            start = token.strip().casefold()
            fits = [i for i, v in enumerate(verdicts) if start and v.casefold().startswith(start)]
            if len(fits) == 1:
                masses[fits[0]] += math.exp(logprob)
        if sum(masses) < min_mass:
            return Invalid("judge", f"only {sum(masses):.3f} of probability is on {verdicts}")
        return [math.log(mass) if mass > 0 else -math.inf for mass in masses]

    return score


def verdict_probabilities(logprobs: Sequence[float]) -> list[float]:
    """Log-probabilities renormalised over the verdicts: exp(l_k) / sum_j exp(l_j).

    Raises:
        ValueError: there are none, or none is finite.
    """
    top = max(logprobs, default=-math.inf)
    if not math.isfinite(top):
        raise ValueError(f"no verdict has a probability: got log-probabilities {list(logprobs)}")
    shares = [math.exp(value - top) for value in logprobs]
    total = math.fsum(shares)
    return [share / total for share in shares]


async def expected_score(
    ask: VerdictLogprobs, messages: Sequence[Message], values: Mapping[str, float]
) -> float | Invalid:
    """The mean value of a verdict, sum_k p_k v_k (G-Eval, arXiv 2303.16634, eq. 1)."""
    logprobs = await ask(messages, list(values))
    if isinstance(logprobs, Invalid):
        return logprobs
    try:
        shares = verdict_probabilities(logprobs)
    except ValueError as error:
        return Invalid("judge", str(error))
    return math.fsum(p * value for p, value in zip(shares, values.values(), strict=True))


def expected_verdict(
    ask: VerdictLogprobs,
    prompt: JudgePrompt,
    values: Mapping[str, float],
    *,
    answer_of: Callable[[str], str] = str,
) -> Callable[[Task, Messages], Awaitable[Grade | Invalid]]:
    """A reward: the expected value of the verdict on the final answer.

    Example: `expected_verdict(ask, prompt, {"Yes": 1.0, "No": 0.0})` pays P(Yes) among the two.
    """

    async def reward(task: Task, messages: Messages) -> Grade | Invalid:
        question = prompt.messages(
            question=question_of(task, messages, answer_of),
            answer=answer_of(messages[-1].content),
            reference=task.reference,
        )
        score = await expected_score(ask, question, values)
        return score if isinstance(score, Invalid) else Grade(score)

    return reward
