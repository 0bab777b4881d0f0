"""Checkpoints that are whole or not there: written aside, synced, then renamed.

`checkpoints/step-N/` holds the model as `save_pretrained` writes it (so it loads with
`AutoModelForCausalLM`, and `palestra eval --model` takes it), the tokenizer if given,
`training.pt` (optimiser, read with `weights_only=True`) and `state.json` (the loop's own
state). A folder without `state.json`, or with a temporary name, is a torn write.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from .learner import Learner

FORMAT = 1


class SavesPretrained(Protocol):
    """A Hugging Face tokenizer, as far as a checkpoint cares."""

    def save_pretrained(self, save_directory: str) -> Any: ...


def save_checkpoint(
    folder: str | Path,
    step: int,
    learner: Learner,
    state: Mapping[str, Any],
    *,
    tokenizer: SavesPretrained | None = None,
    keep: int = 0,
) -> Path:
    """Write `folder/checkpoints/step-<step>/` and return it.

    Args:
        state: the loop's state, JSON-serialisable (cursor, seeds, random-generator states).
        keep: how many of the newest checkpoints stay; 0 keeps all.

    Raises:
        FileExistsError: the step already has a checkpoint (nothing is overwritten).
        TypeError: `state` is not JSON-serialisable.
    """
    root = Path(folder) / "checkpoints"
    target = root / f"step-{step}"
    if target.exists():
        raise FileExistsError(f"{target} exists already; checkpoints are never overwritten")
    text = json.dumps({"format": FORMAT, "state": dict(state)}, indent=1)
    aside = root / f".tmp-step-{step}-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    learner.model.save_pretrained(str(aside))
    if tokenizer is not None:
        tokenizer.save_pretrained(str(aside))
    torch.save(learner.training_state(), aside / "training.pt")
    (aside / "state.json").write_text(text)
    for path in aside.rglob("*"):
        _sync(path)
    _sync(aside)
    aside.rename(target)
    _sync(root)
    if keep:
        _prune(root, keep)
    return target


def latest_checkpoint(folder: str | Path) -> Path | None:
    """The newest whole checkpoint of a run folder, or None."""
    found = _whole(Path(folder) / "checkpoints")
    return found[-1] if found else None


def load_checkpoint(path: str | Path, learner: Learner) -> dict[str, Any]:
    """Put `learner` where it was when the checkpoint was saved; returns the loop's state.

    Going on from here is bit for bit what the uninterrupted run would have done (on CPU,
    with the same number of threads).

    Raises:
        ValueError: not a whole checkpoint, or of another model, dtype or format.
    """
    path = Path(path)
    if not (path / "state.json").is_file():
        raise ValueError(f"{path} is not a whole checkpoint (no state.json): use an earlier one")
    record = json.loads((path / "state.json").read_text())
    if record["format"] != FORMAT:
        raise ValueError(f"{path} has checkpoint format {record['format']}, expected {FORMAT}")
    saved = type(learner.model).from_pretrained(str(path), dtype=learner.model.dtype)
    training = torch.load(path / "training.pt", weights_only=True, map_location=learner.device)
    learner.load_state_dict({"model": dict(saved.named_parameters())} | training)
    state: dict[str, Any] = record["state"]
    return state


def _whole(root: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = [p for p in root.glob("step-*") if (p / "state.json").is_file() and _step(p) >= 0]
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    number = path.name.removeprefix("step-")
    return int(number) if number.isdigit() else -1


def _prune(root: Path, keep: int) -> None:
    for path in _whole(root)[:-keep]:
        # Renamed first, so that a kill in the middle leaves nothing that looks whole.
        doomed = path.rename(root / f".tmp-old-{path.name}")
        shutil.rmtree(doomed)
    for torn in root.glob(".tmp-*"):
        shutil.rmtree(torn, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
