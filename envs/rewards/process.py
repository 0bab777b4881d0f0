"""Automatic process rewards: what a step was worth, by playing on from it many times.

Every episode can be branched, so the value of a state is estimated by Monte-Carlo from
snapshots of it: conversation, author's memory and live interpreter included. A step is one action
of the agent.

Math-Shepherd (arXiv 2312.08935, eqs. 3 and 4): from the state after each step N episodes are
played to the end. Hard label: 1 if any succeeds. Soft label: the share that does.
OmegaPRM (arXiv 2406.06592): in a failed episode the first error is found by binary search,
MC(s) > 0 meaning that no error has been made yet: about k log2(n) episodes instead of k n.

Labels of this kind measure what the policy can still make of a state, not whether the step
was correct (arXiv 2501.07301). For the same reason a solution is scored by its last step when
the labels are such values, and by its worst or by the product when people or a judge gave them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from ..core import Action, ChatEnv
from ..driving import maybe_await
from ..episode import Snapshot
from ..types import Outcome, Task

# The next action in the environment as it stands (`env.messages` is the conversation).
Policy = Callable[[ChatEnv], Action | Awaitable[Action]]
Succeeded = Callable[[float, Mapping[str, Any]], bool]


def is_correct(reward: float, info: Mapping[str, Any]) -> bool:
    """The environment's verdict; a total reward of 1 or more where it gives none."""
    verdict = info.get("correct")
    return reward >= 1 if verdict is None else bool(verdict)


@dataclass(frozen=True, slots=True)
class StepValue:
    """What came of the episodes played on from a state.

    Attributes:
        returns: total reward of each from there on; invalid ones are left out.
        successes: how many of them succeeded.
        invalid: episodes lost to infrastructure. They count for nothing.
    """

    returns: tuple[float, ...]
    successes: int
    invalid: int = 0

    @property
    def soft(self) -> float | None:
        """Math-Shepherd's soft label; None where every episode was lost."""
        return self.successes / len(self.returns) if self.returns else None

    @property
    def hard(self) -> bool | None:
        """Math-Shepherd's hard label; None where every episode was lost."""
        return self.successes > 0 if self.returns else None

    @property
    def mean_return(self) -> float | None:
        return math.fsum(self.returns) / len(self.returns) if self.returns else None

    @property
    def stderr(self) -> float | None:
        """Standard error of the soft label, sqrt(p (1 - p) / n) with p drawn half an episode
        towards 1/2, so that it is not 0 where all went one way."""
        if not self.returns:
            return None
        n = len(self.returns)
        p = (self.successes + 0.5) / (n + 1)
        return math.sqrt(p * (1 - p) / n)


async def state_value(
    envs: Sequence[ChatEnv],
    point: Snapshot,
    policy: Policy,
    *,
    completions: int = 8,
    seed: int = 0,
    succeeded: Succeeded = is_correct,
    until_success: bool = False,
) -> StepValue:
    """Play on from a snapshot, `completions` times, one episode at a time on each environment.

    The environment's randomness is drawn anew for each (from `seed`); the policy's is its own
    affair. A state where the episode is over cannot be played on.

    Args:
        envs: of the kind that `point` was taken on; the more, the more runs at once.
        until_success: start no more episodes once one has succeeded.

    Raises:
        ValueError: no environments, or `completions` is not positive.
    """
    if not envs or completions < 1:
        raise ValueError(
            f"need an environment and a completion at least, got {len(envs)} and {completions}"
        )
    tally = _Tally(completions, until_success)

    async def play_on(env: ChatEnv) -> None:
        for number in tally:
            env.restore(point)
            env.np_random = np.random.default_rng([seed, number])
            tally.add(await _finish(env, policy), succeeded)

    await asyncio.gather(*(play_on(env) for env in envs))
    return tally.value


@dataclass(slots=True)
class _Tally:
    """Hands out the numbers of episodes to play and takes what came of them."""

    completions: int
    until_success: bool
    started: int = 0
    returns: list[float] = field(default_factory=list)
    successes: int = 0
    invalid: int = 0

    def __iter__(self) -> Iterator[int]:
        while self.started < self.completions and not (self.until_success and self.successes):
            self.started += 1
            yield self.started - 1

    def add(self, played: tuple[float, Mapping[str, Any]], succeeded: Succeeded) -> None:
        reward, info = played
        if info["outcome"] is Outcome.INVALID:
            self.invalid += 1
            return
        self.returns.append(reward)
        self.successes += bool(succeeded(reward, info))

    @property
    def value(self) -> StepValue:
        return StepValue(tuple(self.returns), self.successes, self.invalid)


async def _finish(env: ChatEnv, policy: Policy) -> tuple[float, Mapping[str, Any]]:
    """Play to the end: the total reward and the last info."""
    total = 0.0
    while True:
        _, reward, ended, truncated, info = await env.astep(await maybe_await(policy(env)))
        total += float(reward)
        if ended or truncated:
            return total, info


async def step_values(
    envs: Sequence[ChatEnv],
    task: Task,
    actions: Sequence[Action],
    policy: Policy,
    *,
    completions: int = 8,
    seed: int = 0,
    succeeded: Succeeded = is_correct,
) -> list[StepValue]:
    """The value of the state before the first and after each of an episode's steps: [n + 1].

    Math-Shepherd's labels of step k are those of entry k. A step that ends the episode needs no
    completion: its value is what it came to. It costs n * completions episodes.

    Args:
        actions: of an episode, replayed here in the same task and seed.

    Raises:
        ValueError: the episode ended before the last action.
    """
    with ExitStack() as held:
        states = await _replay(envs[0], task, actions, seed, succeeded, held)
        return [
            state
            if isinstance(state, StepValue)
            else await state_value(
                envs, state, policy, completions=completions, seed=seed, succeeded=succeeded
            )
            for state in states
        ]


@dataclass(frozen=True, slots=True)
class ErrorSearch:
    """Where a failed episode went wrong.

    Attributes:
        first_error: index of the action after which success was out of reach; None where the
            episode succeeded or no success was seen even before its first action.
        values: by number of actions taken, for the states that were looked at.
    """

    first_error: int | None
    values: Mapping[int, StepValue]

    @property
    def episodes(self) -> int:
        """Episodes played."""
        return sum(len(value.returns) + value.invalid for value in self.values.values())


async def find_first_error(
    envs: Sequence[ChatEnv],
    task: Task,
    actions: Sequence[Action],
    policy: Policy,
    *,
    completions: int = 8,
    seed: int = 0,
    succeeded: Succeeded = is_correct,
) -> ErrorSearch:
    """OmegaPRM's binary search for the first error of a finished episode.

    A state is left as soon as one episode from it succeeds. States after an error must have no
    success for the search to be exact; a good state is missed with probability
    (1 - p)^completions, p being the policy's chance there.

    Raises:
        ValueError: the actions do not finish the episode, or end it early.
        RuntimeError: the episode itself, replayed, or all of a state's were lost to
            infrastructure.
    """
    values: dict[int, StepValue] = {}
    with ExitStack() as held:
        states = await _replay(envs[0], task, actions, seed, succeeded, held)
        final = states[-1]
        if isinstance(final, Snapshot):
            raise ValueError(f"the episode is not over after its {len(actions)} actions")
        if final.hard is None:
            raise RuntimeError("the replayed episode was lost: whether it failed is not known")

        async def within_reach(taken: int) -> bool:
            state = states[taken]
            assert isinstance(state, Snapshot)
            values[taken] = await state_value(
                envs,
                state,
                policy,
                completions=completions,
                seed=seed,
                succeeded=succeeded,
                until_success=True,
            )
            if values[taken].hard is None:
                raise RuntimeError(f"all {completions} episodes after {taken} actions were lost")
            return bool(values[taken].hard)

        if final.hard or not await within_reach(0):
            return ErrorSearch(None, values)
        good, bad = 0, len(actions)
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if await within_reach(middle) else (good, middle)
    return ErrorSearch(bad - 1, values)


async def _replay(
    env: ChatEnv,
    task: Task,
    actions: Sequence[Action],
    seed: int,
    succeeded: Succeeded,
    held: ExitStack,
) -> list[Snapshot | StepValue]:
    """The states of an episode: snapshots, released by `held`, and its outcome if it ends."""
    env.reset(seed=seed, options={"task": task})
    states: list[Snapshot | StepValue] = [_keep(env, held)]
    total = 0.0
    for number, action in enumerate(actions, 1):
        _, reward, ended, truncated, info = await env.astep(action)
        total += float(reward)
        if not (ended or truncated):
            states.append(_keep(env, held))
            continue
        if number < len(actions):
            raise ValueError(f"the episode ended after {number} of {len(actions)} actions")
        tally = _Tally(1, False)
        tally.add((total, info), succeeded)
        states.append(tally.value)
    return states


def _keep(env: ChatEnv, held: ExitStack) -> Snapshot:
    snapshot = env.snapshot()
    close = getattr(snapshot.resources, "close", None)
    if close is not None:  # a live session of a sandbox
        held.callback(close)
    return snapshot


def progress(values: Sequence[float]) -> list[float]:
    """Rewards of steps as the gain in value, v_k - v_{k-1}: [n + 1] -> [n].

    They add up to the outcome less the value of the start: shaping by a potential, which
    changes no policy's order.
    """
    return [after - before for before, after in pairwise(values)]


def solution_score(steps: Sequence[float], rule: Literal["last", "min", "product"]) -> float:
    """One score from the steps' scores. There is no default: it depends on where the scores
    come from (`last` for Monte-Carlo values, `min` or `product` for judged correctness).

    Raises:
        ValueError: no steps, or an unknown rule.
    """
    rules: dict[str, Callable[[Sequence[float]], float]] = {
        "last": lambda scores: scores[-1],
        "min": min,
        "product": math.prod,
    }
    if not steps or rule not in rules:
        raise ValueError(f"need steps and one of {list(rules)}, got {len(steps)} and {rule!r}")
    return float(rules[rule](steps))
