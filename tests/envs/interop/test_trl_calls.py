"""Calls that TRL makes at once; TRL itself is not needed."""

from __future__ import annotations

import asyncio

from palestra import register
from palestra.envs.core import ToolEnv
from palestra.envs.interop.trl import OVER, TRLExport, palestra_reward
from palestra.envs.types import Message, Task


async def pause(word: str) -> str:
    """Say a word after a while.

    Args:
        word: what to say
    """
    await asyncio.sleep(0.01)
    return word


class Pauses(ToolEnv):
    def __init__(self, **options):
        tasks = [Task("t", (Message("user", "Say something."),), "done")]
        super().__init__(tasks=tasks, tools=[pause], **options)

    def grade(self, task, messages):
        return float(task.reference in messages[-1].content)


register("tests/Pauses-v0", Pauses)


def begun(**options):
    exported = TRLExport("tests/Pauses-v0", options)
    environment = exported.environment_factory()
    environment.reset(**exported.rows(1)[0])
    return environment


async def said(environment, *words):
    return await asyncio.gather(*(environment.pause(word=word) for word in words))


def test_calls_at_once_take_turns_and_keep_to_the_budget():
    environment = begun(max_turns=3)
    answers = asyncio.run(said(environment, *"abcde"))
    assert answers[:2] == ["a", "b"] and answers[3:] == [OVER] * 2


def test_an_episode_may_go_on_in_another_loop():
    environment = begun(max_turns=9)
    for words in ("ab", "cd"):  # each waits for its turn, which binds a lock to its loop
        assert asyncio.run(said(environment, *words)) == list(words)
    final = {"role": "assistant", "content": "done"}
    assert asyncio.run(palestra_reward([[final]], [environment])) == [1.0]
