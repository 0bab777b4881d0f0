"""User simulators: (messages so far) -> the user's next text, or None to end the conversation.

A user sees answers, never thoughts or system messages. It must depend on the messages alone,
so that snapshots and groups meet the same user; `agents/users.py` has one backed by an engine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ..types import Message

User = Callable[[Sequence[Message]], str | Awaitable[str | None] | None]

FOLLOW_UPS = (
    "Thank you. Which part of this do people most often get wrong?",
    "Can you say that again in one short sentence?",
)


@dataclass(frozen=True, slots=True)
class ScriptedUser:
    """Says its lines in order, one after each answer, then ends the conversation."""

    lines: Sequence[str] = FOLLOW_UPS

    def __call__(self, messages: Sequence[Message]) -> str | None:
        said = sum(message.role == "assistant" for message in messages) - 1
        return self.lines[said] if 0 <= said < len(self.lines) else None
