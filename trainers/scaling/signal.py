"""The tool-call signal of one step, split by correct and incorrect responses.

The quantities are those that ZeroTIR (arXiv 2505.07773) and ToRL (arXiv 2503.23383) log:
code proportion, calls per response and pass ratio, with response length split into what
the model wrote and what the tools returned. A mean over nothing is NaN, so the set of keys
is the same at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, stdev

from ...envs.rewards.efficiency import within_task_gains, within_task_slope
from ...envs.types import Group, Outcome, StopReason, Trajectory

MEANS: dict[str, Callable[[Trajectory], float]] = {
    "tool_share": lambda t: t.tools.calls > 0,
    "calls": lambda t: t.tools.calls,
    "malformed": lambda t: t.tools.malformed,
    "refused": lambda t: t.tools.refused,
    "hallucinated": lambda t: t.tools.hallucinated,
    "model_tokens": lambda t: t.num_sampled,
    "tool_tokens": lambda t: t.num_observed,
    "truncated": lambda t: t.outcome is Outcome.TRUNCATED,
}


def tool_signal(groups: Sequence[Group]) -> dict[str, float]:
    """Measure tool use, outcomes and rewards over the responses of one step.

    Invalid responses count in `invalid` and in the `stop/` shares (which sum to 1), and in
    nothing else. Keys, each over all valid responses; those that start with `signal/` again
    as `.../correct` and `.../incorrect` (responses that a verifier accepted or refused):

    - `signal/tool_share`: share with at least one executed call (ran to a result, an error
      or a time limit).
    - `signal/calls`, `signal/malformed`, `signal/refused`, `signal/hallucinated`: executed
      calls, calls that could not be parsed, calls over the budget, and tool outputs that
      the model wrote itself, per response.
    - `signal/pass_ratio`: share of the executed calls that ran without error.
    - `signal/call_gain`: accuracy with a call minus accuracy without one among siblings,
      averaged over the groups that have both, whose share of all groups is
      `signal/call_contrast`; `signal/call_slope`: accuracy per further call among siblings.
      What a call is worth as far as ordinary rollouts can tell (`rewards/efficiency.py`); not
      split, and without any price.
    - `signal/model_tokens`, `signal/tool_tokens`: tokens per response, apart.
    - `signal/truncated`: share that ran out of some budget.
    - `accuracy`: share correct, of the responses for which a verifier says so or not.
    - `reward/mean`; `reward/std`: sample standard deviation within a group, averaged over
      the groups with two valid responses or more.
    - `groups/zero_variance`: share of those groups in which all rewards are equal, so that a
      group baseline learns nothing; `groups/all_right` and `groups/all_wrong` are its parts
      in which every response is correct, or every response is not.
    - `invalid`; `stop/<reason>`: shares of all responses.
    """
    everything = [t for group in groups for t in group.trajectories]
    valid = [t for group in groups for t in group.valid]
    signal = _tool_use(valid, "")
    signal |= _tool_use([t for t in valid if t.correct is True], "/correct")
    signal |= _tool_use([t for t in valid if t.correct is False], "/incorrect")
    signal |= _value_of_calls(groups)
    signal["accuracy"] = _mean(t.correct for t in valid if t.correct is not None)
    signal["reward/mean"] = _mean(t.reward for t in valid if t.reward is not None)
    signal |= _contrast(groups)
    signal["invalid"] = _mean(t.outcome is Outcome.INVALID for t in everything)
    for reason in StopReason:
        signal[f"stop/{reason.value}"] = _mean(t.stop_reason is reason for t in everything)
    return signal


def _tool_use(trajectories: Sequence[Trajectory], suffix: str) -> dict[str, float]:
    signal = {
        f"signal/{name}{suffix}": _mean(measure(t) for t in trajectories)
        for name, measure in MEANS.items()
    }
    calls = sum(t.tools.calls for t in trajectories)
    passed = sum(t.tools.ok for t in trajectories)
    signal[f"signal/pass_ratio{suffix}"] = passed / calls if calls else math.nan
    return signal


def _value_of_calls(groups: Sequence[Group]) -> dict[str, float]:
    gains, slope = within_task_gains(groups), within_task_slope(groups)
    return {
        "signal/call_gain": _mean(gains),
        "signal/call_slope": math.nan if slope is None else slope,
        "signal/call_contrast": len(gains) / len(groups) if groups else math.nan,
    }


def _contrast(groups: Sequence[Group]) -> dict[str, float]:
    """How much the members of a group differ, which is all that a group baseline learns from."""
    members = [group.valid for group in groups if len(group.valid) >= 2]
    rewards = [[t.reward for t in group if t.reward is not None] for group in members]
    flat = [max(r) == min(r) for r in rewards]
    right = [f and all(t.correct is True for t in g) for f, g in zip(flat, members, strict=True)]
    wrong = [f and all(t.correct is False for t in g) for f, g in zip(flat, members, strict=True)]
    return {
        "reward/std": _mean(stdev(r) for r in rewards),
        "groups/zero_variance": _mean(flat),
        "groups/all_right": _mean(right),
        "groups/all_wrong": _mean(wrong),
    }


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return fmean(numbers) if numbers else math.nan
