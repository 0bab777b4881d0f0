"""What a run says while it is under way."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..agents.evaluation import Progress

# heading, metric, how its value is written
COLUMNS = (
    ("reward", "reward/mean", "{:.3f}"),
    ("correct", "accuracy", "{:.1%}"),
    ("tool use", "signal/tool_share", "{:.1%}"),
    ("tokens", "signal/model_tokens", "{:.0f}"),
    ("tok/s", "rollout/tokens_per_s", "{:.0f}"),
    ("s", "time/step_s", "{:.1f}"),
    ("held-out", "eval/accuracy", "{:.1%}"),
)
WIDTH = 9
TRAIN_ON = "`palestra train --resume {folder}` goes on"


def hush(model: str) -> None:
    """Keep transformers from drawing a bar for every file it reads or writes.

    Call it before transformers is imported. A model from a hub keeps the bars, as its
    download can take long.
    """
    if model == "smollm2" or Path(model).is_dir():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@contextmanager
def interruptible(folder: Path, how: str) -> Iterator[None]:
    """Have Ctrl-C say `how` to go on with the run in `{folder}`, once there is one."""
    try:
        yield
    except KeyboardInterrupt:
        if (folder / "config.json").is_file():
            raise KeyboardInterrupt(how.format(folder=folder)) from None
        raise


class EpisodePrinter:
    """Counts episodes on a terminal; tells the first failure of infrastructure, and the first
    prompt that does not fit, anywhere.

    Callable as `progress` of `agents.evaluation.evaluate`. Prints to standard error.
    `context` is the model's, in tokens.
    """

    def __init__(self, context: int, label: str = "") -> None:
        self._told: set[str] = set()
        self._context = context
        self._label = f"{label}: " if label else ""

    def __call__(self, progress: Progress) -> None:
        from ..agents.evaluation import Sample

        latest = progress.latest
        if latest.failure is not None:
            failure = f"({latest.failure.kind}): {latest.failure.message}"
            self._tell("invalid episode", failure)
        elif Sample.of(latest).unfit:
            size, room = latest.prompt_length, self._context
            self._tell("prompt", f"of {size} tokens does not fit the model's context of {room}")
        if sys.stderr.isatty():
            score = "" if progress.score is None else f", score {progress.score:.3f}"
            invalid = f", {progress.invalid} invalid" if progress.invalid else ""
            line = f"{self._label}{progress.done}/{progress.total}{score}{invalid}"
            end = "\n" if progress.done == progress.total else ""
            print(f"\r{line:<60}", end=end, file=sys.stderr, flush=True)

    def _tell(self, what: str, more: str) -> None:
        """Only the first of its kind, which says most; the table counts the rest."""
        if what not in self._told:
            self._told.add(what)
            print(f"{self._label}{what} {more}", file=sys.stderr)


class SuitePrinter:
    """An `EpisodePrinter` for each environment of a suite, numbered and by its name."""

    def __init__(self, names: Sequence[str], context: int) -> None:
        self._printers = {
            name: EpisodePrinter(context, f"{i}/{len(names)} {name}")
            for i, name in enumerate(names, start=1)
        }

    def __call__(self, name: str, progress: Progress) -> None:
        self._printers[name](progress)


class StepPrinter:
    """Prints a line for each step; callable as `on_step` of `trainers.online.train`.

    Raises:
        RuntimeError: every episode of a step was invalid; this ends the run.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._headed = False

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        if not self._headed:
            self._headed = True
            print(f"{'step':>9}" + "".join(f"{name:>{WIDTH}}" for name, _, _ in COLUMNS))
        cells = (_cell(metrics.get(name), form) for _, name, form in COLUMNS)
        line = f"{f'{step}/{self.steps}':>9}" + "".join(f"{cell:>{WIDTH}}" for cell in cells)
        invalid = max(_share(metrics, "invalid"), _share(metrics, "eval/invalid"))
        note = f"  {invalid:.1%} invalid" if invalid else ""
        print(f"{line}{note}".rstrip(), flush=True)
        if invalid == 1:
            raise RuntimeError(
                f"every episode of step {step} was invalid: the engine, the sandbox or a verifier "
                f"failed each time, so nothing can be learnt; `palestra eval` with the same model "
                f"and settings shows the first failure"
            )


def _share(metrics: Mapping[str, Any], name: str) -> float:
    value = float(metrics.get(name, 0.0))
    return 0.0 if math.isnan(value) else value


def _cell(value: float | None, form: str) -> str:
    return "" if value is None or math.isnan(value) else form.format(value)
