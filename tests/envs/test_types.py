"""The core types: JSON round trips, ownership, and the rules they enforce."""

import json
import pickle

import pytest

from palestra.envs.types import (
    SCHEMA_VERSION,
    Completion,
    FinishReason,
    Group,
    Invalid,
    Message,
    Outcome,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    ToolStats,
    ToolStatus,
    Trajectory,
    Turn,
)

CALL = ToolCall("python", '{"code": "1+1"}', "call_0")
TASK = Task("t", (Message("user", "2?"),), "2", difficulty=1.5, metadata={"a": [1, {"b": None}]})


@pytest.mark.parametrize("prompt", ["2?", Message("user", "2?"), ("2?",), [{"role": "user"}]])
def test_a_prompt_that_is_not_made_of_messages_is_refused(prompt):
    with pytest.raises(TypeError, match="the prompt of a task is a tuple of messages"):
        Task("t", prompt, "2")


def test_an_unknown_role_is_refused():
    with pytest.raises(ValueError, match="got 'usr'"):
        Message("usr", "2?")


def trajectory(stop=StopReason.COMPLETED, **changes):
    result = ToolResult(CALL, "2 ✓\x00", ToolStatus.OK, 0.25)
    turn = Turn((Message("user", "2?"),), Message("assistant", "hm"), (result,), 0.5, 2)
    values = {
        "task_id": "t",
        "env_id": "e",
        "token_ids": (1, 2, 3, 4),
        "mask": (False, False, True, True),
        "logprobs": (0.0, 0.0, -0.5, -1.25),
        "prompt_length": 2,
        "turns": (turn,),
        "stop_reason": stop,
        "reward": None if Outcome.of(stop) is Outcome.INVALID else 1.0,
        "reward_parts": {"answer": 1.0},
        "tools": ToolStats.of([result]),
    }
    return Trajectory(**{**values, **changes})


@pytest.mark.parametrize("stop", list(StopReason))
def test_a_group_survives_json(stop):
    failure = Invalid("sandbox", "gone") if Outcome.of(stop) is Outcome.INVALID else None
    group = Group(TASK, (trajectory(stop, failure=failure), trajectory()))
    text = json.dumps(group.to_dict(), allow_nan=False)
    assert Group.from_dict(json.loads(text)) == group
    assert pickle.loads(pickle.dumps(group)) == group


def test_the_openai_shape():
    message = Message("assistant", "", (CALL,))
    assert message.to_dict() == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call_0",
                "type": "function",
                "function": {"name": "python", "arguments": '{"code": "1+1"}'},
            }
        ],
    }
    answer = Message("tool", "2", tool_call_id="call_0", name="python")
    for each in (message, answer):
        assert Message.from_dict(each.to_dict()) == each
    assert Message.from_dict({"role": "assistant", "content": None}).content == ""


def test_invalid_is_not_zero():
    with pytest.raises(ValueError, match="None exactly when"):
        trajectory(StopReason.ENV_ERROR, reward=0.0)
    with pytest.raises(ValueError, match="None exactly when"):
        trajectory(reward=None)
    group = Group(TASK, (trajectory(StopReason.ENGINE_ERROR), trajectory()))
    assert [t.reward for t in group.valid] == [1.0]


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="one entry per token"):
        trajectory(mask=(True,))
    with pytest.raises(ValueError, match="one log-probability per token"):
        Completion((1, 2), (0.0,), FinishReason.STOP)


def test_token_counts():
    t = trajectory()
    assert (t.num_sampled, t.num_observed) == (2, 0)
    assert trajectory(mask=(False, False, False, True)).num_observed == 1


def test_another_schema_is_refused():
    data = trajectory().to_dict() | {"schema_version": SCHEMA_VERSION + 1}
    with pytest.raises(ValueError, match="schema"):
        Trajectory.from_dict(data)


def test_tool_statistics_count_executions_only():
    results = [ToolResult(CALL, "", status) for status in ToolStatus]
    stats = ToolStats.of(results, hallucinated=3)
    assert (stats.calls, stats.ok, stats.errors, stats.timeouts) == (3, 1, 1, 1)
    assert (stats.malformed, stats.refused, stats.hallucinated) == (1, 1, 3)


def test_completions_join():
    first = Completion((1,), (-1.0,), FinishReason.STOP_STRING, "x", 3, 10, 4)
    both = first + Completion((2,), (-2.0,), FinishReason.STOP, None, 4, 11, 11)
    assert (both.token_ids, both.logprobs) == ((1, 2), (-1.0, -2.0))
    assert (both.finish_reason, both.policy_version, both.prompt_tokens) == (
        FinishReason.STOP,
        3,
        10,
    )
