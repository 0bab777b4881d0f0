"""What a training run came to, as a table: held-out measures before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..agents.report.tables import before_after
from ..agents.runlog import read_metrics


def print_summary(folder: Path, console: Console | None = None) -> None:
    """Print the first held-out evaluation of a run beside its last, with 95 % intervals, and
    where the page with its curves and transcripts is."""
    console = console or Console(highlight=False, soft_wrap=True)
    found = before_after(folder, read_metrics(folder))
    if found:
        _print_comparison(found, console)
    report = folder / "report.html"
    if report.is_file():
        console.print(Text(f"curves and transcripts: {report}"))


def _print_comparison(found: dict[str, Any], console: Console) -> None:
    table = Table(title="held-out tasks, 95 % intervals clustered by task", title_style="")
    table.title_justify = "left"
    table.add_column("")
    for when, step in (("before", found["first"]), ("after", found["last"])):
        table.add_column(f"{when} (step {step})", justify="right")
    for row in found["rows"]:
        table.add_row(Text(row["label"]), _cell(row["before"]), _cell(row["after"]))
    console.print(table)
    for row in found["differences"]:
        console.print(Text(f"{row['label']}: {row['value']} {row['interval']}".rstrip()))


def _cell(row: dict[str, Any]) -> Text:
    return Text(f"{row['value']} {row['interval']}".rstrip())
