"""Rewards of every shape, side by side, put together by weights and gates."""

import asyncio
import math
import re
from pathlib import Path

import pytest

import palestra
from palestra.envs.core import ChatEnv, ToolEnv
from palestra.envs.episode import Grade
from palestra.envs.rewards.composition import composed, gated, weighted
from palestra.envs.rewards.protocol import JudgeError, grade_with
from palestra.envs.types import Invalid, Message, Outcome, Task

TASK = Task("t", (Message("user", "Say hi."),), "hi")
SAID = (*TASK.prompt, Message("assistant", "hi"))


def plain(task, messages):
    return float(messages[-1].content == task.reference)


async def parts(task, messages):
    await asyncio.sleep(0)
    return {"short": 0.5, "polite": 0.25}


def lost(task, messages):
    return Invalid("judge", "no server")


def broken(task, messages):
    raise KeyError("mayor")


def unreachable(task, messages):
    raise JudgeError("refused")


def grade(reward):
    return asyncio.run(grade_with(reward, TASK, SAID))


def test_every_shape_of_reward_becomes_a_grade():
    assert grade(plain) == Grade(1.0, {}, True)
    assert grade(parts) == Grade(0.75, {"short": 0.5, "polite": 0.25})
    assert grade(lambda task, messages: Grade(0.1)) == Grade(0.1)


def test_a_broken_reward_is_invalid_never_zero():
    assert grade(lost) == Invalid("judge", "no server")
    assert grade(broken) == Invalid("verifier", "KeyError: 'mayor'")
    assert grade(unreachable) == Invalid("judge", "refused")
    for value in (math.nan, math.inf):
        verdict = grade(lambda task, messages, value=value: value)
        assert isinstance(verdict, Invalid) and "finite" in verdict.message


def test_composed_rewards_keep_all_parts():
    total = weighted({"answer": 1.0, "style": 0.1})
    reward = composed({"answer": plain, "style": parts}, total, correct="answer")
    verdict = asyncio.run(reward(TASK, SAID))
    assert verdict.reward == pytest.approx(1.075)
    assert verdict.correct is True
    expected = {"answer": 1.0, "style": 0.75, "style/short": 0.5, "style/polite": 0.25}
    assert verdict.parts == expected


def test_composed_rewards_nest_and_gate():
    inner = composed({"style": parts}, weighted({"style": 2.0}))
    outer = composed({"answer": plain, "inner": inner}, gated("answer", weighted({"inner": 1.0})))
    assert asyncio.run(outer(TASK, SAID)).reward == 1.5
    wrong = (*TASK.prompt, Message("assistant", "no"))
    assert asyncio.run(outer(TASK, wrong)).reward == 0.0


def test_one_invalid_part_makes_the_whole_invalid_and_is_named():
    reward = composed({"answer": plain, "judge": lost}, weighted({"answer": 1.0}))
    assert asyncio.run(reward(TASK, SAID)) == Invalid("judge", "judge: no server")


def test_rewards_run_side_by_side():
    started = []

    async def waits(task, messages):
        started.append(1)
        while len(started) < 2:
            await asyncio.sleep(0)
        return 1.0

    reward = composed({"a": waits, "b": waits}, weighted({"a": 1.0, "b": 1.0}))
    assert asyncio.run(asyncio.wait_for(reward(TASK, SAID), 30)).reward == 2.0


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="at least one reward"):
        composed({}, weighted({"a": 1.0}))
    with pytest.raises(ValueError, match="correct='b'"):
        composed({"a": plain}, weighted({"a": 1.0}), correct="b")


class Judged(ToolEnv):
    reward = staticmethod(composed({"answer": plain, "j": parts}, weighted({"answer": 1.0})))

    async def grade(self, task, messages):
        return await self.reward(task, messages)


def test_an_environment_returns_one_as_its_grade():
    env = Judged(tasks=[TASK])
    assert isinstance(env, ChatEnv)
    env.reset(seed=0)
    _, reward, ended, _, info = env.step("hi")
    assert (reward, ended, info["reward_parts"]["j"]) == (1.0, True, 0.75)
    Judged.reward = staticmethod(composed({"answer": lost}, weighted({"answer": 1.0})))
    env.reset(seed=0)
    _, reward, _, truncated, info = env.step("hi")
    assert math.isnan(reward) and truncated and info["outcome"] is Outcome.INVALID
    env.close()


def test_the_examples_of_the_rewards_page_run():
    page = Path(palestra.__file__).resolve().parent.parent / "envs" / "rewards" / "README.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(page), "exec"), {})
