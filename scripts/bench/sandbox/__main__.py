"""What one execution costs here and elsewhere: p50 and p99, all sides in one run.

Rows are ways to run model-written Python, columns are jobs:

- print: `print(6 * 7)` in a fresh place, from asking to the answer, clean-up included
- sympy: factor, a definite integral and a numpy determinant, likewise
- live: `6 * 7` once more in a place that is open already
- fork: an independent copy of a live place, ready for its first call

Before every run there are 20 ms of rest, as between the calls of an agent; `live` and `fork`
are measured once more without (`at once`): after a rest caches are cold, and whatever runs in
Python takes several times as long, as the floor of `live` shows, a bare eval in one process.
The rows take turns, so that a slow minute of the machine hits all of them. The other floor is a
plain fork and exit of a process with the same packages loaded and rehearsed. At the end
programs that do not want to end are given half a second, and it is printed when calls returned.
Peers run under `--peers-python`, an interpreter that has numpy, sympy and those of gem-llm,
smolagents, llm-sandbox, jupyter_client with ipykernel, and docker that are to be measured; rows
whose package, program or image is absent are named and left out.

examples:
  python scripts/bench/sandbox
  python scripts/bench/sandbox --peers-python ~/peers/bin/python --image palestra-sandbox
  python scripts/bench/sandbox --only palestra "python -I" --rounds 20 --json result.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
OURS = ("palestra", "palestra, on demand", "floor: fork and exit", "floor: eval in process")
PEERS = (
    *("python -I", "bubblewrap", "GEM", "smolagents", "jupyter", "llm-sandbox"),
    *("docker exec", "docker run"),
)
JOBS = ("print", "sympy", "live", "fork")
AT_ONCE = {"live": "live, at once", "fork": "fork, at once"}
COLUMNS = ("print", "sympy", "live", "live, at once", "fork", "fork, at once")
REST_S = 0.02
SLOW = {"jupyter": 4, "llm-sandbox": 4, "docker exec": 4, "docker run": 8}  # fewer of these
GOALS_MS = {"print": 3.0, "sympy": 40.0, "live": 0.3, "fork": 5.0}


class Row:
    """A child process that measures one way on request."""

    def __init__(self, name: str, python: str, image: str) -> None:
        self.name = name
        self.samples: dict[str, list[float]] = {column: [] for column in COLUMNS}
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        self._child = subprocess.Popen(
            [python, str(HERE / "ways.py"), name, image],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        hello = self._read()
        self.jobs: list[str] = hello.get("jobs", [])
        self.absent: str = hello.get("absent", "")

    def measure(self, job: str, count: int, *, at_once: bool = False) -> None:
        assert self._child.stdin
        self._child.stdin.write(f"{job} {count} {0 if at_once else REST_S}\n")
        self._child.stdin.flush()
        self.samples[AT_ONCE[job] if at_once else job] += self._read()["seconds"]

    def close(self) -> None:
        self._child.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._child.stdout
        line = self._child.stdout.readline()
        if not line:
            said = self._child.communicate()[1].strip().splitlines()
            return {"absent": said[-1] if said else f"ended with {self._child.returncode}"}
        return dict(json.loads(line))


def measure(rows: list[Row], rounds: int, count: int) -> None:
    for done in range(rounds):
        for row in rows:
            for job in row.jobs:
                fewer = 10 if job == "sympy" else 1
                number = max(1, count // fewer // SLOW.get(row.name, 1))
                row.measure(job, number)
                if job in AT_ONCE:
                    row.measure(job, number, at_once=True)
        print(f"round {done + 1} of {rounds}", file=sys.stderr, flush=True)


def quantile(samples: list[float], share: float) -> float:
    """In milliseconds, nearest rank."""
    ordered = sorted(samples)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(rows: list[Row]) -> str:
    lines = [
        "| p50 / p99 in ms | " + " | ".join(COLUMNS) + " |",
        "| --- |" + " --- |" * len(COLUMNS),
    ]
    for row in rows:
        cells = []
        for column in COLUMNS:
            found = row.samples[column]
            cells.append(
                f"{quantile(found, 0.5):.2f} / {quantile(found, 0.99):.2f}" if found else "-"
            )
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios(rows: list[Row]) -> str:
    """How many times slower than ours each peer's medians are."""
    own = next((row for row in rows if row.name == OURS[0]), None)
    if own is None:
        return ""
    lines = []
    for row in rows:
        if row.name in PEERS:
            parts = [
                f"{job} {quantile(row.samples[job], 0.5) / quantile(own.samples[job], 0.5):.1f}x"
                for job in JOBS
                if row.samples[job] and own.samples[job]
            ]
            lines.append(f"{row.name}: {', '.join(parts)}")
    return "\n".join(["times the time of palestra, medians:", *lines])


def throughput(code: str, clients: int, seconds: float) -> float:
    """Fresh one-shot runs a second with `clients` callers that wait for each answer."""
    from palestra.sandbox import LocalSandbox

    async def run() -> int:
        done = 0
        with LocalSandbox() as sandbox:
            await sandbox.arun(code)
            until = time.perf_counter() + seconds

            async def client() -> None:
                nonlocal done
                while time.perf_counter() < until:
                    result = await sandbox.arun(code)
                    assert result.ok, result
                    done += 1

            await asyncio.gather(*(client() for _ in range(clients)))
        return done

    start = time.perf_counter()
    return asyncio.run(run()) / min(seconds, time.perf_counter() - start)


def machine() -> str:
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return (
        f"{len(os.sched_getaffinity(0))} cores of {model}, Linux {platform.release()}, load {load}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter of the peers")
    parser.add_argument("--image", default="palestra-sandbox", help="image of the Docker rows")
    parser.add_argument("--only", nargs="+", metavar="ROW", help=f"rows: {', '.join(OURS + PEERS)}")
    parser.add_argument("--rounds", type=int, default=10, help="turns that the rows take")
    parser.add_argument("--count", type=int, default=40, help="runs of a job in one turn")
    parser.add_argument("--clients", type=int, default=32, help="callers in the throughput test")
    parser.add_argument("--seconds", type=float, default=8, help="of each throughput test")
    parser.add_argument("--stubborn", type=int, default=10, help="runs of each such program")
    parser.add_argument("--json", type=Path, help="file for every sample, in seconds")
    args = parser.parse_args()
    from stubborn import overruns
    from ways import PRINT, SYMPY

    print(machine())
    names = args.only or [*OURS, *PEERS]
    if unknown := set(names) - {*OURS, *PEERS}:
        parser.error(f"no rows {sorted(unknown)}; rows are {', '.join(OURS + PEERS)}")
    rows = []
    for name in names:
        row = Row(name, sys.executable if name in OURS else args.peers_python, args.image)
        if row.absent:
            print(f"left out: {name}: {row.absent}")
        else:
            rows.append(row)
    measure(rows, args.rounds, args.count)
    for row in rows:
        row.close()
    print("\n" + table(rows) + "\n\n" + ratios(rows))
    goals = ", ".join(f"{job} {goal:g} ms" for job, goal in GOALS_MS.items())
    print(f"\ngoals for p50 of the first row: {goals}")
    if set(OURS) & set(names) and args.seconds > 0:
        for what, code, goal in (("print", PRINT, 250), ("sympy", SYMPY, 45)):
            rate = throughput(code, args.clients, args.seconds)
            print(f"{what} at {args.clients} clients: {rate:.0f} a second (goal {goal})")
    if "palestra" in names and args.stubborn > 0:
        print("\n" + overruns(args.stubborn))
    if args.json:
        args.json.write_text(json.dumps({row.name: row.samples for row in rows}))


if __name__ == "__main__":
    main()
