"""Gather what a run folder holds and render it."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..evaluation.result import EvalResult
from ..evaluation.suite import SuiteResult
from ..runlog import plain, read_json, read_metrics
from .charts import draw_charts
from .facts import environment_facts, flatten, run_facts
from .tables import before_after, result_rows, suite_rows, task_rows
from .text import visible
from .transcripts import Decode, gather_transcripts

TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    folder: str | os.PathLike[str],
    *,
    decode: Decode | None = None,
    max_responses: int = 1000,
) -> Path:
    """Write `report.html` into a training or evaluation run folder and return its path.

    Args:
        decode: token ids to text (a tokenizer's `decode`); with it each transcript can also be
            shown as the tokens that were sampled (and trained) and those that were not.
        max_responses: how many transcripts to include. Whole groups are kept, spread evenly
            over steps (or tasks); the report says what it leaves out.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: a file in it is damaged; the message names it.
    """
    path = Path(folder)
    if not (path / "config.json").is_file() and not (path / "result.json").is_file():
        raise FileNotFoundError(
            f"{path} holds no run (neither config.json nor result.json): check the path"
        )
    if "model_type" in _optional(path / "config.json"):
        raise FileNotFoundError(f"{path} holds a model, not a run: give the folder of its run")
    html = (
        _environment().get_template("report.html.jinja").render(_view(path, decode, max_responses))
    )
    report = path / "report.html"
    aside = path / ".report.html.tmp"
    aside.write_bytes(html.encode("utf-8", errors="replace"))
    aside.replace(report)
    return report


def _view(folder: Path, decode: Decode | None, max_responses: int) -> dict[str, Any]:
    config = _optional(folder / "config.json")
    environment = _optional(folder / "environment.json")
    stored = _optional(folder / "result.json")
    suite = SuiteResult.from_dict(stored) if "environments" in stored else None
    result = EvalResult.from_dict(stored) if stored and not suite else None
    parts = suite.results if suite else {"": result} if result else {}
    metrics = read_metrics(folder)
    transcripts = gather_transcripts(folder, max_responses, decode)
    script = _script()
    return {
        "name": folder.resolve().name,
        "kind": "Training run" if metrics else "Suite" if suite else "Evaluation",
        "facts": run_facts(config, metrics, result),
        "environment": environment_facts(environment),
        "config": flatten(config) + flatten(result.settings if result else {}, "evaluation."),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "comparison": before_after(folder, metrics),
        "result": result_rows(result) if result else [],
        "suite": suite_rows(suite) if suite else [],
        "level": next((f"{100 * one.level:g} %" for one in parts.values()), ""),
        "tasks": _tasks(parts),
        "charts": draw_charts(metrics),
        "transcripts": transcripts,
        "data": plain(transcripts.to_dict()),
        "script": Markup(script),
        "script_hash": _hash(script),
    }


def _tasks(parts: Mapping[str, EvalResult]) -> list[dict[str, Any]]:
    """The tasks of each environment of a suite, or of the only one, which has no name."""
    return [
        row for name, one in parts.items() for row in task_rows(one, f"{name}: " if name else "")
    ]


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    return environment


def _script() -> str:
    return (TEMPLATES / "viewer.js.jinja").read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """For the content security policy: no other script runs, whatever a transcript says."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
