"""`palestra list`: the environments that can be made, and the suites that ship."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch

from tyro.conf import Positional

from .environment import entry_point
from .parsing import parse


@dataclass(frozen=True)
class Options:
    """List the environments that can be made, those of installed plug-ins included."""

    pattern: Positional[str] = ""
    """Only ids that contain this text, or match it as a shell pattern (`*/Math*`)."""
    suites: bool = False
    """List the suites that ship, for `palestra eval --suite NAME`, and what is in them."""
    json: bool = False
    """Print a JSON array."""


def main(argv: Sequence[str]) -> int:
    options = parse(
        Options, argv, command="list", examples=("", "math", "'*/Math*' --json", "--suites")
    )
    if options.suites:
        return _list_suites(options)
    from ..envs.registration import description, list_environments, missing_extra

    rows = [
        {
            "id": s.id,
            "description": description(s.id),
            "entry_point": entry_point(s),
            "missing_extra": missing_extra(s.id),
        }
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
        print("\n".join(f"{row['id']:<{width}}  {_told(row)}".rstrip() for row in rows))
    return 0 if rows else 1


def _told(row: dict[str, str]) -> str:
    extra = row["missing_extra"]
    needs = f" [not installed: pip install 'palestra[{extra}]']" if extra else ""
    return row["description"] + needs


def _list_suites(options: Options) -> int:
    from ..envs.suites import load_suite, shipped_suites

    suites = [load_suite(name) for name in shipped_suites() if _matches(name, options.pattern)]
    if options.json:
        print(json.dumps([asdict(suite) for suite in suites], indent=2))
        return 0
    for suite in suites:
        print(f"{suite.name}: {suite.description}")
        width = max(map(len, suite.environments))
        for name, entry in suite.environments.items():
            print(f"  {name:<{width}}  {entry.tasks:>3} x {entry.samples}  {entry.id}")
    if not suites:
        print(f"no suite matches {options.pattern!r}", file=sys.stderr)
    return 0 if suites else 1


def _matches(id: str, pattern: str) -> bool:
    id, pattern = id.lower(), pattern.lower()
    return pattern in id or fnmatch(id, pattern)
