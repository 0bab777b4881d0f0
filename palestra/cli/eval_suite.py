"""`palestra eval --suite NAME`: a model on every environment of a suite, in one folder."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..envs.suites import Suite, load_suite
from .errors import UsageError
from .eval import (
    ENTRY,
    GO_ON,
    Options,
    check_environment,
    engine_of,
    model_name,
    open_log,
    read_result,
    recorded,
)
from .progress import SuitePrinter, hush, interruptible

if TYPE_CHECKING:
    from ..agents.engines import Engine
    from ..agents.evaluation import SuiteResult


def main(options: Options) -> int:
    """Play the suite. The exit code is 1 where an environment has no valid episode."""
    suite = _suite(options)
    earlier = _earlier(options.against)
    hush(options.model)
    engine = engine_of(
        options, options.model
    )  # a model that cannot be loaded leaves no folder behind
    config = _config(options, suite)
    with open_log(options, suite.name, config) as log, interruptible(log.folder, GO_ON):
        result = asyncio.run(_evaluate(options, engine, suite, log.folder))
    if options.json:
        print(json.dumps({"folder": str(log.folder), **result.to_dict()}, indent=2))
    else:
        _print(result, earlier, log.folder)
    return 1 if any(math.isnan(one.score.value) for one in result.results.values()) else 0


def _suite(options: Options) -> Suite:
    """The suite with the flags' changes, each of its environments tried out."""
    if options.id:
        raise UsageError(f"give the environment {options.id} or --suite {options.suite}, not both")
    if options.opponent:
        raise UsageError("with --suite, every seat of a game has the same model: no --opponent")
    if options.env:
        raise UsageError("with --suite, settings of environments (--env) stand in the suite's file")
    suite = load_suite(options.suite).changed(options.given())
    for name, entry in suite.environments.items():
        try:
            check_environment(entry)
        except (ValueError, ImportError) as error:
            raise UsageError(f"suite {suite.name}, environment {name}: {error}") from error
    return suite


def _config(options: Options, suite: Suite) -> dict[str, Any]:
    """What the run folder keeps: the suite in full in place of the flags that change it."""
    flags = {
        key: value for key, value in recorded(options).items() if key not in (*ENTRY, "env", "id")
    }
    return flags | {"suite": suite.name, "environments": asdict(suite)["environments"]}


async def _evaluate(options: Options, engine: Engine, suite: Suite, folder: Path) -> SuiteResult:
    from ..agents.evaluation import evaluate_suite

    async with engine:
        return await evaluate_suite(
            suite,
            engine,
            name=model_name(options),
            seed=options.seed,
            concurrency=options.concurrency,
            folder=folder,
            resume=options.resume,
            progress=SuitePrinter(list(suite.environments), engine.context_length),
        )


def _earlier(folder: Path | None) -> SuiteResult | None:
    from ..agents.evaluation import SuiteResult

    if folder is None:
        return None
    stored = read_result(folder)
    if "environments" not in stored:
        raise UsageError(f"{folder} holds the evaluation of one environment: a suite is expected")
    return SuiteResult.from_dict(stored)


def _print(result: SuiteResult, earlier: SuiteResult | None, folder: Path) -> None:
    from rich.console import Console

    from ..agents.evaluation import suite_difference_table, suite_table

    console = Console(highlight=False)
    console.print(suite_table(result))
    if earlier:
        console.print(suite_difference_table(earlier, result))
    print(f"kept in {folder}")
