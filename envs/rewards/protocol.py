"""What a reward is: one callable shape for every family in this folder.

    async def polite(task, messages):
        return float("please" in messages[-1].content)

A reward takes the task and the conversation (`messages[-1]` is the final answer) and returns
a number, a mapping of named parts (summed), a `Grade`, or `Invalid`; it may be `async`. This
is the shape of `ToolEnv.grade`, so an environment can return one as it is.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..driving import maybe_await
from ..episode import Grade
from ..types import Invalid, Message, Task

Messages = tuple[Message, ...]
Reward = Callable[[Task, Messages], Any]

# [T] token ids -> [T - 1] log-probabilities of ids 1.. given those before them (natural log).
# An engine's `logprobs` is one; this folder knows no engines.
TokenLogprobs = Callable[[Sequence[int]], Awaitable[Sequence[float]]]


class JudgeError(RuntimeError):
    """A reward's model or its server failed: infrastructure, no verdict on the answer."""


async def grade_with(reward: Reward, task: Task, messages: Messages) -> Grade | Invalid:
    """Call one reward and bring what it returns, or raises, into one shape.

    An exception becomes `Invalid("verifier", ...)` (`JudgeError` one of kind `judge`), and so
    does a number that is not finite: a broken reward is never a zero.
    """
    try:
        value = await maybe_await(reward(task, messages))
        grade = value if isinstance(value, Invalid) else Grade.of(value)
    except JudgeError as error:
        return Invalid("judge", str(error))
    except Exception as error:  # noqa: BLE001 - the reward boundary
        return Invalid("verifier", f"{type(error).__name__}: {error}")
    if isinstance(grade, Grade) and not math.isfinite(grade.reward):
        return Invalid("verifier", f"the reward is {grade.reward}, not a finite number")
    return grade
