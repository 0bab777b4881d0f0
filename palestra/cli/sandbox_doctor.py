"""`palestra sandbox doctor`: a row for each guarantee, with what to do about those missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from .errors import UsageError, nearest
from .parsing import parse
from .sandbox_backend import Backend, make_sandbox, words

if TYPE_CHECKING:
    from ..sandbox.doctor import Report

TIERS = {
    "native": "namespaces, a private root, the system-call filter and limits",
    "landlock": "the system-call filter, Landlock for files, and limits; no namespaces",
    "seccomp": "the system-call filter and limits; every file that you may read can be read",
    "unsafe": "limits only: run nothing here that you would not run without a sandbox",
    "docker": "a hardened container, and inside it what the rows say",
    "docker+runsc": "gVisor's kernel in a hardened container, and inside it what the rows say",
}
STYLES = {"holds": "green", "does not hold": "red", "not available": "yellow"}


@dataclass(frozen=True)
class Options:
    """See which guarantees hold on this machine, each shown by an attempt.

    The exit code is 0 when the sandbox has its full strength, or, with --require, when what is
    required holds; 1 when something is missing.
    """

    require: str = ""
    """Guarantees that must hold, by the short names of the table: net,fs,memory."""
    backend: Backend = "local"
    """What to look at: the sandbox of this machine, of Docker, or of Docker under gVisor."""
    json: bool = False
    """Print a JSON object."""


EXAMPLES = ("", "--require net,fs,memory,docker", "--backend docker", "--json")


def main(argv: Sequence[str]) -> int:
    options = parse(Options, argv, command="sandbox doctor", examples=EXAMPLES)
    from ..sandbox.doctor import KEYS, examine

    required = words(options.require)
    for key in required:
        if key not in KEYS:
            hint = nearest(key, KEYS) or f"; there are {', '.join(KEYS)}"
            raise UsageError(f"unknown guarantee {key!r}{hint}")
    report = examine(partial(make_sandbox, options.backend))
    lacking = [row.key for row in report.lacking(required)]
    strong = not lacking if required else report.strong
    if options.json:
        print(json.dumps({**report.to_json(), "ok": strong, "lacking": lacking}, indent=2))
    else:
        _print(report, lacking)
    return 0 if strong else 1


def _print(report: Report, lacking: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(f"tier {report.tier}: {TIERS.get(report.tier, '')}".rstrip(": ")))
    table = Table(box=None, pad_edge=False, header_style="")
    for name in ("", "guarantee", "result", "shown by"):
        table.add_column(name, no_wrap=name in ("", "result"))
    for row in report.rows:
        result = Text(row.result, style=STYLES[row.result])
        table.add_row(Text(row.key), Text(row.title), result, Text(row.shown))
    console.print(table)
    for text, keys in _advice(report).items():
        console.print(Text(f"\n{', '.join(keys)}: {text}"))
    if lacking:
        console.print(Text(f"\nrequired and missing: {', '.join(lacking)}", style="red"))


def _advice(report: Report) -> dict[str, list[str]]:
    """Each piece of advice once, with the rows that it is for."""
    found: dict[str, list[str]] = {}
    for row in report.rows:
        if row.advice:
            found.setdefault(row.advice, []).append(row.key)
    return found
