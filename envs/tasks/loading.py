"""`load_tasks`: from the name of a source to a task set."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..configfile import nearest
from .arithmetic import ArithmeticTasks
from .base import HELDOUT, HOLDOUT, TRAIN, TaskSet, canonical_split
from .countdown import CountdownTasks
from .files import SUFFIXES, Rows, as_task_list, build, hub_rows, read_rows
from .levels import LevelledTasks
from .mixture import MixtureTasks
from .records import RowFormat

_PER_SPLIT = re.compile(r"(train|heldout|test)=")
_MADE: dict[str, Callable[..., TaskSet]] = {
    "arithmetic": ArithmeticTasks,
    "countdown": CountdownTasks,
}


def load_tasks(
    source: str | Mapping[str, str],
    /,  # "levels" has an option of the same name
    *,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    **options: Any,
) -> TaskSet:
    """Load the tasks of one split. Splits are "train" and "heldout" (alias "test").

    Sources, and the options that each takes:

    - "arithmetic": made on demand. `digits`, `operations`, `terms` (`ArithmeticTasks`).
    - "countdown": made on demand. `numbers`, `largest`, `target`, `operations`
      (`CountdownTasks`).
    - "rg:FAMILY": a reasoning-gym family, made on demand; its own parameters as options.
    - a path to a .jsonl, .jsonl.gz or .parquet file: GSM8K, MATH, verl and plain rows are
      recognised. `prompt_key`, `answer_key` (may be dotted) name other fields; `holdout`
      is the share of prompts that belongs to the held-out split; `shuffle=True` orders
      the rows by `seed`, which files otherwise ignore.
    - "train=a.jsonl,heldout=b.jsonl", or a mapping of the same: a file per split. Shared
      prompts are an error, or leave the training side with `overlap="drop"`.
    - "mixture": several of these, in proportion: `sources` maps each to its weight,
      `source_options` those that take options to them; `size` is that of each.
    - "levels": one of these at several levels of difficulty, for a curriculum: `source` and
      `steps`, the options of each level, easiest first; `size` is that of each.
    - "hub:OWNER/NAME[:CONFIG]": a Hugging Face data set, with the options of files and
      `train_split`, `heldout_split`. The only source that uses the network.

    The two splits of a source never share a prompt: procedural sources and single files
    assign each prompt by a hash of its text (`is_heldout`). `size` is the number of tasks;
    without it files give all they have, and procedural sources a large train split and
    1,000 held-out tasks.

    Raises:
        ValueError, FileNotFoundError: unknown source, option or split, or bad rows.
        ImportError: an optional package is missing; the message names the extra.
    """
    split = canonical_split(split)
    if isinstance(source, str) and not _PER_SPLIT.match(source):
        named = _named(source, split, size, seed, options)
        if named is not None:
            return named
    _check(source, options, _from_rows)
    return _load_files(source, split, size, seed, **options)


def _named(
    source: str, split: str, size: int | None, seed: int, options: Mapping[str, Any]
) -> TaskSet | None:
    """The tasks of a source that is no file; None for a file."""
    kind, _, rest = source.partition(":")
    if source in _MADE:
        _check(source, options, _MADE[source])
        return _MADE[source](split=split, size=size, seed=seed, **options)
    if source == "mixture":
        _check(source, options, _mix)
        return _mix(split, size, seed, **options)
    if source == "levels":
        _check(source, options, _levels)
        return _levels(split, size, seed, **options)
    if kind == "rg":
        from .reasoning import ReasoningTasks

        return ReasoningTasks(rest, split=split, size=size, seed=seed, **options)
    if kind == "hub":
        _check(source, options, _load_hub, _from_rows)
        return _load_hub(rest, split, size, seed, **options)
    if source.endswith(SUFFIXES):
        return None
    raise ValueError(
        f'unknown task source {source!r}: expected "arithmetic", "countdown", '
        f'"rg:FAMILY", "mixture", "levels", '
        f'"hub:OWNER/NAME", or a file ending in {", ".join(SUFFIXES)}'
    )


def _check(source: object, options: Mapping[str, Any], *takers: Callable[..., TaskSet]) -> None:
    """Refuse an option that nothing takes, and the lack of one without a default."""
    taken = {
        name: parameter
        for taker in takers
        for name, parameter in inspect.signature(taker).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in ("split", "size", "seed")
    }
    for name in options:
        if name not in taken:
            hint = nearest(name, taken) or f"; it takes {', '.join(taken)}"
            raise ValueError(f"the tasks {str(source)!r} have no option {name!r}{hint}")
    for name, parameter in taken.items():
        if parameter.default is parameter.empty and name not in options:
            raise ValueError(f"the tasks {str(source)!r} need the option {name!r}")


def _mix(
    split: str,
    size: int | None,
    seed: int,
    *,
    sources: Mapping[str, float],
    source_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> TaskSet:
    given = source_options or {}
    if unknown := set(given) - set(sources):
        raise ValueError(f"options for {sorted(unknown)}, which are not among {sorted(sources)}")
    sets = {
        name: load_tasks(name, split=split, size=size, seed=seed, **given.get(name, {}))
        for name in sources
    }
    return MixtureTasks(sets, sources)


def _levels(
    split: str,
    size: int | None,
    seed: int,
    *,
    source: str,
    steps: Sequence[Mapping[str, Any]],
) -> TaskSet:
    return LevelledTasks(
        [load_tasks(source, split=split, size=size, seed=seed, **step) for step in steps]
    )


def _load_files(
    source: str | Mapping[str, str], split: str, size: int | None, seed: int, **options: Any
) -> TaskSet:
    paths = _paths(source)
    name = "+".join(f"{path.absolute().parent.name}/{path.name}" for path in paths.values())
    rows = {part: read_rows(path) for part, path in paths.items()}
    return _from_rows(name, rows, split, size, seed, **options)


def _paths(source: str | Mapping[str, str]) -> dict[str, Path]:
    """Files by split; a single file stands under "all"."""
    if isinstance(source, str):
        if not _PER_SPLIT.match(source):
            return {"all": Path(source)}
        parts = [part.strip() for part in source.split(",")]
        if not all(_PER_SPLIT.match(part) for part in parts):
            raise ValueError(f'expected "train=FILE,heldout=FILE", got {source!r}')
        pairs = [part.split("=", 1) for part in parts]
    else:
        pairs = [[split, path] for split, path in source.items()]
    paths = {canonical_split(split): Path(path) for split, path in pairs}
    if not paths or len(paths) < len(pairs):
        raise ValueError(f"expected one file per split, got {source!r}")
    return paths


def _load_hub(
    rest: str,
    split: str,
    size: int | None,
    seed: int,
    *,
    train_split: str | None = None,
    heldout_split: str | None = None,
    **options: Any,
) -> TaskSet:
    name, _, config = rest.partition(":")
    names = {TRAIN: train_split, HELDOUT: heldout_split}
    chosen = {part: own for part, own in names.items() if own is not None}
    rows = hub_rows(name, config or None, chosen)
    if HELDOUT not in rows and TRAIN in rows:
        rows = {"all": rows[TRAIN]}  # the data set holds nothing out, so the hash rule does
    return _from_rows(f"hub:{rest}", rows, split, size, seed, **options)


def _from_rows(
    name: str,
    rows: Mapping[str, Rows],
    split: str,
    size: int | None,
    seed: int,
    *,
    prompt_key: str | None = None,
    answer_key: str | None = None,
    holdout: float = HOLDOUT,
    overlap: str = "raise",
    shuffle: bool = False,
) -> TaskSet:
    row_format = RowFormat(prompt_key, answer_key)
    tasks = build(name, rows, split, row_format=row_format, holdout=holdout, overlap=overlap)
    return as_task_list(name, split, tasks, size=size, shuffle=shuffle, seed=seed)
