"""What a run says while it is under way."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def hush(model: str) -> None:
    """Keep transformers from drawing a bar for every file it reads or writes.

    Call it before transformers is imported. A model from a hub keeps the bars, as its
    download can take long.
    """
    if model == "smollm2" or Path(model).is_dir():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


class StepPrinter:
    """Prints a line for each step; callable as `on_step` of `trainers.online.train`."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._headed = False

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        if not self._headed:
            self._headed = True
            print(f"{'step':>9}" + "".join(f"{name:>{WIDTH}}" for name, _, _ in COLUMNS))
        cells = (_cell(metrics.get(name), form) for _, name, form in COLUMNS)
        line = f"{f'{step}/{self.steps}':>9}" + "".join(f"{cell:>{WIDTH}}" for cell in cells)
        print(line.rstrip(), flush=True)


def _cell(value: float | None, form: str) -> str:
    return "" if value is None or math.isnan(value) else form.format(value)
