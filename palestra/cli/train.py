"""`palestra train RECIPE`: train a policy from a recipe, or go on with a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, Suppress

from ..envs.configfile import load_json, load_toml
from ..trainers.config import TrainConfig
from .environment import check_settings, make_environment
from .errors import UsageError
from .parsing import SAYS_ITS_DEFAULT, parse
from .progress import TRAIN_ON, StepPrinter, hush, interruptible


@dataclass(frozen=True)
class Options(TrainConfig):
    """Train a policy. The recipe is a TOML file of these options; flags come on top of it."""

    recipe: Annotated[Positional[Path | None], SAYS_ITS_DEFAULT] = None
    """A TOML file; it comes before all flags. Without one, the defaults below hold."""
    folder: Annotated[Path | None, SAYS_ITS_DEFAULT] = None
    """Where the run is kept (default: a new folder under runs/)."""
    resume: Annotated[Path | None, SAYS_ITS_DEFAULT] = None
    """The folder of a run to go on with, from its last checkpoint and with its options."""
    # Keys of one's own, like other dict fields: --opponents.KEY.
    opponents: Annotated[dict[str, str], Suppress] = field(default_factory=dict)


EXAMPLES = (
    "recipe.toml",
    "recipe.toml --steps 20 --seed 1 --learner.lr 1e-5",
    "recipe.toml --env.options.protocol hermes --algorithm grpo",
    "--resume runs/mine --steps 200",
)
OWN = ("recipe", "folder", "resume")


def main(argv: Sequence[str]) -> int:
    options = parse(
        Options, argv, command="train", examples=EXAMPLES, default=_default(argv), pairs=True
    )
    given = bool(argv) and Path(argv[0]) == options.recipe
    if options.recipe and not given:
        raise UsageError(f"give the recipe {options.recipe} first, before all flags")
    if options.recipe and options.resume:
        raise UsageError("a resumed run has its own recipe: give --resume or a recipe, not both")
    _check(options)
    folder = train(without_own(options), options.folder, options.resume, _name(options))
    from .summary import print_summary

    print_summary(folder)
    return 0


def train(config: TrainConfig, folder: Path | None, resume: Path | None, name: str) -> Path:
    """Run the loop with a line of progress for each step, and return the run's folder."""
    hush(config.model)
    from ..agents.runlog import new_folder
    from ..trainers.checkpoint import latest_checkpoint
    from ..trainers.online import train as run

    latest = latest_checkpoint(resume) if resume else None
    if latest and (step := int(latest.name.removeprefix("step-"))) >= config.steps:
        print(f"{resume} is done, at step {step}: --steps {step + 1} or more goes on with it")
        return Path(resume or "")
    where = resume or folder or new_folder("runs", name)
    print(f"training {config.model} with {config.algorithm} on {config.env.id}, in {where}")
    with interruptible(where, TRAIN_ON):
        return run(config, where, resume=resume is not None, on_step=StepPrinter(config.steps))


def _check(config: TrainConfig) -> None:
    """What needs no model, before a folder is made and one is loaded."""
    from ..envs.curriculum import controller_class
    from ..trainers.algorithms import get_algorithm

    env = config.env
    check_settings(env.id, (*env.options, *env.policy_as))
    check_settings(env.id, env.heldout_options())
    try:
        get_algorithm(config.algorithm, **config.algorithm_options)
        if config.curriculum:
            controller_class(config.curriculum)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not env.policy_as:  # which is not there yet
        for settings in (env.options, env.heldout_options()):
            make_environment(env.id, settings).close()


def without_own(options: Options) -> TrainConfig:
    """The configuration proper, without what only the command line knows."""
    return TrainConfig(**_values(options))


def _default(argv: Sequence[str]) -> Options:
    """What flags come on top of: a recipe, a resumed run's configuration, or the defaults."""
    if argv and not argv[0].startswith("-"):
        return Options(**_values(load_toml(TrainConfig, argv[0])))
    resume = _value_of("--resume", argv)
    if resume is not None:
        from ..agents.runlog import read_json

        path = Path(resume) / "config.json"
        if not path.is_file():
            raise UsageError(f"{resume} holds no run to resume (there is no config.json in it)")
        if "suite" in read_json(path):
            raise UsageError(
                f"{resume} holds an evaluation: `palestra eval` with the options that it was "
                f"begun with, --folder {resume} and --resume goes on with it"
            )
        return replace(Options(**_values(load_json(TrainConfig, path))), resume=Path(resume))
    return Options()


def _values(config: TrainConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(TrainConfig)}


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
    for word, following in pairwise([*argv, ""]):
        name, equals, value = word.partition("=")
        if name == flag:
            return value if equals else following
    return None


def _name(options: Options) -> str:
    return options.recipe.stem if options.recipe else options.env.id.split("/")[-1]
