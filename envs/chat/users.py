"""User simulators: (messages so far) -> the user's next text, or None to end the conversation.

A user sees answers, never thoughts or system messages. It must depend on the messages alone,
so that snapshots and groups meet the same user.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ..rewards.endpoint import ChatModel
from ..rewards.judge import transcript
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


PERSONA = (
    "You play a person who talks with an assistant. Given the conversation so far, each turn "
    "between marks of its own, write what the person says next: one or two sentences, a follow-up "
    "that fits, without marks. Write [END] and nothing else if the person has what they need."
)


@dataclass(frozen=True, slots=True)
class ModelUser:
    """A model that plays `persona`.

    It ends the conversation with a reply that holds `end`, or is empty. A reply that was cut
    off counts as far as it goes.
    """

    model: ChatModel
    persona: str = PERSONA
    end: str = "[END]"

    async def __call__(self, messages: Sequence[Message]) -> str | None:
        """The user's next text, or None.

        Raises:
            JudgeError: the model failed, which makes the episode invalid.
        """
        said = transcript(messages)
        reply = await self.model.complete((Message("system", self.persona), Message("user", said)))
        text = reply.text.strip()
        return None if not text or self.end in text else text
