"""`palestra eval ID`, or `--suite NAME`: measure a model, with intervals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from ..envs.suites import Entry, shipped_suites
from .environment import find, make_environment
from .errors import UsageError, nearest
from .parsing import SAYS_ITS_DEFAULT, parse
from .progress import EpisodePrinter, hush, interruptible

if TYPE_CHECKING:
    from ..agents.engines import Engine
    from ..agents.evaluation import EvalResult, Exam
    from ..agents.runlog import RunLog


@dataclass(frozen=True)
class Options:
    """Play held-out tasks with a model and report its score with 95 % intervals.

    On one environment, or on those of a suite (`palestra list --suites`), whose file says how
    many tasks are played and how; flags then change that for all of them. Every sample is on
    disk as soon as it is finished. Samples that failed for reasons of infrastructure are
    reported beside the score, never in it.
    """

    id: Positional[str] = ""
    """Id of the environment, such as palestra/MathCode-v0; none with --suite."""
    suite: str = ""
    """A suite to play in place of one environment: its name, or a file ending in .toml."""
    model: str = "smollm2"
    """A model: smollm2, a local folder or a hub id. For the scripted engine, its reply."""
    engine: str = "local"
    """What runs the model: local, vllm, scripted, or package.module:Class."""
    opponent: Annotated[str, SAYS_ITS_DEFAULT] = ""
    """In a game with seats, the model in the other seats (default: the model itself)."""
    engine_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the engine, as --engine-options.KEY VALUE."""
    env: dict[str, Any] = field(default_factory=dict)
    """Settings of the environment, as --env.KEY VALUE."""
    split: Annotated[str | None, SAYS_ITS_DEFAULT] = None
    """The task split to play, where the environment has splits (default: heldout)."""
    tasks: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """How many tasks of the split, from its beginning (default: 64)."""
    samples: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Episodes of each task (default: 1)."""
    temperature: Annotated[float | None, SAYS_ITS_DEFAULT] = None
    """Of sampling; 0 is greedy (default: 1.0)."""
    max_tokens: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Tokens that the model may write in one episode (default: 512)."""
    timeout_s: Annotated[float | None, SAYS_ITS_DEFAULT] = None
    """Wall clock of one episode, in seconds (default: 300)."""
    concurrency: int = 64
    """Episodes in flight at once."""
    seed: int = 0
    """Fixes the episodes and, where the engine is deterministic, every sampled token."""
    folder: Annotated[Path | None, SAYS_ITS_DEFAULT] = None
    """Where the run is kept (default: a new folder under runs/)."""
    resume: bool = False
    """Go on with the evaluation that is in the folder."""
    against: Annotated[Path | None, SAYS_ITS_DEFAULT] = None
    """The folder of an earlier evaluation, to compare with task by task."""
    json: bool = False
    """Print a JSON object."""

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency}")
        if self.resume and self.folder is None:
            raise ValueError("--resume needs the --folder of the evaluation to go on with")
        Entry("", **self.given())  # its own checks

    def given(self) -> dict[str, Any]:
        """The fields of an `Entry` that were given as flags."""
        values = {name: getattr(self, name) for name in ENTRY}
        return {name: value for name, value in values.items() if value is not None}


GO_ON = "the same command with --folder {folder} --resume goes on"
ENTRY = ("split", "tasks", "samples", "temperature", "max_tokens", "timeout_s")
EXAMPLES = (
    "palestra/MathCode-v0 --model smollm2 --tasks 32",
    "palestra/MathCode-v0 --model runs/mine/checkpoints/step-100 --samples 4",
    "palestra/MathCode-v0 --engine scripted --model 'The answer is \\boxed{4}.'",
    "palestra/MathCode-v0 --env.protocol hermes --against runs/eval-before",
    "--suite smoke --model smollm2",
    "palestra/KuhnPoker-v0 --model runs/mine/checkpoints/step-60 --opponent smollm2",
)


def main(argv: Sequence[str]) -> int:
    options = parse(Options, argv, command="eval", examples=EXAMPLES)
    check_engine(options.engine)
    if options.suite:
        from .eval_suite import main as evaluate_suite

        return evaluate_suite(options)
    entry = _entry(options)
    earlier = _earlier(options.against)
    hush(options.model)
    from ..agents.evaluation import Exam

    config = recorded(options) | {name: getattr(entry, name) for name in ENTRY}
    with closing(Exam.of(entry)) as exam:
        # Loaded first: a model that cannot be loaded leaves no folder behind.
        engines = [engine_of(options, m) for m in (options.model, options.opponent) if m]
        with open_log(options, options.id, config) as log, interruptible(log.folder, GO_ON):
            result = asyncio.run(_evaluate(options, engines, exam, log.folder))
    if options.json:
        print(json.dumps({"folder": str(log.folder), **result.to_dict()}, indent=2))
    else:
        _print(result, earlier, log.folder)
    return 0 if any(not s.unfit for row in result.rows for s in row.valid) else 1


def _entry(options: Options) -> Entry:
    """The one environment to play.

    Raises:
        UsageError: there is none of that id, or it does not take one of the settings.
    """
    if not options.id:
        raise UsageError("give the id of an environment (`palestra list`), or --suite NAME")
    if options.id in shipped_suites() or options.id.endswith(".toml"):
        raise UsageError(f"{options.id} names a suite: give it as --suite {options.id}")
    entry = Entry(options.id, options.env, **options.given())
    check_environment(entry)
    return entry


def check_environment(entry: Entry) -> None:
    """Name a wrong id or setting, before a folder is made and a model is loaded."""
    find(entry.id)
    make_environment(entry.id, entry.settings()).close()


def check_engine(name: str) -> None:
    """Before a folder is made."""
    from ..agents.engines import ENGINES

    if name not in ENGINES and ":" not in name:
        hint = nearest(name, ENGINES) or f"; there are {', '.join(ENGINES)}"
        raise UsageError(f"unknown engine {name!r}{hint} (or give module:Class)")


async def _evaluate(
    options: Options, engines: Sequence[Engine], exam: Exam, folder: Path
) -> EvalResult:
    """The first engine plays; a second sits in the other seats of a game."""
    async with AsyncExitStack() as opened:
        for engine in engines:
            await opened.enter_async_context(engine)
        engine, *others = engines
        return await exam.play(
            engine,
            opponent=others[0] if others else None,
            name=model_name(options),
            seed=options.seed,
            concurrency=options.concurrency,
            folder=folder,
            resume=options.resume,
            progress=EpisodePrinter(engine.context_length),
        )


def engine_of(options: Options, model: str) -> Engine:
    from ..agents.engines import make_engine

    target: Any = [model] if options.engine == "scripted" else model
    return make_engine(options.engine, target, **options.engine_options)


def recorded(options: Options) -> dict[str, Any]:
    """The options, with models in local folders named so that any working directory finds them."""
    from ..agents.engines.loading import absolute

    names = () if options.engine == "scripted" else ("model", "opponent")
    return asdict(options) | {name: absolute(getattr(options, name)) for name in names}


def model_name(options: Options) -> str:
    return "scripted" if options.engine == "scripted" else options.model


def open_log(options: Options, what: str, config: Mapping[str, Any]) -> RunLog:
    """The run folder; one that is resumed must have been begun with this configuration."""
    from ..agents.runlog import RunLog, new_folder

    if options.resume and options.folder:
        try:
            log = RunLog.resume(options.folder)
        except FileNotFoundError as error:
            raise UsageError(str(error)) from error
        try:
            _check_same(config, log.config, options.folder)
        except UsageError:
            log.close()
            raise
        return log
    folder = options.folder or new_folder("runs", f"eval-{what.split('/')[-1]}")
    return RunLog.create(folder, config)


# What may differ when an evaluation goes on: how much is played and how it is shown.
MAY_DIFFER = {"tasks", "samples", "concurrency", "timeout_s", "folder", "resume", "against", "json"}


def _check_same(config: Mapping[str, Any], before: Mapping[str, Any], folder: Path) -> None:
    from ..agents.runlog import plain

    now, then = _fixed(plain(config)), _fixed(before)
    changed = [name for name in now if name not in then or now[name] != then[name]]
    if changed:
        raise UsageError(
            f"the evaluation in {folder} had another {', '.join(changed)}: go on with what it "
            f"had, or give another folder"
        )


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must stay as it was, those of a suite's environments under dotted names."""
    fixed = {key: value for key, value in config.items() if key not in MAY_DIFFER}
    for name, entry in fixed.pop("environments", {}).items():
        fixed |= {f"{name}.{key}": value for key, value in _fixed(entry).items()}
    return fixed


def _earlier(folder: Path | None) -> EvalResult | None:
    from ..agents.evaluation import EvalResult

    if folder is None:
        return None
    stored = read_result(folder)
    if "environments" in stored:
        raise UsageError(f"{folder} holds a suite: an evaluation of one environment is expected")
    return EvalResult.from_dict(stored)


def read_result(folder: Path) -> dict[str, Any]:
    """What an earlier evaluation found, as JSON holds it."""
    path = folder / "result.json"
    if not path.is_file():
        raise UsageError(f"{folder} holds no finished evaluation (no result.json in it)")
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return stored


def _print(result: EvalResult, earlier: EvalResult | None, folder: Path) -> None:
    from rich.console import Console

    from ..agents.evaluation import difference_table, results_table

    console = Console(highlight=False)
    console.print(results_table([earlier, result] if earlier else [result]))
    if earlier:
        console.print(difference_table(earlier, result))
    print(f"kept in {folder}")
