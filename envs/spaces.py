"""Gymnasium spaces for text and chats.

Gymnasium's own `Text` space is bounded by a character set and refuses the first "✓";
these hold any Unicode text, sample reproducibly, and compare equal by value, which the
vector environments require.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gymnasium import Space

from .types import Message

# Words, markup and awkward characters, so that sampled actions exercise parsers.
_SAMPLES = (
    "the answer is ",
    "\\boxed{42}",
    "```python\nprint(6 * 7)\n```",
    '<tool_call>\n{"name": "python", "arguments": {"code": "1 + 1"}}\n</tool_call>',
    "✓ naïve 数学 🙂",
    "\x00\x07",
    "<|im_end|>",
    "\n",
)


class TextSpace(Space[str | Message]):
    """Assistant messages; a plain string stands for a message with that content.

    Args:
        examples: texts that the environment understands. Half of the samples are one of
            them, so that what is played at random gets somewhere.
    """

    def __init__(self, seed: int | None = None, examples: Sequence[str] = ()) -> None:
        super().__init__(None, None, seed)
        self.examples = tuple(examples)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        if self.examples and self.np_random.random() < 0.5:
            return self.examples[int(self.np_random.integers(len(self.examples)))]
        count = int(self.np_random.integers(0, 5))
        return "".join(_SAMPLES[int(i)] for i in self.np_random.integers(0, len(_SAMPLES), count))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) or (isinstance(x, Message) and x.role == "assistant")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextSpace) and self.examples == other.examples

    def __hash__(self) -> int:
        return hash((TextSpace, self.examples))

    def __repr__(self) -> str:
        return f"TextSpace(examples={self.examples})" if self.examples else "TextSpace()"


class ChatSpace(Space[list[Message]]):
    """Lists of messages: what an environment shows since the agent's last action."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(None, None, seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> list[Message]:
        roles = ("user", "tool")
        count = int(self.np_random.integers(1, 4))
        picks = self.np_random.integers(0, len(_SAMPLES), count)
        return [Message(roles[int(i) % 2], _SAMPLES[int(i)]) for i in picks]  # type: ignore[arg-type]

    def contains(self, x: Any) -> bool:
        return isinstance(x, list) and all(isinstance(m, Message) for m in x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChatSpace)

    def __hash__(self) -> int:
        return hash(ChatSpace)

    def __repr__(self) -> str:
        return "ChatSpace()"


def as_action(action: str | Message | Mapping[str, Any]) -> Message:
    """An assistant message from what callers may pass: text, a message, or an OpenAI dict.

    Raises:
        TypeError: it is none of these, or not an assistant message.
    """
    if isinstance(action, str):
        return Message("assistant", action)
    if isinstance(action, Mapping):
        action = Message.from_dict({"role": "assistant", **action})
    if not isinstance(action, Message) or action.role != "assistant":
        raise TypeError(
            f"an action is an assistant message or a string, got {action!r:.200}: "
            f'pass text, or Message("assistant", ...)'
        )
    return action
