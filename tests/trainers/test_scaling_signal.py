"""The tool-call signal on groups small enough to work out by hand."""

import json
import math
from dataclasses import replace

import pytest

from palestra.agents.runlog import plain
from palestra.envs.types import (
    Group,
    Invalid,
    Message,
    StopReason,
    Task,
    ToolStats,
    Trajectory,
)
from palestra.trainers.scaling import tool_signal

TASK = Task("t1", (Message("user", "?"),))


def response(
    reward=0.0,
    correct=None,
    *,
    sampled=1,
    observed=0,
    stop=StopReason.COMPLETED,
    **tools,
):
    mask = (False, False) + (True,) * sampled + (False,) * observed
    return Trajectory(
        task_id="t1",
        env_id="palestra/Test-v0",
        token_ids=tuple(range(len(mask))),
        mask=mask,
        logprobs=(0.0,) * len(mask),
        prompt_length=2,
        turns=(),
        stop_reason=stop,
        reward=reward,
        correct=correct,
        failure=Invalid("sandbox") if reward is None else None,
        tools=ToolStats(**tools),
    )


def broken(reason=StopReason.ENV_ERROR):
    return response(None, stop=reason, sampled=999, observed=999, calls=50, ok=50)


RIGHT = response(1.0, True, sampled=10, observed=4, calls=3, ok=2, errors=1)
WRONG_WITH_TOOL = response(
    0.0,
    False,
    sampled=30,
    observed=8,
    calls=1,
    timeouts=1,
    malformed=2,
    hallucinated=1,
    stop=StopReason.MAX_TOKENS,
)
WRONG_PLAIN = response(0.0, False, sampled=20, refused=3)
GROUPS = [
    Group(TASK, (RIGHT, WRONG_WITH_TOOL)),  # contrast
    Group(TASK, (WRONG_PLAIN, WRONG_PLAIN, broken())),  # all wrong
]


def test_tool_use_split_by_correctness():
    signal = tool_signal(GROUPS)
    assert signal["signal/tool_share"] == 2 / 4
    assert signal["signal/tool_share/correct"] == 1
    assert signal["signal/tool_share/incorrect"] == pytest.approx(1 / 3)
    assert signal["signal/calls"] == 4 / 4
    assert signal["signal/calls/correct"] == 3
    assert signal["signal/calls/incorrect"] == pytest.approx(1 / 3)
    assert signal["signal/pass_ratio"] == 2 / 4
    assert signal["signal/pass_ratio/correct"] == pytest.approx(2 / 3)
    assert signal["signal/pass_ratio/incorrect"] == 0
    assert signal["signal/malformed"] == 2 / 4
    assert signal["signal/refused"] == 6 / 4
    assert signal["signal/hallucinated"] == 1 / 4
    assert signal["signal/hallucinated/correct"] == 0


def test_the_value_of_a_call_is_measured_among_siblings_and_without_its_price():
    priced = replace(RIGHT, reward=0.85)  # three calls
    plain_right = replace(WRONG_PLAIN, reward=1.0, correct=True)
    signal = tool_signal(
        [
            Group(TASK, (priced, WRONG_PLAIN, broken())),  # a gain of 1, over three calls
            Group(TASK, (plain_right, WRONG_WITH_TOOL, WRONG_PLAIN)),  # -0.5, over one
            Group(TASK, (priced, WRONG_WITH_TOOL)),  # everybody called
            Group(TASK, (broken(),)),
        ]
    )
    assert signal["signal/call_gain"] == pytest.approx((1 - 0.5) / 2)
    assert signal["signal/call_contrast"] == 2 / 4
    products = 1.5 + -1 / 3 + 1.0
    squares = 4.5 + 2 / 3 + 2.0
    assert signal["signal/call_slope"] == pytest.approx(products / squares)


def test_lengths_keep_model_and_tool_tokens_apart():
    signal = tool_signal(GROUPS)
    assert signal["signal/model_tokens"] == (10 + 30 + 20 + 20) / 4
    assert signal["signal/tool_tokens"] == (4 + 8) / 4
    assert signal["signal/model_tokens/correct"] == 10
    assert signal["signal/tool_tokens/incorrect"] == pytest.approx(8 / 3)


def test_outcomes_and_rewards():
    signal = tool_signal(GROUPS)
    assert signal["accuracy"] == 1 / 4
    assert signal["reward/mean"] == 1 / 4
    assert signal["reward/std"] == pytest.approx(math.sqrt(0.5) / 2)
    assert signal["signal/truncated"] == 1 / 4
    assert signal["invalid"] == 1 / 5
    assert signal["stop/completed"] == 3 / 5
    assert signal["stop/max_tokens"] == 1 / 5
    assert signal["stop/env_error"] == 1 / 5
    assert sum(v for k, v in signal.items() if k.startswith("stop/")) == pytest.approx(1)


def test_zero_variance_is_split_and_needs_two_valid_members():
    undecided = response(0.5, None)
    signal = tool_signal(
        [
            Group(TASK, (RIGHT, RIGHT)),
            Group(TASK, (WRONG_PLAIN, WRONG_PLAIN)),
            Group(TASK, (undecided, undecided)),
            Group(TASK, (RIGHT, replace(RIGHT, reward=0.9))),  # all correct, yet not flat
            Group(TASK, (RIGHT, broken())),  # one valid member: no contrast to speak of
        ]
    )
    assert signal["groups/zero_variance"] == 3 / 4
    assert signal["groups/all_right"] == 1 / 4
    assert signal["groups/all_wrong"] == 1 / 4


def test_responses_that_no_verifier_judged_are_in_neither_half():
    signal = tool_signal([Group(TASK, (response(0.3, None, calls=2, ok=2), WRONG_PLAIN))])
    assert signal["signal/calls"] == 1
    assert signal["signal/calls/incorrect"] == 0
    assert math.isnan(signal["signal/calls/correct"])
    assert signal["accuracy"] == 0


def test_invalid_responses_change_nothing_but_the_shares_of_all():
    clean = tool_signal([Group(TASK, (RIGHT, WRONG_PLAIN))])
    broken_too = tool_signal(
        [Group(TASK, (RIGHT, WRONG_PLAIN, broken(), broken(StopReason.ENGINE_ERROR)))]
    )
    changed = {k for k, v in clean.items() if not (math.isnan(v) or broken_too[k] == v)}
    assert changed == {"invalid", "stop/completed", "stop/env_error", "stop/engine_error"}
    assert broken_too["invalid"] == 1 / 2


@pytest.mark.parametrize("groups", [[], [Group(TASK, ())], [Group(TASK, (broken(),))]])
def test_nothing_to_measure_gives_the_same_keys(groups):
    signal = tool_signal(groups)
    assert signal.keys() == tool_signal(GROUPS).keys()
    assert math.isnan(signal["signal/calls"])
    assert math.isnan(signal["reward/mean"])
    assert json.loads(json.dumps(plain(signal), allow_nan=False))["accuracy"] is None


def test_values_are_plain_numbers():
    assert {type(v) for v in tool_signal(GROUPS).values()} == {float}
