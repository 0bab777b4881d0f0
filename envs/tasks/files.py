"""Task sets from JSONL and Parquet files and from the Hugging Face Hub."""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..types import Task
from .base import HELDOUT, HOLDOUT, TRAIN, TaskList, canonical_split, in_split, prompt_key
from .records import RowFormat

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
Rows = Iterable[tuple[str, Any]]  # where a row stands ("file:line"), and the row


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a .jsonl, .jsonl.gz or .parquet file, each with its "file:line".

    Raises:
        FileNotFoundError, ValueError: no such file, an unknown suffix, or a bad line.
        ImportError: Parquet without pyarrow.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such task file: {path} (looked in {Path.cwd()})")
    if path.name.endswith(".parquet"):
        return _parquet_rows(path)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _json_rows(path)
    raise ValueError(f"cannot read {path}: expected a file ending in {', '.join(SUFFIXES)}")


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: expected one JSON object a line: {error}") from error
            yield where, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(f"reading {path} needs pyarrow: pip install 'palestra[data]'") from error
    number = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}:{number}", row


def hub_rows(name: str, config: str | None, split_names: Mapping[str, str]) -> dict[str, Rows]:
    """The rows of a Hub data set by Palestra's split names ("train", "heldout").

    `split_names` overrides the data set's own names; without it, "train" is "train" and
    "heldout" is "test", else "validation". Fetches from the network or its local cache.

    Raises:
        ImportError: `datasets` is not installed.
        ConnectionError: the data set is neither reachable nor cached.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"loading 'hub:{name}' needs datasets: pip install 'palestra[data]'"
        ) from error
    try:
        found = datasets.load_dataset(name, config)
    except OSError as error:  # unreachable, offline and unknown names are all OSErrors
        raise ConnectionError(
            f"cannot load 'hub:{name}' (configuration {config or 'default'}): {error}. It must "
            f"exist, and be reachable or already in the local cache; offline, download it "
            f"elsewhere and load its .jsonl or .parquet files by path"
        ) from error
    chosen: dict[str, Rows] = {}
    for split, usual in ((TRAIN, ("train",)), (HELDOUT, ("test", "validation"))):
        wanted = (split_names[split],) if split in split_names else usual
        own = next((one for one in wanted if one in found), None)
        if own is None and split in split_names:
            raise ValueError(f"'hub:{name}' has no split {wanted[0]!r}, but {sorted(found)}")
        if own is not None:
            chosen[split] = _numbered(f"hub:{name}/{own}", found[own])
    return chosen


def _numbered(name: str, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{name}:{number}", row) for number, row in enumerate(rows, 1))


def build(
    name: str,
    rows: Mapping[str, Rows],
    split: str,
    *,
    row_format: RowFormat,
    holdout: float = HOLDOUT,
    overlap: str = "raise",
) -> list[Task]:
    """The tasks of `split`, from rows given as {"all": ...} or by split.

    A single source is divided by the hash of each prompt (`holdout` is the held-out
    share). Sources given by split are compared: a training prompt that is also held out
    is an error, or is left out with a warning when `overlap="drop"`.
    """
    if overlap not in ("raise", "drop"):
        raise ValueError(f'overlap must be "raise" or "drop", got {overlap!r}')
    if "all" in rows:
        return _divide(_tasks(name, rows["all"], split, row_format), split, holdout, name)
    if split not in rows:
        raise ValueError(f"{name!r} has no {split!r} source: it gives {sorted(rows)}")
    tasks = _tasks(name, rows[split], split, row_format)
    other = HELDOUT if split == TRAIN else TRAIN
    if other not in rows:
        return tasks
    others = {prompt_key(t) for t in _tasks(name, rows[other], other, row_format)}
    return _without(tasks, others, split, overlap, name)


def _tasks(name: str, rows: Rows, split: str, row_format: RowFormat) -> list[Task]:
    return [
        row_format.to_task(row, where, f"{name}/{split}/{index}", split)
        for index, (where, row) in enumerate(rows)
    ]


def _divide(tasks: list[Task], split: str, holdout: float, name: str) -> list[Task]:
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout is a share, 0 <= holdout < 1, got {holdout}")
    kept = [task for task in tasks if in_split(prompt_key(task), split, holdout)]
    if tasks and not kept:
        raise ValueError(
            f"the {split!r} split of {name!r} is empty: none of its {len(tasks)} rows falls in it "
            f"with holdout={holdout}. Raise holdout, or give a file per split: "
            f'"train=a.jsonl,heldout=b.jsonl"'
        )
    return kept


def _without(
    tasks: list[Task], others: set[str], split: str, overlap: str, name: str
) -> list[Task]:
    shared = [task for task in tasks if prompt_key(task) in others]
    if not shared:
        return tasks
    found = (
        f"{len(shared)} of {len(tasks)} {split} prompts of {name!r} are in both splits, "
        f"the first is {shared[0].id}: {shared[0].question[:120]!r}"
    )
    if overlap == "raise":
        raise ValueError(f'{found}. Remove them, or pass overlap="drop" to train without them')
    if split == HELDOUT:  # what is held out stays: the training side gives way
        return tasks
    warnings.warn(f"{found}: left out of training", UserWarning, stacklevel=4)
    return [task for task in tasks if prompt_key(task) not in others]


def as_task_list(
    name: str, split: str, tasks: list[Task], *, size: int | None, shuffle: bool, seed: int
) -> TaskList:
    """The first `size` tasks, in the order of the file or in one drawn from `seed`."""
    if size is not None and not 0 <= size <= len(tasks):
        raise ValueError(
            f"asked for {size} tasks, but the {split!r} split of {name!r} has {len(tasks)}"
        )
    if shuffle:
        tasks = sorted(tasks, key=lambda t: blake2b(f"{seed}/{t.id}".encode()).digest())
    return TaskList(name, canonical_split(split), tasks[:size])
