"""Find the final answer in what a model wrote.

Pure string work, linear in the length of the text: a megabyte of `\\boxed{` is no harder
than a page of prose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

# An escaped pair (`\\{`, `\\\\`) never opens or closes a group, so it is skipped whole.
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\boxed[ \t]+([^\s{}$]+)")
_TAG = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL | re.IGNORECASE)
_HASH = re.compile(r"^[ \t]*####(.*\S.*)$", re.MULTILINE)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\$?(?:\d+(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?")


def boxed(text: str) -> list[str]:
    """The contents of every outermost, balanced `\\boxed{...}` in `text`, in order."""
    return list(_boxed(text))


def _boxed(text: str) -> Iterator[str]:
    groups: list[int] = []  # for each open brace: where a box's content starts, else -1
    found: list[tuple[int, int]] = []
    for token in _BRACES.finditer(text):
        piece = token.group()
        if piece == "}":
            start = groups.pop() if groups else -1
            if start >= 0:
                # Boxes close from the inside out: drop those that this one contains.
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, token.start()))
        elif piece == "{":
            groups.append(-1)
        elif piece.endswith("{") and len(piece) > 2:
            groups.append(token.end())
    for start, end in found:
        yield text[start:end]


def tagged(text: str) -> list[str]:
    """The contents of every `<answer>...</answer>` in `text`, in order."""
    return _TAG.findall(text)


def last_boxed(text: str) -> str | None:
    """The content of the last balanced box (`\\boxed 5` without braces counts), or None."""
    found = boxed(text) or _BARE_BOX.findall(text)
    if not found:
        return None
    inner = found[-1].strip()
    for _ in range(3):  # \boxed{\boxed{5}}, but no deeper than anyone means it
        nested = boxed(inner)
        if len(nested) != 1 or inner != f"\\boxed{{{nested[0]}}}":
            break
        inner = nested[0].strip()
    return inner


def _last(found: list[str]) -> str | None:
    return found[-1].strip() if found else None


def _last_number(text: str) -> str | None:
    return _last(_NUMBER.findall(text))


FORMATS: dict[str, Callable[[str], str | None]] = {
    "boxed": last_boxed,
    "tag": lambda text: _last(tagged(text)),
    "hash": lambda text: _last(_HASH.findall(text)),
    "number": _last_number,
    "plain": lambda text: text.strip(),
}
DEFAULT_FORMATS = ("boxed", "tag", "hash")


def extract_answer(text: str, formats: Sequence[str] = DEFAULT_FORMATS) -> str | None:
    """The final answer in `text`, or None when no format finds one that is not empty.

    Formats are tried in the order given and the first that finds something wins; within
    a format the last occurrence counts. They are `boxed` (`\\boxed{...}`, nested braces),
    `tag` (`<answer>...</answer>`), `hash` (a line `#### 18`), `number` (the last number
    anywhere: lenient) and `plain` (the whole text).

    Raises:
        ValueError: a format is not one of these.
    """
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"unknown answer format {name!r}: expected some of {list(FORMATS)}")
        if answer := FORMATS[name](text):
            return answer
    return None
