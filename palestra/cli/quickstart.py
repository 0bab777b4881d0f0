"""`palestra quickstart`: a tool-using policy, trained on this machine from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from ..envs.configfile import load_toml
from .errors import UsageError
from .parsing import SAYS_ITS_DEFAULT, parse
from .progress import TRAIN_ON, StepPrinter, hush, interruptible

RECIPE = Path(__file__).with_name("quickstart.toml")


@dataclass(frozen=True)
class Options:
    """Pre-train a micro base model, then train it with reinforcement learning to use a tool.

    The base model (under a million parameters, kept for the next time) can call Python but
    seldom does, and guesses most products wrong. Outcome reward alone makes the rare habit
    common. This shows the mechanism on a toy; it says nothing about large models.
    """

    seed: int = 0
    """Fixes the base model, the tasks and every sampled token."""
    steps: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Training steps (default: those of the recipe)."""
    tool: Annotated[bool, SAYS_ITS_DEFAULT] = True
    """Take the tool away, to see how much of the gain is due to it."""
    folder: Annotated[Path | None, SAYS_ITS_DEFAULT] = None
    """Where the run is kept (default: a new folder under runs/)."""
    base: Annotated[Path | None, SAYS_ITS_DEFAULT] = None
    """Where the base model is kept (default: runs/micro-base-SEED)."""


EXAMPLES = ("", "--seed 1", "--no-tool", "--steps 10 --folder runs/short")


def main(argv: Sequence[str]) -> int:
    options = parse(Options, argv, command="quickstart", examples=EXAMPLES)
    if options.steps is not None and options.steps < 1:
        raise UsageError(f"steps must be at least 1, got {options.steps}")
    base = options.base or Path("runs") / f"micro-base-{options.seed}"
    print(f"1. base model, pre-trained from scratch, in {base}", flush=True)
    hush("smollm2")
    from .summary import print_summary

    build_base(base, options.seed)
    folder = run(options, base)
    print("3. what came of it", flush=True)
    print_summary(folder)
    return 0


def build_base(folder: Path, seed: int) -> None:
    """Pre-train the base model, unless it is there."""
    from ..trainers.micro import build_base_model

    def progress(step: int, steps: int, loss: float) -> None:
        if step % 50 == 0 or step == steps:
            print(f"{f'{step}/{steps}':>9}  loss {loss:.3f}", flush=True)

    build_base_model(folder, seed=seed, progress=progress)


def run(options: Options, base: Path) -> Path:
    """Train the base model by the recipe and return the run's folder."""
    from ..agents.runlog import new_folder
    from ..trainers.config import TrainConfig
    from ..trainers.online import train

    recipe = load_toml(TrainConfig, RECIPE)
    env = replace(recipe.env, options={**recipe.env.options, "tool": options.tool})
    steps = options.steps or recipe.steps
    config = replace(recipe, model=str(base), seed=options.seed, steps=steps, env=env)
    folder = options.folder or new_folder("runs", "quickstart")
    with_tool = "with the Python tool" if options.tool else "without the tool"
    print(f"2. {config.algorithm} on {config.env.id}, {with_tool}, in {folder}", flush=True)
    with interruptible(folder, TRAIN_ON):
        return train(config, folder, on_step=StepPrinter(steps))
