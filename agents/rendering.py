"""From messages to token ids, by appending only.

What was sampled stays as it was sampled: an observation is rendered as the ids to put
*after* it, never by rendering the conversation again. Text that comes from outside (what
messages hold, and what tools say of themselves) can never turn into control tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..envs.protocols import Protocol
from ..envs.types import Message
from .engines.base import Tokenizer

# Stands for text from outside while a template is rendered. What holds such a character
# itself is never rendered with the template, so it cannot be mistaken for one.
_SLOT = "\ue000{}\ue001"
_SLOTS = re.compile("\ue000(\\d+)\ue001")


class RenderingError(ValueError):
    """The chat template cannot be used append-only; the message says what it did."""


class Renderer:
    """Renders one kind of episode for one tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer, with a chat template.
        protocol: the environment's; None for plain chat.
        tools: OpenAI schemas, given to templates that have a place for them.
        tool_instructions: what to put in the system prompt of templates that have none.

    Attributes:
        stop_token_ids: ids that end an assistant turn, the tokenizer's and the template's.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        protocol: Protocol | None = None,
        tools: Sequence[dict[str, Any]] = (),
        tool_instructions: str = "",
    ) -> None:
        if not tokenizer.chat_template:
            raise RenderingError(
                "the tokenizer has no chat template: set tokenizer.chat_template first"
            )
        self.tokenizer = tokenizer
        self.protocol = protocol
        self._inline = protocol is not None and protocol.inline
        template_shows_tools = "tools" in str(tokenizer.chat_template)
        self._tools = list(tools) if template_shows_tools and not self._inline else []
        self._instructions = "" if self._tools or self._inline else tool_instructions
        self._controls = _control_strings(tokenizer)
        words = sorted((*self._controls, _SLOT[0]), key=len, reverse=True)
        self._hostile = re.compile("|".join(map(re.escape, words)))
        self._turn_end = self._find_turn_end()
        self.stop_token_ids = self._find_stop_token_ids()

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the first prompt, up to where the assistant begins."""
        messages = list(messages)
        if self._instructions:
            messages = _with_system(messages, self._instructions)
        return self._render(messages)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of sampled ids, control tokens left out."""
        stops = set(self.stop_token_ids)
        return self.tokenizer.decode([i for i in token_ids if i not in stops])

    def continuation(
        self, sampled: Sequence[int], text: str, messages: Sequence[Message]
    ) -> list[int]:
        """Ids to append after a sampled turn, so that the agent sees `messages`.

        Args:
            sampled: the ids of the turn; `text` is their text.
            messages: what the environment answered.
        """
        if self._inline and all(m.role == "tool" for m in messages):
            assert self.protocol is not None
            shown = text
            for message in messages:
                shown += self.protocol.show(_encodable(message.content), shown)
            return self._encode_inert(shown[len(text) :])
        ended = bool(sampled) and sampled[-1] in self.stop_token_ids
        return self._render(
            [Message("user", ""), Message("assistant", ""), *messages],
            lambda full: self._after_assistant(full, sampled[-1] if ended else None),
            dummies=2,
        )

    def turn(self, text: str) -> list[int]:
        """Ids of an assistant turn with this text, its end included."""
        return [*self._encode_inert(text), self.stop_token_ids[-1]]

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation as an agent that spoke in it has them, up to its next turn."""
        ids: list[int] = []
        spoken: list[int] = []
        text, heard = "", list[Message]()
        for message in (*messages, None):
            if message is not None and message.role != "assistant":
                heard.append(message)
                continue
            ids += self.continuation(spoken, text, heard) if spoken else self.opening(heard)
            if message is not None:
                text, spoken, heard = message.content, self.turn(message.content), []
                ids += spoken
        return ids

    # Inside.

    def _render(
        self, messages: list[Message], cut: Callable[[str], str] = str, dummies: int = 0
    ) -> list[int]:
        """Ids of a rendered conversation, or of the part of its text that `cut` keeps.

        Where a content holds the text of a control token, it is encoded apart from the
        template, as plain text; else all is encoded in one go, as everybody does. What else
        there is (names, calls, tools) a template may leave out, repeat or write in another way,
        so there only the text of the control token itself is kept apart.
        """
        outside = [_encodable(m.content) for m in messages]  # what the slots stand for
        slots = len(messages) if any(map(self._hostile.search, outside)) else dummies

        def kept_apart(word: re.Match[str]) -> str:
            outside.append(word[0])
            return _SLOT.format(len(outside) - 1)

        def tame(text: str) -> str:
            return self._hostile.sub(kept_apart, _encodable(text))

        slotted = []
        for i, message in enumerate(messages):
            shown = _SLOT.format(i) if i < slots else outside[i]
            slotted.append(_mapped(replace(message, content="").to_dict(), tame))
            slotted[-1]["content"] = shown
        tools = _mapped(self._tools, tame)
        text = cut(self._template(slotted, tools, add_generation_prompt=True))
        pieces = _SLOTS.split(text)  # template, slot, template, slot, ..., template
        found = [int(slot) for slot in pieces[1::2]]
        if [slot for slot in found if slot < len(messages)] != list(range(dummies, slots)):
            raise RenderingError("the chat template drops, repeats or reorders messages")
        ids = self._encode(pieces[0])
        for slot, template in zip(found, pieces[2::2], strict=True):
            ids += self._encode_inert(outside[slot]) + self._encode(template)
        return ids

    def _after_assistant(self, full: str, last_id: int | None) -> str:
        """The part of a rendered conversation after its (dummy) assistant's content."""
        marker = _SLOT.format(1)
        if full.count(marker) != 1:
            raise RenderingError("the chat template rewrites earlier assistant turns")
        rest = full.split(marker)[1]
        if not rest.startswith(self._turn_end):
            raise RenderingError("the chat template ends turns differently when more follow")
        if last_id is None:
            return rest
        sampled_end = self.tokenizer.decode([last_id])
        return rest.removeprefix(sampled_end)

    def _find_turn_end(self) -> str:
        marker = _SLOT.format(1)
        dialogue = [Message("user", _SLOT.format(0)), Message("assistant", marker)]
        plain = [message.to_dict() for message in dialogue]
        tools = _mapped(self._tools, lambda text: self._hostile.sub("", text))
        text = self._template(plain, tools, add_generation_prompt=False)
        if text.count(marker) != 1:
            raise RenderingError("the chat template does not show assistant messages once")
        return text.split(marker)[1]

    def _find_stop_token_ids(self) -> tuple[int, ...]:
        first = self._encode(self._turn_end)[:1] if self._turn_end.strip() else []
        ends = (self.tokenizer.eos_token_id, *first)
        return tuple(dict.fromkeys(i for i in ends if i is not None))

    def _template(
        self, conversation: list[dict[str, Any]], tools: list[dict[str, Any]], **options: Any
    ) -> str:
        if tools:
            options["tools"] = tools
        text = self.tokenizer.apply_chat_template(conversation, tokenize=False, **options)
        return str(text)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _encode_inert(self, text: str) -> list[int]:
        """Encode so that nothing in the text becomes a control token."""
        if not text or not any(control in text for control in self._controls):
            return self._encode(text)
        encode: Any = self.tokenizer.encode
        return list(encode(text, add_special_tokens=False, split_special_tokens=True))


def _encodable(text: str) -> str:
    """The text without lone surrogates, which have no encoding."""
    return text.encode("utf-8", "replace").decode()


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every string in it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_mapped(k, change): _mapped(v, change) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(v, change) for v in value]
    return value


def _control_strings(tokenizer: Tokenizer) -> tuple[str, ...]:
    added: dict[str, int] = getattr(tokenizer, "get_added_vocab", dict)()
    special: list[str] = getattr(tokenizer, "all_special_tokens", [])
    return tuple(sorted({*added, *special}))


def _with_system(messages: list[Message], extra: str) -> list[Message]:
    if messages and messages[0].role == "system":
        head = Message("system", f"{messages[0].content}\n\n{extra}")
        return [head, *messages[1:]]
    return [Message("system", extra), *messages]
