"""How an agent writes a tool call as text, and how it is shown the result.

A protocol belongs to the environment (it decides the prompt and what counts as a call) and
is used by the agent (stop strings, rendering). Two are built in:

`fenced` (ZeroTIR, arXiv 2505.07773): the assistant's text is one growing turn. Generation
    stops at an opening python fence, goes on to the closing fence, the block is run, and an
    output block is appended to the same turn. The stop strings follow the text: this is
    ZeroTIR's two-state machine. Once the call budget is used up no fence stops the model any
    more; whatever output block it then writes itself is counted as hallucinated, not a call.

`hermes`: chat turns. Calls are `<tool_call>{json}</tool_call>` (several per turn work);
    results come back as tool messages. Qwen-Coder's XML, `<python>` blocks and native OpenAI
    calls are read too. Calls beyond the budget are answered with a notice, not run.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from .tools import Tool
from .types import Message, ToolCall

# Models repeat themselves: no pattern here may look for its end anew from each of its beginnings.
# A block closes at a fence that begins a line, which is what the stop string finds too:
# fences inside a line of code are code.
_FENCE_OPEN = re.compile(r"```(?:python3?|py)[ \t]*(?:\n|$)")
_FENCE_CLOSE = "\n```"
_FENCED_OUTPUT = re.compile(r"```output[ \t]*\n")
_HERMES = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
_XML_FUNCTION = re.compile(r"<function=([^<>\s]+)>(.*?)(?:</function>|$)", re.DOTALL)
_XML_PARAMETER = re.compile(r"<parameter=([^<>\s]+)>")
_PYTHON_TAG = re.compile(r"<python>(.*?)(?:</python>|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MalformedCall:
    """Text that tried to be a call. `reason` is told to the agent."""

    text: str
    reason: str


class Protocol(ABC):
    """One way to write calls. Stateless: everything follows from the turn's text."""

    name: str
    inline: bool
    """Whether results continue the assistant's own text, instead of a new chat turn."""

    @abstractmethod
    def calls(self, action: Message) -> list[ToolCall | MalformedCall]:
        """The calls that `action` makes, in order; empty means a final answer."""

    @abstractmethod
    def stops(self, text: str, may_call: bool) -> tuple[str, ...]:
        """Stop strings for the rest of a turn of which `text` was written already."""

    @abstractmethod
    def turn_is_open(self, text: str) -> bool:
        """Whether a stop string interrupted the turn half way, so generation goes on."""

    @abstractmethod
    def instructions(self, tools: Sequence[Tool]) -> str:
        """What to tell a model about the tools, for a system prompt."""

    def show(self, content: str, preceding: str) -> str:
        """A result as text to append after `preceding` (inline protocols only)."""
        return content

    def hallucinated(self, text: str) -> int:
        """How many tool outputs the model wrote itself in `text`."""
        return 0


class Fenced(Protocol):
    """Fenced python blocks inside one growing assistant turn."""

    name = "fenced"
    inline = True

    def calls(self, action: Message) -> list[ToolCall | MalformedCall]:
        if action.tool_calls:
            return list(action.tool_calls)
        text = action.content.rstrip()
        code, end = _last_block(text)
        if end != len(text) or not text:
            return []
        return [ToolCall("python", json.dumps({"code": code}, ensure_ascii=False))]

    def stops(self, text: str, may_call: bool) -> tuple[str, ...]:
        if not may_call:
            return ()
        return ("\n```",) if self.turn_is_open(text) else ("```python", "```py\n")

    def turn_is_open(self, text: str) -> bool:
        return _FENCE_OPEN.search(text, _last_block(text)[1]) is not None

    def instructions(self, tools: Sequence[Tool]) -> str:
        return (
            "You can run Python. Write a block that starts with ```python and ends with ```; "
            "it is run at once and what it prints follows in an ```output block. "
            "Names stay defined between blocks."
        )

    def show(self, content: str, preceding: str) -> str:
        lead = "" if preceding.endswith("\n") else "\n"
        return f"{lead}```output\n{content.rstrip(chr(10))}\n```\n"

    def hallucinated(self, text: str) -> int:
        return len(_FENCED_OUTPUT.findall(text))


def _last_block(text: str) -> tuple[str, int]:
    """The code in the last closed python block, and where that ends (0 without one)."""
    code, end = "", 0
    while opening := _FENCE_OPEN.search(text, end):
        # The newline of the opening line may be that of the closing fence: no code.
        start = opening.end()
        close = text.find(_FENCE_CLOSE, start - 1)
        if close < 0:
            break
        code, end = text[start:close], close + len(_FENCE_CLOSE)
    return code, end


class Hermes(Protocol):
    """`<tool_call>` JSON in chat turns, as Hermes and Qwen models write it."""

    name = "hermes"
    inline = False

    def calls(self, action: Message) -> list[ToolCall | MalformedCall]:
        if action.tool_calls:
            return list(action.tool_calls)
        found: list[tuple[int, ToolCall | MalformedCall]] = []
        for match in _HERMES.finditer(action.content):
            body = match.group(1)
            inner = _XML_FUNCTION.search(body)
            found.append((match.start(), _xml_call(inner) if inner else _json_call(body)))
        text = _HERMES.sub(lambda m: " " * len(m.group()), action.content)
        for match in _PYTHON_TAG.finditer(text):
            code = json.dumps({"code": match.group(1).strip("\n")}, ensure_ascii=False)
            found.append((match.start(), ToolCall("python", code)))
        return [
            ToolCall(c.name, c.arguments, f"call_{i}") if isinstance(c, ToolCall) else c
            for i, (_, c) in enumerate(sorted(found, key=lambda pair: pair[0]))
        ]

    def stops(self, text: str, may_call: bool) -> tuple[str, ...]:
        return ()  # the end-of-turn token stops the turn, so that several calls fit in it

    def turn_is_open(self, text: str) -> bool:
        return False

    def instructions(self, tools: Sequence[Tool]) -> str:
        schemas = "\n".join(json.dumps(tool.schema(), ensure_ascii=False) for tool in tools)
        return (
            "You may call these functions:\n<tools>\n" + schemas + "\n</tools>\n"
            "To call one, write its name and arguments as JSON:\n"
            '<tool_call>\n{"name": "NAME", "arguments": {...}}\n</tool_call>'
        )


def _json_call(body: str) -> ToolCall | MalformedCall:
    try:
        data = json.loads(body, strict=False)
    except (ValueError, RecursionError) as error:  # a giant integer is a plain ValueError
        return MalformedCall(body, f"the call is not valid JSON: {error}")
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        return MalformedCall(body, 'a call is a JSON object with "name" and "arguments"')
    arguments = data.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(data["name"], text)


def _xml_call(match: re.Match[str]) -> ToolCall:
    values = {}
    for piece in match.group(2).split("</parameter>")[:-1]:
        if opening := _XML_PARAMETER.search(piece):
            values[opening.group(1)] = piece[opening.end() :].removeprefix("\n").removesuffix("\n")
    return ToolCall(match.group(1), json.dumps(values, ensure_ascii=False))


PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (Fenced(), Hermes())}


def get_protocol(name: str) -> Protocol:
    """Look a protocol up by name.

    Raises:
        ValueError: there is none of that name; the message lists those there are.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    near = get_close_matches(name, PROTOCOLS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"no protocol {name!r}; there are {', '.join(PROTOCOLS)}.{hint}")
