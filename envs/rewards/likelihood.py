"""How likely the reference answer becomes after the model's own reasoning: no verifier needed.

With the prompt x, the sampled reasoning z and the reference y*, of log-probabilities l_1..l_n:

VeriFree (arXiv 2505.21493): R = pi(y* | x, z) = exp(sum l_i). Its mean over z is the
    probability of being right, with less variance than sampling an answer; a product, so a
    long reference drives it to 0.
RLPR (arXiv 2506.18254): r = mean exp(l_i), less the same without reasoning,
    clipped to [0, 1].
NOVER (arXiv 2505.16022): PPL = exp(-sum l_i / (n N)) with N = max(1, 1 + log10 |z|), and only
    its rank in the group counts.

All of them pay confidence where the reference can be guessed without z: look at r(z) - r()
(`gains`) and at the correlation of reward and accuracy before trusting them.

What is scored are the ids of `splicing.py`, which tells of the tokenisation trap.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ..types import Group, Invalid, Outcome, Trajectory
from .format import has_tags_in_order
from .group import GroupReward, Values, final_text, rank_shares
from .protocol import TokenLogprobs
from .splicing import Splice, Spliced, TextCodec


def verifree(logprobs: Sequence[float]) -> float:
    """exp(sum l_i), in [0, 1].

    Raises:
        ValueError: there are no tokens (the empty product would pay 1).
    """
    if not logprobs:
        raise ValueError("the probability of a reference needs at least one token")
    return math.exp(math.fsum(logprobs))


def rlpr(logprobs: Sequence[float]) -> float:
    """mean exp(l_i), in [0, 1].

    Raises:
        ValueError: there are no tokens.
    """
    if not logprobs:
        raise ValueError("the mean probability of a reference needs at least one token")
    return math.fsum(map(math.exp, logprobs)) / len(logprobs)


def rlpr_debiased(with_reasoning: float, without: float) -> float:
    """clip(r - r', 0, 1), r' being the same mean probability without any reasoning."""
    return min(1.0, max(0.0, with_reasoning - without))


def nover_perplexity(logprobs: Sequence[float], reasoning_tokens: int) -> float:
    """exp(-sum l_i / (n N)), N = max(1, 1 + log10 of the number of reasoning tokens).

    Raises:
        ValueError: there are no tokens.
    """
    if not logprobs:
        raise ValueError("the perplexity of a reference needs at least one token")
    scale = max(1.0, 1 + math.log10(max(1, reasoning_tokens)))
    mean = -math.fsum(logprobs) / len(logprobs) / scale
    return math.exp(mean) if mean < 700 else math.inf


def nover_rewards(
    perplexities: Sequence[float | None],
    lengths: Sequence[int],
    *,
    format_weight: float = 1.0,
    reasoning_weight: float = 1.0,
    efficiency_weight: float = 1.0,
) -> list[float]:
    """NOVER's reward of each answer: R = w_f R_f + 1[R_f = 1] (w_r R_r + w_e R_e).

    R_r is the rank share of the perplexity, lowest first; R_e the share of the other
    well-formed answers that are both longer and of higher perplexity.

    Args:
        perplexities: None for an answer that breaks the format (R_f = 0).
        lengths: of the reasoning, in tokens.
    """
    formed = [i for i, ppl in enumerate(perplexities) if ppl is not None]
    values = [ppl for ppl in perplexities if ppl is not None]
    shares = rank_shares(values, descending=False)
    rewards = [0.0] * len(perplexities)
    for k, i in enumerate(formed):
        worse = sum(lengths[i] < lengths[j] and values[k] < values[m] for m, j in enumerate(formed))
        efficiency = worse / (len(formed) - 1) if len(formed) > 1 else 0.0
        rewards[i] = format_weight + reasoning_weight * shares[k] + efficiency_weight * efficiency
    return rewards


Measure = Callable[[Sequence[float]], float]
NOVER_SPLICE = Splice("</think", ">\n\n<answer>\n$reference\n</answer>")


@dataclass(frozen=True, slots=True)
class _Scored:
    """Log-probabilities of the reference, and the tokens of reasoning before it."""

    logprobs: list[float]
    reasoning_tokens: int


def reference_likelihood(
    logprobs: TokenLogprobs,
    codec: TextCodec,
    *,
    measure: Measure = verifree,
    splice: Splice | None = None,
    debias: bool = False,
    opening: str = "",
) -> GroupReward:
    """A group reward: the measure of the reference after each member's own reasoning.

    A member that was cut off or has no marker gets 0: it never came to an answer. A lost
    engine is `Invalid("engine")`, a reference without a token `Invalid("verifier")`.

    Args:
        logprobs: the policy's, at the temperature it samples with (VeriFree), or a proxy's.
        measure: `verifree` or `rlpr`.
        splice: default VeriFree's; RLPR scores with `Splice(only_reference=True)`.
        debias: subtract the measure without reasoning, clipped to [0, 1] (RLPR).
        opening: what stands before the marker where there is no reasoning.
    """
    cut = splice or Splice()

    async def values(group: Group) -> list[float]:
        scored = await _score_members(group, cut, logprobs, codec)
        found = [0.0 if s is None else measure(s.logprobs) for s in scored]
        if not debias:
            return found
        base = measure(await _without_reasoning(group, cut, logprobs, codec, opening))
        return [rlpr_debiased(value, base) for value in found]

    return _group_reward(values)


def nover(
    logprobs: TokenLogprobs, codec: TextCodec, *, splice: Splice = NOVER_SPLICE
) -> GroupReward:
    """A group reward: `nover_rewards` with a proxy's perplexities.

    The proxy should be a copy of the policy that follows it slowly: NOVER's is updated every
    100 steps to 0.9 of itself and 0.1 of the policy. A proxy that is never synchronised, or is of
    another size, rewards other things than better reasoning.
    """

    async def values(group: Group) -> list[float]:
        scored = await _score_members(group, splice, logprobs, codec)
        formed = [
            s if has_tags_in_order(final_text(t), ("think", "answer")) else None
            for t, s in zip(group.valid, scored, strict=True)
        ]
        return nover_rewards(
            [
                None if s is None else nover_perplexity(s.logprobs, s.reasoning_tokens)
                for s in formed
            ],
            [0 if s is None else s.reasoning_tokens for s in formed],
        )

    return _group_reward(values)


async def gains(
    group: Group,
    logprobs: TokenLogprobs,
    codec: TextCodec,
    *,
    measure: Measure = rlpr,
    splice: Splice | None = None,
    opening: str = "",
) -> list[float | None]:
    """r(z) - r() of each valid member, unclipped: what its reasoning added; None for a member
    without an answer."""
    cut = splice or Splice()
    scored = await _score_members(group, cut, logprobs, codec)
    base = measure(await _without_reasoning(group, cut, logprobs, codec, opening))
    return [None if s is None else measure(s.logprobs) - base for s in scored]


def _group_reward(values: Callable[[Group], Awaitable[list[float]]]) -> GroupReward:
    """Values of the valid members as a group reward; an engine that fails makes all invalid."""

    async def reward(group: Group) -> Values:
        found: Sequence[float | Invalid]
        try:
            found = await values(group) if group.valid else []
        except ValueError as error:
            found = [Invalid("verifier", str(error))] * len(group.valid)
        except Exception as error:  # noqa: BLE001 - the reward boundary: any engine may be behind
            found = [Invalid("engine", f"{type(error).__name__}: {error}")] * len(group.valid)
        left = iter(found)
        return [None if t.reward is None else next(left) for t in group.trajectories]

    return reward


async def _score_members(
    group: Group, cut: Splice, logprobs: TokenLogprobs, codec: TextCodec
) -> list[_Scored | None]:
    """The reference after each valid member's reasoning; None where it came to no answer."""

    async def score(trajectory: Trajectory) -> _Scored | None:
        if trajectory.outcome is not Outcome.VALID or not trajectory.turns:
            return None
        at = len(trajectory.token_ids) - trajectory.turns[-1].num_sampled
        spliced = cut(trajectory.token_ids[at:], group.task.reference, codec)
        if spliced is None:
            return None
        found = await _logprobs(trajectory.token_ids[:at], spliced, logprobs)
        return _Scored(found, spliced.start)

    return list(await asyncio.gather(*(score(t) for t in group.valid)))


async def _without_reasoning(
    group: Group, cut: Splice, logprobs: TokenLogprobs, codec: TextCodec, opening: str
) -> list[float]:
    first = group.valid[0]
    spliced = cut.without_reasoning(group.task.reference, codec, opening)
    return await _logprobs(first.token_ids[: first.prompt_length], spliced, logprobs)


async def _logprobs(
    before: Sequence[int], spliced: Spliced, logprobs: TokenLogprobs
) -> list[float]:
    scores = await logprobs([*before, *spliced.token_ids])
    offset = len(before) - 1  # the first id of all has no log-probability
    return list(scores[offset + spliced.start : offset + spliced.end])
