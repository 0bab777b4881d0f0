"""Checks of how an answer is written, each a pure function from text to bool.

Use `float(...)` of one as the `format` part of a reward.
"""

from __future__ import annotations

import re

from .extraction import boxed


def has_one_box(text: str) -> bool:
    """Exactly one balanced `\\boxed{...}` (those nested in it do not count), not empty."""
    boxes = boxed(text)
    return len(boxes) == 1 and boxes[0].strip() != ""


def has_one_tag(text: str, tag: str = "answer") -> bool:
    """Exactly one `<tag>...</tag>`, opened once and closed once, not empty."""
    start, end = f"<{tag}>", f"</{tag}>"
    if text.count(start) != 1 or text.count(end) != 1:
        return False
    first, last = text.index(start) + len(start), text.index(end)
    return first <= last and text[first:last].strip() != ""


def has_tags_in_order(text: str, tags: tuple[str, ...] = ("think", "answer")) -> bool:
    """Each tag exactly once, in this order, with nothing but white space around them."""
    if not all(has_one_tag(text, tag) for tag in tags):
        return False
    names = [re.escape(tag) for tag in tags]
    pattern = r"\s*".join(rf"<{name}>.*</{name}>" for name in names)
    return re.fullmatch(rf"\s*{pattern}\s*", text, re.DOTALL) is not None


def ends_after(text: str, marker: str, slack: int = 20) -> bool:
    """Whether at most `slack` characters follow the last `marker` (answered, then stopped)."""
    _, found, rest = text.rpartition(marker)
    return bool(found) and len(rest.strip()) <= slack
