"""`palestra sandbox bench`: a quick look at what the sandbox costs on this machine."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .parsing import parse
from .sandbox_backend import Backend, make_sandbox

if TYPE_CHECKING:
    from ..sandbox import Sandbox

REST_S = 0.01  # before each run, so that what the last one left is cleared and a spare is ready
MOST = 1000  # runs of one kind: enough for a p99


@dataclass(frozen=True)
class Options:
    """Measure what programs, calls and forks cost in the sandbox of this machine.

    Every row says how long one took, half of them (p50) and 99 of 100 (p99) at most, from
    asking to the answer. The floor is a bare fork and exit of a process of the same size.
    """

    seconds: float = 10.0
    """How long to measure, about; more gives a steadier p99."""
    clients: int = 32
    """How many ask at once where throughput is measured."""
    backend: Backend = "local"
    """What to measure: the sandbox of this machine, of Docker, or of Docker under gVisor."""
    json: bool = False
    """Print a JSON object."""

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"seconds must be positive, got {self.seconds:g}")
        if self.clients < 1:
            raise ValueError(f"clients must be at least 1, got {self.clients}")


@dataclass(frozen=True)
class Row:
    """One kind of work: `runs` of it, with the quantiles of their latency in milliseconds."""

    key: str
    what: str
    runs: int
    p50_ms: float
    p99_ms: float
    per_second: float | None = None


EXAMPLES = ("", "--seconds 60 --json", "--backend docker --clients 8")


def main(argv: Sequence[str]) -> int:
    options = parse(Options, argv, command="sandbox bench", examples=EXAMPLES)
    rows: list[Row] = []
    with make_sandbox(options.backend) as sandbox:
        tier = sandbox.tier
        for measure in _plan(options, sandbox):
            rows.append(measure())
            _progress(options, rows[-1])
    if options.json:
        found = {"tier": tier, "machine": machine(), "rows": [asdict(row) for row in rows]}
        print(json.dumps(found, indent=2))
    else:
        _print(rows, tier)
    return 0


def machine() -> str:
    """What was measured on, in a few words."""
    kernel = f"{platform.system()} {platform.release()}"
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {kernel}, Python {platform.python_version()}"


def _plan(options: Options, sandbox: Sandbox) -> list[Callable[[], Row]]:
    """What to measure; each part gets its share of the seconds."""
    share = options.seconds / 10

    def latency(key: str, what: str, job: str, rest_s: float = REST_S) -> Callable[[], Row]:
        return lambda: _latency(key, what, job, sandbox, share, rest_s)

    def load(key: str, what: str, job: str) -> Callable[[], Row]:
        return lambda: _throughput(key, what, job, sandbox, options.clients, 2 * share)

    many = f"from {options.clients} clients"
    floor = [_floor] if options.backend == "local" else []
    return [
        *floor,
        latency("print", "one print, with a pause before it", "print"),
        latency("print-at-once", "one print after another", "print", 0.0),
        latency("call", "one more call in a live session", "call", 0.0),
        latency("fork", "fork of a live session", "fork"),
        latency("sympy", "one program with sympy and numpy", "sympy"),
        load("load-print", f"prints {many}", "print"),
        load("load-sympy", f"sympy programs {many}", "sympy"),
    ]


def _floor() -> Row:
    from ..sandbox.measure import bare_fork

    return _row("floor", "floor: bare fork and exit", bare_fork(100))


def _latency(key: str, what: str, job: str, sandbox: Sandbox, share_s: float, rest_s: float) -> Row:
    from ..sandbox.measure import latency

    return _row(key, what, latency(job, MOST, sandbox, rest_s=rest_s, seconds=share_s))


def _throughput(
    key: str, what: str, job: str, sandbox: Sandbox, clients: int, seconds: float
) -> Row:
    from ..sandbox.measure import PRINT, SYMPY, throughput

    code = PRINT if job == "print" else SYMPY
    found = throughput(sandbox, code, clients=clients, seconds=seconds)
    return _row(key, what, found.latencies, found.per_second)


def _row(key: str, what: str, seconds: list[float], per_second: float | None = None) -> Row:
    from ..sandbox.measure import quantile

    p50, p99 = (round(1000 * quantile(seconds, share), 3) for share in (0.5, 0.99))
    return Row(key, what, len(seconds), p50, p99, per_second and round(per_second, 1))


def _progress(options: Options, row: Row) -> None:
    """Where somebody watches, say that something happens."""
    if not options.json and sys.stderr.isatty():
        print(f"\r\x1b[K{row.what} ...", end="", file=sys.stderr, flush=True)


def _print(rows: Sequence[Row], tier: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("")
    for name in ("runs", "p50 ms", "p99 ms", "a second"):
        table.add_column(name, justify="right")
    for row in rows:
        rate = "" if row.per_second is None else f"{row.per_second:.0f}"
        table.add_row(Text(row.what), str(row.runs), f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}", rate)
    console = Console(highlight=False)
    console.print(Text(f"tier {tier}, {machine()}"))
    console.print(table)
