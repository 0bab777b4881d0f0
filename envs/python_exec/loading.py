"""`load_programs`: from the name of a source to programming tasks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...sandbox import Sandbox, shared_sandbox
from ..rewards.unit_tests import Report, UnsupportedTestError, run_tests
from ..rewards.unit_tests.spec import MATCHES
from ..tasks import LevelledTasks, TaskSet
from ..tasks.base import HOLDOUT, canonical_split
from ..tasks.files import SUFFIXES, Rows, as_task_list, build, hub_rows, read_rows
from ..tasks.records import RowFormat
from ..types import Task
from .formats import Problem, hidden_tests, read_problem, solution
from .generator import ProgramTasks

SHIPPED = Path(__file__).parent / "data" / "problems.jsonl"
SHIPPED_HOLDOUT = 0.25


def load_programs(
    source: str | Mapping[str, str] = "programs",
    *,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    **options: Any,
) -> TaskSet:
    """Load the programming tasks of one split, "train" or "heldout" (alias "test").

    Sources, and the options that each takes:

    - "programs": made on demand. `level`, `kind` (see `generator.ProgramTasks`).
    - "levels": the same at several levels, for a curriculum: `levels`, easiest first.
    - "shipped": the problems that come with Palestra, a quarter of them held out.
    - a path to a .jsonl, .jsonl.gz or .parquet file in HumanEval, MBPP or stdin/stdout
      format (see `formats`), or a mapping from split to path.
    - "hub:OWNER/NAME[:CONFIG]": a Hugging Face data set in one of these formats.

    Options of files: `match` ("tokens", "lines", "exact"), how standard output is compared;
    `unsupported`, "raise" or "drop", for problems whose tests cannot be graded from outside;
    `sandbox`, where tests' own expressions are evaluated; `holdout`, `overlap`, `shuffle` as
    for `load_tasks`.

    Raises:
        ValueError, FileNotFoundError: unknown source, option or split, or bad rows.
        UnsupportedTestError: a problem that cannot be graded from outside.
        SandboxError: tests' expressions had to be evaluated, and the sandbox was lost.
    """
    split = canonical_split(split)
    if source == "programs":
        return ProgramTasks(split=split, size=size, seed=seed, **options)
    if source == "levels":
        return _levels(split, size, seed, **options)
    if source == "shipped":
        options = {"holdout": SHIPPED_HOLDOUT, **options}
        return _load("shipped", {"all": read_rows(SHIPPED)}, split, size, seed, **options)
    if isinstance(source, Mapping):
        rows = {canonical_split(part): read_rows(Path(path)) for part, path in source.items()}
        return _load("+".join(source.values()), rows, split, size, seed, **options)
    if source.startswith("hub:"):
        name, _, config = source[4:].partition(":")
        chosen = hub_rows(name, config or None, {})
        return _load(source, chosen, split, size, seed, **options)
    if not source.endswith(SUFFIXES):
        raise ValueError(
            f'unknown source of programs {source!r}: expected "programs", "levels", "shipped", '
            f'"hub:OWNER/NAME", or a file ending in {", ".join(SUFFIXES)}'
        )
    return _load(Path(source).name, {"all": read_rows(Path(source))}, split, size, seed, **options)


def _levels(
    split: str,
    size: int | None,
    seed: int,
    *,
    levels: Sequence[int] = (1, 2, 3, 4, 5),
    kind: str = "function",
) -> TaskSet:
    return LevelledTasks(
        [ProgramTasks(split=split, size=size, seed=seed, level=one, kind=kind) for one in levels]
    )


@dataclass(frozen=True, slots=True)
class _Problems(RowFormat):
    """Rows that are problems already."""

    def to_task(self, row: Any, where: str, task_id: str, split: str) -> Task:
        assert isinstance(row, Problem)
        return row.to_task(task_id, split)


def _load(
    name: str,
    rows: Mapping[str, Rows],
    split: str,
    size: int | None,
    seed: int,
    *,
    match: str = "tokens",
    unsupported: str = "raise",
    sandbox: Sandbox | None = None,
    holdout: float = HOLDOUT,
    overlap: str = "raise",
    shuffle: bool = False,
) -> TaskSet:
    if unsupported not in ("raise", "drop"):
        raise ValueError(f'unsupported must be "raise" or "drop", got {unsupported!r}')
    if match not in MATCHES:
        raise ValueError(f"match must be one of {', '.join(MATCHES)}, got {match!r}")
    read = {part: _problems(own, match, unsupported, sandbox) for part, own in rows.items()}
    tasks = build(name, read, split, row_format=_Problems(), holdout=holdout, overlap=overlap)
    return as_task_list(name, split, tasks, size=size, shuffle=shuffle, seed=seed)


def _problems(
    rows: Rows, match: str, unsupported: str, sandbox: Sandbox | None
) -> Iterator[tuple[str, Problem]]:
    dropped: list[str] = []
    for where, row in rows:
        try:
            yield where, read_problem(row, where, lambda: sandbox or shared_sandbox(), match)
        except UnsupportedTestError as error:
            if unsupported == "raise":
                raise UnsupportedTestError(
                    f'{error}. Remove it, or leave such problems out with unsupported="drop"'
                ) from error
            dropped.append(str(error))
    if dropped:
        text = f"{len(dropped)} problems cannot be graded and are left out, the first: {dropped[0]}"
        warnings.warn(text, UserWarning, stacklevel=2)


def failing_solutions(tasks: TaskSet, sandbox: Sandbox) -> dict[str, Report | str]:
    """Grade the canonical solution of every task that has one; those that fail, by task id,
    with the report or with why there is none. Empty is what a task set should give.

    Not for use inside an event loop.
    """
    failing: dict[str, Report | str] = {}
    for task in tasks:
        program = solution(task)
        if not program:
            continue
        try:
            report = run_tests(program, hidden_tests(task), sandbox)
        except UnsupportedTestError as error:
            failing[task.id] = str(error)
        else:
            if not report.all_passed:
                failing[task.id] = report
    return failing
