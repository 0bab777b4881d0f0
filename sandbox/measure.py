"""What a sandbox costs on this machine: wall-clock seconds from asking to having the answer.

    latency("print", 100, sandbox)   # one program, in a place of its own
    throughput(sandbox, PRINT, clients=32, seconds=5).per_second

Every answer is checked, so that nothing fast and wrong is measured. `bare_fork` is the floor:
what fork and exit cost here for a process of the same size.
"""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .base import Sandbox, Session
from .types import Execution, SandboxError

PRINT = "print(6 * 7)"
# Not what the server rehearses: another polynomial, another integrand, another matrix.
SYMPY = """\
import numpy, sympy
x = sympy.Symbol("x")
assert sympy.factor(x**6 - 7*x**4 + 14*x**2 - 8).is_Mul
assert sympy.integrate(x * sympy.cos(2 * x), (x, 0, sympy.pi / 2)) == sympy.Rational(-1, 2)
assert round(numpy.linalg.det(numpy.array([[2.0, 1, 0], [1, 3, 1], [0, 1, 4]]))) == 18
print(42)
"""
JOBS = ("print", "sympy", "open", "call", "fork")
_WARM_UP = 3
_FEWEST = 5
_BARE_FORK = """\
import importlib.util, json, os, sys, time
sys.path[:], names, path, n = json.loads(sys.argv[1])
spec = importlib.util.spec_from_file_location("rehearsal", path)
rehearsal = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rehearsal)
rehearsal.preload(names)
seconds = []
for _ in range(n):
    start = time.perf_counter()
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds))
"""


def latency(
    job: str,
    n: int,
    sandbox: Sandbox,
    *,
    rest_s: float = 0.0,
    seconds: float = math.inf,
) -> list[float]:
    """Seconds that each of `n` runs of `job` took, one after the other.

    Args:
        job: `print` and `sympy` run a program once in a session of its own, `open` opens and
            closes a session, `call` is one more call in a live one, `fork` a copy of a live one.
        rest_s: pause before each run, as between the calls of an agent: the back end may clean
            up and make ready meanwhile.
        seconds: fewer runs, but at least five, when they take longer than this.

    Raises:
        ValueError: an unknown job.
        SandboxError: the sandbox was lost, or gave a wrong answer.
    """
    if job not in JOBS:
        raise ValueError(f"unknown job {job!r}; jobs are {', '.join(JOBS)}")
    times: list[float] = []
    until = math.inf
    with _prepared(job, sandbox) as run:
        for i in range(n + _WARM_UP):
            time.sleep(rest_s)
            start = time.perf_counter()
            if i == _WARM_UP:
                times, until = [], start + seconds
            elif len(times) >= _FEWEST and start > until:
                break
            tidy = run()
            times.append(time.perf_counter() - start)
            if tidy is not None:
                tidy()
    return times


@contextmanager
def _prepared(job: str, sandbox: Sandbox) -> Iterator[Callable[[], Callable[[], None] | None]]:
    """What to time, once; it returns what to do afterwards, outside the measured time."""
    if job in ("print", "sympy"):
        code = PRINT if job == "print" else SYMPY
        yield lambda: _check(sandbox.run(code))
    elif job == "open":
        yield lambda: sandbox.open().close()
    else:
        with sandbox.open() as session:
            _check(session.run("x = 20\nprint(2 * x + 2)"))
            if job == "call":
                yield lambda: _check(session.run("print(2 * x + 2)"))
            else:
                yield lambda: _copy(session)


def _copy(session: Session) -> Callable[[], None]:
    twin = session.fork()

    def tidy() -> None:
        with twin:
            _check(twin.run("print(2 * x + 2)"))

    return tidy


def _check(execution: Execution) -> None:
    if not execution.ok or execution.stdout != "42\n":
        raise SandboxError(
            f"a measured program shall print 42, and ended {execution.status} with "
            f"{execution.stdout!r} {execution.stderr[-300:]!r}"
        )


@dataclass(frozen=True, slots=True)
class Throughput:
    """`runs` programs finished in `seconds`, each of which took `latencies` seconds."""

    runs: int
    seconds: float
    latencies: list[float]

    @property
    def per_second(self) -> float:
        return self.runs / self.seconds


def throughput(
    sandbox: Sandbox, code: str = PRINT, *, clients: int = 32, seconds: float = 5.0
) -> Throughput:
    """Run `code` (which prints 42) in a loop from each of `clients` tasks for `seconds`.

    Latencies are as the clients see them, with the wait for a place.

    Raises:
        SandboxError: the sandbox was lost, or gave a wrong answer.
    """
    return asyncio.run(athroughput(sandbox, code, clients=clients, seconds=seconds))


async def athroughput(
    sandbox: Sandbox, code: str = PRINT, *, clients: int = 32, seconds: float = 5.0
) -> Throughput:
    """`throughput`, in the loop of the caller."""
    _check(await sandbox.arun(code))
    latencies: list[float] = []
    begin = time.perf_counter()

    async def client() -> None:
        while (start := time.perf_counter()) < begin + seconds:
            _check(await sandbox.arun(code))
            latencies.append(time.perf_counter() - start)

    await asyncio.gather(*(client() for _ in range(clients)))
    return Throughput(len(latencies), time.perf_counter() - begin, latencies)


def bare_fork(n: int) -> list[float]:
    """Seconds for fork and exit of a process with the local sandbox's packages loaded.

    Raises:
        RuntimeError: the measuring process failed.
    """
    from .local.config import PRELOAD

    rehearsal = Path(__file__).parent / "local" / "rehearsal.py"
    given = json.dumps([sys.path, PRELOAD, str(rehearsal), n])
    # One thread, as in the server: numpy's own would be copied by no fork.
    done = subprocess.run(
        [sys.executable, "-I", "-c", _BARE_FORK, given],
        capture_output=True,
        text=True,
        env={f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")},
    )
    if done.returncode:
        raise RuntimeError(f"the bare fork could not be measured: {done.stderr[-500:]}")
    return [float(value) for value in json.loads(done.stdout)]


def quantile(values: Sequence[float], share: float) -> float:
    """The value that a `share` (0 to 1) of `values` does not exceed; nan of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
