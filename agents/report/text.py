"""Text from anywhere, made safe to look at."""

from __future__ import annotations

import re

# Control characters, and the marks that reorder or hide text (Unicode TR 36, section 2.7).
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: object) -> str:
    """`text` with characters that cannot be seen written out, such as `\\x1b` or `\\u202e`."""
    return _HIDDEN.sub(_written_out, str(text))


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
