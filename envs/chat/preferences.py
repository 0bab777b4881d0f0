"""The shipped preference set: good replies, each against worse ones made from it.

What is worse is known by construction, one kind of fault a pair: another question's reply,
phrases that say nothing, a reply cut off, rudeness, padding by repetition, the question given
back, the question and then another's reply, its words in a heap, a refusal.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..tasks.base import HELDOUT, TRAIN, is_heldout
from .prompts import HOLDOUT, shipped_rows

Make = Callable[[random.Random, str, str, Sequence[str]], str]

EMPTY_PHRASES = (
    "That is a great question, and many people ask it.",
    "There are many things to consider here.",
    "It depends on your situation and on what you want to achieve.",
    "In general, it is important to think carefully about all aspects.",
    "Everyone is different, so there is no single answer.",
    "With the right approach you can certainly reach your goal.",
    "I hope this information is useful to you.",
    "Let me know if you have any other questions.",
    "This is a very interesting and important topic.",
    "There are advantages and disadvantages to every option.",
    "It is always a good idea to do some research first.",
    "As with most things, practice and patience are key.",
)
RUDE = (
    "What a stupid question.",
    "Only an idiot would need to ask this.",
    "I cannot believe that you do not know this, you fool.",
    "Stop wasting my time with such nonsense.",
    "Are you really that dumb?",
    "Shut up and read for once.",
    "Honestly, you are hopeless and lazy.",
    "Any moron knows how this is done.",
    "Do not be so pathetic, just think.",
    "This is ridiculous, figure it out yourself, loser.",
)
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot answer this question.",
    "As a language model I am not able to give advice on this topic.",
    "Sorry, I do not know. Please ask an expert.",
    "I must decline to answer. Please consult a professional.",
)


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference: `chosen` is better than `rejected` as a reply to `prompt`."""

    prompt: str
    chosen: str
    rejected: str
    kind: str


def preference_pairs(split: str, half: int | None = None) -> list[Pair]:
    """Every good reply of the split against one reply of each kind of fault.

    Args:
        half: 0 or 1 for the pairs of every second question only; the two share no text.
    """
    rows = [r for r in shipped_rows() if "reply" in r]
    rows = [r for r in rows if is_heldout(r["prompt"], HOLDOUT) == (split == HELDOUT)]
    return list(_pairs(split, rows if half is None else rows[half::2]))


def all_texts() -> set[str]:
    """Every prompt and reply in the preferences of both splits."""
    pairs = [*preference_pairs(TRAIN), *preference_pairs(HELDOUT)]
    return {text for pair in pairs for text in (pair.prompt, pair.chosen, pair.rejected)}


def _pairs(split: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Pair]:
    for row in rows:
        others = [r["reply"] for r in rows if r is not row]
        draw = random.Random(f"{split}/{row['id']}")
        for kind, make in KINDS.items():
            for _ in range(1 if split == HELDOUT or kind != "off_topic" else 3):
                rejected = make(draw, row["prompt"], row["reply"], others)
                yield Pair(row["prompt"], row["reply"], rejected, kind)


def sentences(text: str) -> list[str]:
    """The sentences of a text, by their closing marks."""
    return [s for s in re.split(r"(?<=[.!?])\s+", text.strip()) if s]


def _off_topic(draw: random.Random, prompt: str, reply: str, others: Sequence[str]) -> str:
    return draw.choice(others)


def _empty_phrases(draw: random.Random, prompt: str, reply: str, others: Sequence[str]) -> str:
    return " ".join(draw.sample(EMPTY_PHRASES, draw.randint(2, 5)))


def _cut_off(draw: random.Random, prompt: str, reply: str, others: Sequence[str]) -> str:
    words = reply.split()
    return " ".join(words[: int(len(words) * draw.uniform(0.15, 0.8))]).rstrip(".,:;!?")


def _rude(draw: random.Random, prompt: str, reply: str, others: Sequence[str]) -> str:
    parts = sentences(reply)
    parts.insert(draw.randint(0, len(parts)), draw.choice(RUDE))
    return " ".join([*parts, draw.choice(RUDE)] if draw.random() < 0.5 else parts)


def _padded(draw: random.Random, prompt: str, reply: str, others: Sequence[str]) -> str:
    parts = sentences(reply)
    return " ".join(parts + [draw.choice(parts) for _ in range(draw.randint(2, 8))])


def _echo(draw: random.Random, prompt: str, reply: str, others: Sequence[str]) -> str:
    frame = draw.choice(("{}", "You ask: {}", "{} Good question!", "{0} {0}"))
    return frame.format(prompt)


def _copied(draw: random.Random, prompt: str, reply: str, others: Sequence[str]) -> str:
    return f"{prompt.rstrip('?.')}. {draw.choice(others)}"


def _heap(draw: random.Random, prompt: str, reply: str, others: Sequence[str]) -> str:
    words = prompt.rstrip("?.").split()
    return " ".join(draw.choice(words) for _ in range(draw.randint(5, 40)))


def _refusal(draw: random.Random, prompt: str, reply: str, others: Sequence[str]) -> str:
    return draw.choice(REFUSALS)


KINDS: dict[str, Make] = {
    "off_topic": _off_topic,
    "empty_phrases": _empty_phrases,
    "cut_off": _cut_off,
    "rude": _rude,
    "padded": _padded,
    "echo": _echo,
    "copied": _copied,
    "heap": _heap,
    "refusal": _refusal,
}
