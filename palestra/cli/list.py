"""`palestra list`: the environments that can be made."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from tyro.conf import Positional

from .parsing import parse


@dataclass(frozen=True)
class Options:
    """List the environments that can be made, those of installed plug-ins included."""

    pattern: Positional[str] = ""
    """Only ids that contain this text, or match it as a shell pattern (`*/Math*`)."""
    json: bool = False
    """Print a JSON array."""


def main(argv: Sequence[str]) -> int:
    options = parse(Options, argv, command="list", examples=("", "math", "'*/Math*' --json"))
    from ..envs.registration import description, list_environments

    rows = [
        {"id": s.id, "description": description(s.id), "entry_point": str(s.entry_point)}
        for s in list_environments()
        if _matches(s.id, options.pattern)
    ]
    if options.json:
        print(json.dumps(rows, indent=2))
    elif not rows:
        text = f"no environment matches {options.pattern!r}: `palestra list` shows all of them"
        print(text, file=sys.stderr)
    else:
        width = max(len(row["id"]) for row in rows)
        print("\n".join(f"{row['id']:<{width}}  {row['description']}".rstrip() for row in rows))
    return 0 if rows else 1


def _matches(id: str, pattern: str) -> bool:
    id, pattern = id.lower(), pattern.lower()
    return pattern in id or fnmatch(id, pattern)
