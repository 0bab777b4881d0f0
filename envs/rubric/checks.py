"""Rubric items that a program can check: the `verify` of an item in a task's metadata.

    {"text": "Names two rivers.", "weight": 1.0, "verify": {"kind": "mentions", "words": ["Po"]}}

Kinds: `regex` (`pattern`, found anywhere; `absent` turns it round), `mentions` and `avoids`
(`words`: all of them, none of them, as whole words in any case), `words`, `sentences`, `bullets`
(`least`, `most`: how many), and `code` (`code` defines `check(answer) -> bool`; it runs in a
sandbox). Items without a `verify` are for a critic that reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..rewards.rubric import PRESCRIPTIVE, Item, items_of
from ..types import Task

MAX_CHARS = 20_000  # of an answer that are looked at
Check = Callable[[str], bool]

_COUNTED = {
    "words": re.compile(r"\S+"),
    "sentences": re.compile(r"[.!?]+[\"')\]]*(?=\s|$)"),
    "bullets": re.compile(r"^[ \t]*(?:[-*•]|\d+[.)])[ \t]+\S", re.MULTILINE),
}
_PRAISED = r"(?:question|request|topic|idea|prompt|task|choice)"
_PRAISING = (
    r"(?:great|good|excellent|wonderful|fantastic|brilliant|amazing|fascinating|interesting|lovely|"
    r"smart|clever)"
)
_PRAISE = re.compile(
    r"\W*(?:(?:what|that(?:'s| is)|this is|you ask)\s+(?:such\s+)?(?:an?\s+)?"
    r"|i love (?:this|your)\s+)?"
    rf"(?:\w+\s+)?{_PRAISING}\s+{_PRAISED}",
    re.IGNORECASE,
)
_ADVOCACY = re.compile(
    r"\b(?:this|my) (?:answer|reply|response)(?: above)? (?:\w+ )?"
    r"(?:meets|satisfies|fulfils|fulfills|follows|deserves|covers|addresses|"
    r"is (?:\w+ )?(?:correct|complete|perfect|excellent|best|accurate|helpful))\b"
    r"|\bI have (?:\w+ )?(?:followed|met|made sure|ensured|satisfied)\b"
    r"|\b(?:full|highest|maximum|top) (?:marks|score|grade|points)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class CodeItem(Item):
    """An item that a program checks in a sandbox: `code` defines `check(answer) -> bool`."""

    code: str = ""


def verified_items(task: Task) -> tuple[Item, ...]:
    """The items in a task's metadata, those with a `verify` bound to their programs.

    Raises:
        ValueError: there are none, or one has an unknown key, category or kind of check.
    """
    rows = task.metadata.get("rubric") or ()
    plain = [{k: v for k, v in row.items() if k != "verify"} for row in rows]
    items = items_of(replace(task, metadata={"rubric": plain}))
    return tuple(_bound(item, row.get("verify")) for item, row in zip(items, rows, strict=True))


def checker(spec: Mapping[str, Any]) -> Check:
    """The check that a specification stands for (any kind but `code`).

    Raises:
        ValueError: unknown kind, or fields that are missing or not of that kind.
    """
    kind = spec.get("kind")
    fields = {k: v for k, v in spec.items() if k != "kind"}
    makers: dict[Any, Callable[..., Check]] = {
        "regex": _regex,
        "mentions": _mentions,
        "avoids": _avoids,
        **{name: _counter(name) for name in _COUNTED},
    }
    if kind not in makers:
        raise ValueError(f"unknown check {kind!r}: expected one of {[*makers, 'code']}")
    try:
        return makers[kind](**fields)
    except (TypeError, re.error) as error:
        raise ValueError(f"the check {dict(spec)} is not one of kind {kind!r}: {error}") from error


def prescriptive_items() -> tuple[Item, ...]:
    """Kimi K2's prescriptive items, both mandatory, with patterns for the usual offences."""
    checks: dict[str, Check] = {
        "no_praise": lambda answer: _PRAISE.match(answer[:MAX_CHARS]) is None,
        "no_advocacy": lambda answer: _ADVOCACY.search(answer[:MAX_CHARS]) is None,
    }
    return tuple(replace(item, verify=checks[item.name]) for item in PRESCRIPTIVE)


def _bound(item: Item, spec: Mapping[str, Any] | None) -> Item:
    if spec is None:
        return item
    if spec.get("kind") != "code":
        return replace(item, verify=checker(spec))
    if set(spec) != {"kind", "code"}:
        raise ValueError(f"a check of kind 'code' has the field 'code', got {sorted(spec)}")
    return CodeItem(item.name, item.text, item.weight, item.mandatory, code=str(spec["code"]))


def _regex(*, pattern: str, absent: bool = False) -> Check:
    compiled = re.compile(pattern)
    return lambda answer: (compiled.search(answer[:MAX_CHARS]) is None) == absent


def _mentions(*, words: Sequence[str]) -> Check:
    found = [_whole(word) for word in words]
    return lambda answer: all(word.search(answer[:MAX_CHARS]) for word in found)


def _avoids(*, words: Sequence[str]) -> Check:
    found = [_whole(word) for word in words]
    return lambda answer: not any(word.search(answer[:MAX_CHARS]) for word in found)


def _whole(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def _counter(kind: str) -> Callable[..., Check]:
    def make(*, least: int = 0, most: int | None = None) -> Check:
        def check(answer: str) -> bool:
            count = len(_COUNTED[kind].findall(answer[:MAX_CHARS]))
            return count >= least and (most is None or count <= most)

        return check

    return make
