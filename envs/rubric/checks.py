"""Rubric items that a program can check: the `verify` of an item in a task's metadata.

    {"text": "Names two rivers.", "weight": 1.0, "verify": {"kind": "mentions", "words": ["Po"]}}

Kinds: `regex` (`pattern`, found anywhere; `absent` turns it round), `mentions` and `avoids`
(`words`: all of them, none of them, as whole words in any case), `words`, `sentences`, `bullets`
(`least`, `most`: how many), and `code` (`code` defines `check(answer) -> bool`; it runs in a
sandbox). Items without a `verify` are for a critic that reads.

No answer can hold a check up or escape it: counting takes time in proportion to the answer,
a task's own expressions and code run elsewhere under a limit, and an answer that exceeds it,
breaks the check, or is over `MAX_CHARS` has not met the item.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..rewards.rubric import PRESCRIPTIVE, Item, Verify, items_of
from ..rewards.verifiable import matches_regex
from ..types import Task

MAX_CHARS = 20_000  # a longer answer meets no item
REGEX_CPU_S = 1.0  # for a task's own expression

_COUNTED = {
    "words": re.compile(r"\S+"),
    # From the first of several marks only, or a long run of them would be tried from each.
    "sentences": re.compile(r"(?<![.!?])[.!?]+[\"')\]]*(?=\s|$)"),
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
    """An item that a program checks in a sandbox: `code` defines `check(answer) -> bool`.

    `reference` is an answer that the check can at least read; empty where there is none.
    """

    code: str = ""
    reference: str = ""


def verified_items(task: Task) -> tuple[Item, ...]:
    """The items in a task's metadata, those with a `verify` bound to their programs.

    Raises:
        ValueError: there are none, or one has an unknown key, category or kind of check.
    """
    rows = task.metadata.get("rubric") or ()
    plain = [{k: v for k, v in row.items() if k != "verify"} for row in rows]
    items = items_of(replace(task, metadata={"rubric": plain}))
    return tuple(
        _bound(item, row.get("verify"), task.reference)
        for item, row in zip(items, rows, strict=True)
    )


def checker(spec: Mapping[str, Any]) -> Verify:
    """The check that a specification stands for (any kind but `code`).

    Raises:
        ValueError: unknown kind, or fields that are missing or not of that kind.
    """
    kind = spec.get("kind")
    fields = {k: v for k, v in spec.items() if k != "kind"}
    makers: dict[Any, Callable[..., Verify]] = {
        "regex": _regex,
        "mentions": _mentions,
        "avoids": _avoids,
        **{name: _counter(name) for name in _COUNTED},
    }
    if kind not in makers:
        raise ValueError(f"unknown check {kind!r}: expected one of {[*makers, 'code']}")
    try:
        return _bounded(makers[kind](**fields))
    except (TypeError, re.error) as error:
        raise ValueError(f"the check {dict(spec)} is not one of kind {kind!r}: {error}") from error


def prescriptive_items() -> tuple[Item, ...]:
    """Kimi K2's prescriptive items, both mandatory, with patterns for the usual offences."""
    checks: dict[str, Verify] = {
        "no_praise": lambda answer: _PRAISE.match(answer) is None,
        "no_advocacy": lambda answer: _ADVOCACY.search(answer) is None,
    }
    return tuple(replace(item, verify=_bounded(checks[item.name])) for item in PRESCRIPTIVE)


def _bounded(check: Verify) -> Verify:
    return lambda answer: len(answer) <= MAX_CHARS and check(answer)


def _bound(item: Item, spec: Mapping[str, Any] | None, reference: str) -> Item:
    if spec is None:
        return item
    if spec.get("kind") != "code":
        return replace(item, verify=checker(spec))
    if set(spec) != {"kind", "code"}:
        raise ValueError(f"a check of kind 'code' has the field 'code', got {sorted(spec)}")
    code = str(spec["code"])
    own = (item.name, item.text, item.weight, item.mandatory)
    return CodeItem(*own, code=code, reference=reference)


def _regex(*, pattern: str, absent: bool = False) -> Verify:
    re.compile(pattern)
    return lambda answer: matches_regex(
        answer, pattern, full=False, absent=absent, cpu_s=REGEX_CPU_S
    )


def _mentions(*, words: Sequence[str]) -> Verify:
    found = [_whole(word) for word in words]
    return lambda answer: all(word.search(answer) for word in found)


def _avoids(*, words: Sequence[str]) -> Verify:
    found = [_whole(word) for word in words]
    return lambda answer: not any(word.search(answer) for word in found)


def _whole(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def _counter(kind: str) -> Callable[..., Verify]:
    def make(*, least: int = 0, most: int | None = None) -> Verify:
        def check(answer: str) -> bool:
            count = len(_COUNTED[kind].findall(answer))
            return count >= least and (most is None or count <= most)

        return check

    return make
