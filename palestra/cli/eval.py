"""`palestra eval ID`: measure a model on an environment, with intervals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tyro.conf import Positional

from .environment import find, make_environment, parameters
from .errors import UsageError, nearest
from .parsing import parse
from .progress import EpisodePrinter, hush

if TYPE_CHECKING:
    from ..agents.evaluation import EvalResult
    from ..agents.runlog import RunLog
    from ..envs.core import ChatEnv


@dataclass(frozen=True)
class Options:
    """Play held-out tasks with a model and report its score with 95 % intervals.

    Every sample is on disk as soon as it is finished. Samples that failed for reasons of
    infrastructure are reported beside the score, never in it.
    """

    id: Positional[str]
    """Id of the environment, such as palestra/MathCode-v0."""
    model: str = "smollm2"
    """A model: smollm2, a local folder or a hub id. For the scripted engine, its reply."""
    engine: str = "local"
    """What runs the model: local, vllm, scripted, or package.module:Class."""
    engine_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the engine, as --engine-options.KEY VALUE."""
    env: dict[str, Any] = field(default_factory=dict)
    """Settings of the environment, as --env.KEY VALUE."""
    split: str = "heldout"
    """The task split to play, where the environment has splits."""
    tasks: int = 64
    """How many tasks of the split, from its beginning."""
    samples: int = 1
    """Episodes of each task."""
    temperature: float = 1.0
    """Of sampling; 0 is greedy."""
    max_tokens: int = 512
    """Tokens that the model may write in one episode."""
    timeout_s: float = 300.0
    """Wall clock of one episode, in seconds."""
    concurrency: int = 64
    """Episodes in flight at once."""
    seed: int = 0
    """Fixes the episodes and, where the engine is deterministic, every sampled token."""
    folder: Path | None = None
    """Where the run is kept (default: a new folder under runs/)."""
    resume: bool = False
    """Go on with the evaluation that is in the folder."""
    against: Path | None = None
    """The folder of an earlier evaluation, to compare with task by task."""
    json: bool = False
    """Print a JSON object."""

    def __post_init__(self) -> None:
        for name in ("tasks", "samples", "max_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.resume and self.folder is None:
            raise ValueError("--resume needs the --folder of the evaluation to go on with")


EXAMPLES = (
    "palestra/MathCode-v0 --model smollm2 --tasks 32",
    "palestra/MathCode-v0 --model runs/mine/checkpoints/step-100 --samples 4",
    "palestra/MathCode-v0 --engine scripted --model 'The answer is \\boxed{4}.'",
    "palestra/MathCode-v0 --env.protocol hermes --against runs/eval-before",
)


def main(argv: Sequence[str]) -> int:
    options = parse(Options, argv, command="eval", examples=EXAMPLES)
    _check_engine(options.engine)
    earlier = _earlier(options.against)
    hush(options.model)
    with closing(make_environment(options.id, settings(options))) as env:
        env_tasks = cast("ChatEnv", env.unwrapped).tasks
        tasks = [env_tasks[i] for i in range(min(options.tasks, len(env_tasks)))]
    with _open_log(options) as log:
        result = asyncio.run(_evaluate(options, tasks, log.folder))
    if options.json:
        print(json.dumps({"folder": str(log.folder), **result.to_dict()}, indent=2))
    else:
        _print(result, earlier, log.folder)
    return 0 if any(reward is not None for row in result.rows for reward in row.rewards) else 1


def _check_engine(name: str) -> None:
    """Before a folder is made."""
    from ..agents.engines import ENGINES

    if name not in ENGINES and ":" not in name:
        hint = nearest(name, ENGINES)
        raise UsageError(
            f"unknown engine {name!r}{hint}; there are {', '.join(ENGINES)}, and module:Class"
        )


def settings(options: Options) -> dict[str, Any]:
    """The environment's keyword arguments, the split among them if it has splits."""
    split = {"split": options.split} if "split" in parameters(find(options.id)) else {}
    return split | options.env


async def _evaluate(options: Options, tasks: Sequence[Any], folder: Path) -> EvalResult:
    from ..agents.agent import Agent
    from ..agents.engines import SamplingParams, make_engine
    from ..agents.evaluation import evaluate
    from ..agents.rollout import EnvPool, RolloutLimits
    from ..envs.registration import maker

    scripted = options.engine == "scripted"
    model: Any = [options.model] if scripted else options.model
    chosen = settings(options)
    make_env = maker(options.id, **chosen)
    pool = EnvPool(lambda: cast("ChatEnv", make_env().unwrapped))
    sampling = SamplingParams(max_tokens=options.max_tokens, temperature=options.temperature)
    with closing(pool):
        async with make_engine(options.engine, model, **options.engine_options) as engine:
            return await evaluate(
                pool,
                Agent(engine, sampling),
                tasks,
                name=options.model if not scripted else "scripted",
                samples=options.samples,
                seed=options.seed,
                limits=RolloutLimits(options.max_tokens, options.timeout_s),
                concurrency=options.concurrency,
                folder=folder,
                resume=options.resume,
                progress=EpisodePrinter(),
            )


def _open_log(options: Options) -> RunLog:
    from ..agents.runlog import RunLog, new_folder

    if options.resume and options.folder:
        log = RunLog.resume(options.folder)
        try:
            _check_same(options, log.config, options.folder)
        except UsageError:
            log.close()
            raise
        return log
    folder = options.folder or new_folder("runs", f"eval-{options.id.split('/')[-1]}")
    return RunLog.create(folder, asdict(options))


# What may differ when an evaluation goes on: how much is played and how it is shown.
MAY_DIFFER = {"tasks", "samples", "concurrency", "timeout_s", "folder", "resume", "against", "json"}


def _check_same(options: Options, before: dict[str, Any], folder: Path) -> None:
    from ..agents.runlog import plain

    now = cast("dict[str, Any]", plain(asdict(options)))
    changed = [k for k in now if k not in MAY_DIFFER and now[k] != before.get(k)]
    if changed:
        raise UsageError(
            f"the evaluation in {folder} had another {', '.join(changed)}: go on with what it "
            f"had, or give another folder"
        )


def _earlier(folder: Path | None) -> EvalResult | None:
    from ..agents.evaluation import EvalResult

    if folder is None:
        return None
    path = folder / "result.json"
    if not path.is_file():
        raise UsageError(f"{folder} holds no finished evaluation (no result.json in it)")
    return EvalResult.from_dict(json.loads(path.read_text(encoding="utf-8")))


def _print(result: EvalResult, earlier: EvalResult | None, folder: Path) -> None:
    from rich.console import Console

    from ..agents.evaluation import difference_table, results_table

    console = Console(highlight=False)
    console.print(results_table([earlier, result] if earlier else [result]))
    if earlier:
        console.print(difference_table(earlier, result))
    print(f"kept in {folder}")
