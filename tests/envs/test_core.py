"""Environments: Gymnasium's contract, invalid as a third outcome, branching."""

import asyncio
import pickle
import random
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from palestra.envs.core import ChatEnv, ToolEnv
from palestra.envs.episode import Grade, Reply
from palestra.envs.tools import ToolFailure
from palestra.envs.types import Invalid, Message, Outcome, StopReason, Task, ToolStatus
from palestra.sandbox.types import ProgramFault, SandboxError

TASKS = [Task(f"t{i}", (Message("user", f"Say {i}"),), str(i)) for i in range(10)]
CALL = '<tool_call>{"name": "double", "arguments": {"x": 4}}</tool_call>'


def double(x: int) -> int:
    """Twice x."""
    return 2 * x


class Say(ToolEnv):
    def __init__(self, **kwargs):
        super().__init__(**{"tasks": TASKS, "tools": [double], **kwargs})

    def grade(self, task, messages):
        return float(messages[-1].content == task.reference)


class AsyncSay(Say):
    async def grade(self, task, messages):
        await asyncio.sleep(0)
        return super().grade(task, messages)


class Countdown(ChatEnv):
    """Counts its turns in the episode's memory; draws from its own randomness."""

    def respond(self, action):
        episode = self.episode
        episode.memory = [*(episode.memory or []), int(self.np_random.integers(1000))]
        done = StopReason.COMPLETED if action.content == "stop" else None
        return Reply((Message("user", str(episode.memory)),), 0.1, done, {"a": 1.0}, True)


def play(env, *actions, seed=0, task=None):
    env.reset(seed=seed, options=None if task is None else {"task": task})
    return [env.step(action) for action in actions]


@pytest.mark.parametrize("env", [Say(), AsyncSay(), Countdown(tasks=TASKS)])
def test_gymnasium_accepts_it(env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)


@pytest.mark.parametrize("kind", [Say, AsyncSay])
def test_an_episode_with_a_tool(kind):
    env = kind()
    first, last = play(env, CALL, "3", task=3)
    assert [m.content for m in first[0]] == ["8"] and first[2:4] == (False, False)
    assert first[4]["tool_results"][0].status is ToolStatus.OK
    assert last[1:4] == (1.0, True, False)
    assert last[4]["outcome"] is Outcome.VALID and last[4]["correct"] is True
    assert env.tool_stats.calls == 1
    with pytest.raises(ResetNeeded):
        env.step("more")


def test_a_hook_may_be_any_callable():
    class Grader:
        __hash__ = None

        def __call__(self, task, messages):
            return 1.0

    env = Say()
    env.grade = Grader()
    assert play(env, "3")[0][1] == 1.0


def test_it_works_inside_a_running_loop():
    async def notebook():
        env = AsyncSay()
        env.reset(options={"task": 3})
        return env.step("3")

    assert asyncio.run(notebook())[1] == 1.0


def test_members_of_a_group_get_the_same_episode():
    openings = [Say().reset(seed=7)[0] for _ in range(3)]
    assert openings[0] == openings[1] == openings[2]
    assert Say().reset(seed=8, options={"task": TASKS[2]})[0] == list(TASKS[2].prompt)


def test_global_randomness_is_untouched():
    random.seed(1), np.random.seed(1)
    expected = (random.random(), np.random.random())
    random.seed(1), np.random.seed(1)
    play(Countdown(tasks=TASKS), "a", "b", seed=5)
    assert (random.random(), np.random.random()) == expected


def test_budgets_truncate():
    *_, last = play(Say(max_turns=2), CALL, CALL)
    assert last[1:4] == (0.0, False, True)
    assert last[4]["stop_reason"] is StopReason.MAX_TURNS and last[4]["correct"] is False


def test_calls_beyond_the_cap_are_refused_not_run():
    env = Say(max_tool_calls=1)
    _, second = play(env, CALL, CALL)
    assert second[4]["tool_results"][0].status is ToolStatus.REFUSED
    assert (env.tool_stats.calls, env.tool_stats.refused) == (1, 1)
    assert not env.may_call


def test_the_cap_holds_within_a_turn():
    env = Say(max_tool_calls=2)
    ((_, _, _, _, info),) = play(env, CALL * 6)
    statuses = [r.status for r in info["tool_results"]]
    assert statuses == [ToolStatus.OK] * 2 + [ToolStatus.REFUSED] * 4


@pytest.mark.parametrize(
    "call",
    [
        '<tool_call>{"name": "double", "arguments": {"x": ' + "9" * 5000 + "}}</tool_call>",
        '<tool_call>{"name": "double", "arguments": "' + "[" * 3000 + '"}</tool_call>',
        "<tool_call>" + "[" * 3000 + "</tool_call>",
    ],
)
def test_no_call_is_bad_enough_to_be_invalid(call):
    ((_, _, ended, cut, info),) = play(Say(), call)
    assert not (ended or cut) and info["tool_results"][0].status is ToolStatus.MALFORMED


@pytest.mark.parametrize("reply", [None, Reply(reward=float("nan"), stop=StopReason.COMPLETED)])
def test_an_authors_bug_is_invalid(reply):
    class Buggy(ChatEnv):
        def respond(self, action):
            return reply

    ((_, reward, _, cut, info),) = play(Buggy(tasks=TASKS), "x")
    assert np.isnan(reward) and cut and info["outcome"] is Outcome.INVALID


def test_two_calls_and_the_first_fails():
    bad = '<tool_call>{"name": "double", "arguments": {"x": "?"}}</tool_call>'
    ((messages, *_),) = play(Say(), bad + CALL)
    assert "bad arguments" in messages[0].content and messages[1].content == "8"


def test_unknown_tools_and_malformed_calls_go_back_to_the_agent():
    text = '<tool_call>{"name": "triple"}</tool_call><tool_call>nonsense</tool_call>'
    ((messages, _, ended, cut, _),) = play(Say(), text)
    assert "Available tools: double" in messages[0].content
    assert "not valid JSON" in messages[1].content and not (ended or cut)


def fails(error):
    class Failing(Say):
        def grade(self, task, messages):
            if not isinstance(error, Exception):
                return error
            raise error

    return Failing()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SandboxError("x"), "sandbox"),
        (ValueError("x"), "verifier"),
        (Invalid("judge", "x"), "judge"),
        (float("nan"), "verifier"),
    ],
)
def test_failures_are_invalid_never_zero(error, kind):
    ((observation, reward, ended, cut, info),) = play(fails(error), "3")
    assert (observation, ended, cut) == ([], False, True)
    assert np.isnan(reward) and info["failure"].kind == kind
    assert info["outcome"] is Outcome.INVALID and info["correct"] is None


def test_what_a_program_made_impossible_counts_against_it():
    ((observation, reward, ended, cut, info),) = play(fails(ProgramFault("x")), "3")
    assert (observation, reward, ended, cut) == ([], 0.0, True, False)
    assert info["outcome"] is not Outcome.INVALID and info["correct"] is False


def test_a_lost_tool_is_invalid():
    def gone() -> str:
        """Be gone."""
        raise ToolFailure("server down")

    ((_, _, _, _, info),) = play(Say(tools=[gone]), '<tool_call>{"name": "gone"}</tool_call>')
    assert info["failure"] == Invalid("tool", "server down")


def test_snapshots_branch_an_episode():
    env = Countdown(tasks=TASKS)
    play(env, "a", seed=3)
    saved = env.snapshot()
    first = [env.step("b")[0], env.step("stop")[0]]
    for other in (env, Countdown(tasks=TASKS)):
        if other is not env:
            other.reset(seed=99)
        for _ in range(2):  # a snapshot can be restored any number of times
            other.restore(saved)
            assert [other.step("b")[0], other.step("stop")[0]] == first


def test_environments_pickle_mid_episode():
    env = AsyncSay()
    play(env, CALL, task=3)
    twin = pickle.loads(pickle.dumps(env))
    assert twin.step("3")[1] == env.step("3")[1] == 1.0


def test_actions_are_strings_messages_or_openai_dicts():
    for action in ("3", Message("assistant", "3"), {"role": "assistant", "content": "3"}):
        assert play(Say(), action, task=3)[0][1] == 1.0
    with pytest.raises(TypeError, match="an action is an assistant message"):
        play(Say(), 3)


@pytest.mark.parametrize("action", ["", "\x00", "✓" * 10_000, "x" * 1_000_000, "<|im_end|>"])
def test_odd_actions_survive(action):
    assert play(Say(), action)[0][2]


@pytest.mark.parametrize(
    "vector", [gymnasium.vector.SyncVectorEnv, gymnasium.vector.AsyncVectorEnv]
)
def test_vector_environments(vector):
    extra = {} if vector is gymnasium.vector.SyncVectorEnv else {"shared_memory": False}
    envs = vector([Say, Say, Say], **extra)
    observations, _ = envs.reset(seed=[1, 2, 3])
    assert len(observations) == 3
    _, rewards, ended, *_ = envs.step([o[0].content.split()[-1] for o in observations])
    assert rewards.tolist() == [1.0, 1.0, 1.0] and ended.all()
    envs.close()


def test_grades():
    assert Grade.of(1) == Grade(1.0, {}, True) and Grade.of(0.5).correct is False
    assert Grade.of({"a": 0.5, "b": 0.25}).reward == 0.75
    for wrong in (None, "1"):
        with pytest.raises(TypeError, match=f"returned {wrong!r}: expected a number"):
            Grade.of(wrong)


def test_bad_arguments_say_so():
    with pytest.raises(ValueError, match="task set is empty"):
        Say(tasks=[])
    with pytest.raises(ValueError, match="max_turns"):
        Say(max_turns=0)
    with pytest.raises(TypeError, match=r'options\["task"\]'):
        Say().reset(options={"task": "t1"})


def test_close_twice():
    env = AsyncSay()
    play(env, "3")
    env.close(), env.close()


def test_what_a_cut_off_episode_earns():
    env = Say()
    assert env.cut_off(0.0) == 0.0 and env.cut_off(15.0) == 15.0
    for low, paid, expected in ((-3, 0, -3), (-3, -2, -3), (-3, 2, -1), (-float("inf"), -2, -2)):
        env.reward_range = (low, 1.0)
        assert env.cut_off(paid) == expected
    env.truncated_reward = -4.0
    assert env.cut_off(-2.0) == -6.0
    env.reward_range, env.truncated_reward = (1.0, 10.0), None
    assert env.cut_off(0.0) == 0.0
