"""Steps per second, in process and served, here and elsewhere, all sides in one run.

In process: one environment in one process, resets included in the time. `echo` says what it
is told; `guess` is a number from 1 to 50 in seven turns, in GEM and TextArena their own.
Served: client and server on this machine, one session and many, with OpenEnv's own client
against both servers, and a bare WebSocket client against ours.

The rows take turns, so that a slow minute of the machine hits all of them; shown is the
median over rounds, with the slowest and fastest. Peers run under the first of
`--peers-python` that has them; those that none has are named and left out.

examples:
  python scripts/bench/env_steps
  python scripts/bench/env_steps --peers-python ~/gem/bin/python ~/openenv/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
GOALS = {"palestra echo": 100_000, "served by palestra": 2_000}
# rows of ways.py, and the module that a peer's interpreter must have
IN_PROCESS = {
    "palestra echo": None,
    "palestra guess": None,
    "GEM guess": "gem",
    "TextArena guess": "textarena",
    "OpenEnv echo": "openenv",
}


@dataclass(frozen=True)
class Row:
    """One thing to measure: a child process that answers seconds with steps."""

    name: str
    child: subprocess.Popen[str]

    def measure(self, seconds: float) -> float:
        assert self.child.stdin and self.child.stdout
        self.child.stdin.write(f"{seconds}\n")
        self.child.stdin.flush()
        answer = json.loads(self.child.stdout.readline())
        return float(answer["steps"] / answer["seconds"])

    def close(self) -> None:
        self.child.communicate()


def main() -> None:
    options = arguments()
    pythons = [sys.executable, *options.peers_python]
    with ExitStack() as stack:
        rows = [*in_process(pythons), *served(pythons, options.sessions, stack)]
        for row in rows:
            stack.enter_context(closing(row))
        rates: dict[str, list[float]] = {row.name: [] for row in rows}
        for _ in range(options.rounds):
            for row in rows:
                rates[row.name].append(row.measure(options.seconds))
    show(rates)
    if options.json:
        Path(options.json).write_text(json.dumps({"steps_per_s": rates}, indent=2) + "\n")


def in_process(pythons: Sequence[str]) -> list[Row]:
    rows = []
    for name, module in IN_PROCESS.items():
        python = pythons[0] if module is None else having(module, pythons)
        if python is None:
            print(f"left out: {name} (no --peers-python has {module})", file=sys.stderr)
        else:
            rows.append(Row(name, start(python, "ways.py", name)))
    return rows


def served(pythons: Sequence[str], sessions: Sequence[int], stack: ExitStack) -> list[Row]:
    """Rows of every client against every server."""
    python = having("openenv", pythons)
    command = ["-m", "palestra", "serve", "games:bench/Echo-v0", "--port", "0"]
    ours = stack.enter_context(Server(pythons[0], command))
    pairs = [("palestra", "bare client", pythons[0], ours)]
    if python is None:
        print("left out: OpenEnv's server and client (no --peers-python has it)", file=sys.stderr)
    else:
        theirs = stack.enter_context(Server(python, [str(HERE / "peer_server.py")]))
        pairs += [
            ("palestra", "OpenEnv's client", python, ours),
            ("OpenEnv", "OpenEnv's client", python, theirs),
        ]
    rows = []
    for who, client, interpreter, at in pairs:
        for n in sessions:
            child = start(interpreter, "ways.py", client, at.address, str(n))
            rows.append(Row(f"served by {who}, {client}, {n}", child))
    return rows


class Server:
    """A server process; its last word when it starts is its address."""

    def __init__(self, python: str, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [python, *command], stdout=subprocess.PIPE, text=True, env=environment()
        )
        assert self._process.stdout
        self.address = self._process.stdout.readline().split()[-1]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def start(python: str, script: str, *words: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [python, str(HERE / script), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert child.stdout
    if child.stdout.readline().strip() != "ready":
        raise SystemExit(f"{script} {words[0]} did not start; its error stands above")
    return child


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(REPOSITORY), str(HERE), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def having(module: str, pythons: Sequence[str]) -> str | None:
    """The first interpreter that has a module."""
    check = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    for python in pythons:
        if subprocess.run([python, "-c", check], capture_output=True).returncode == 0:
            return python
    return None


def show(rates: dict[str, list[float]]) -> None:
    width = max(map(len, rates))
    print(f"steps per second: median (slowest to fastest) on {os.cpu_count()} cores, ", end="")
    print(f"Python {platform.python_version()}")
    for name, values in rates.items():
        middle = statistics.median(values)
        spread = f"({min(values):,.0f} to {max(values):,.0f})"
        goal = next((g for key, g in GOALS.items() if name.startswith(key)), None)
        met = goal is not None and middle >= goal
        verdict = f"  goal {goal:,}: {'met' if met else 'missed'}" if goal else ""
        print(f"  {name:<{width}}  {middle:>9,.0f}  {spread}{verdict}")


def arguments() -> argparse.Namespace:
    head, _, examples = (__doc__ or "").partition("examples:")
    parser = argparse.ArgumentParser(
        prog="python scripts/bench/env_steps",
        description=head,
        epilog="examples:" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peers-python", nargs="+", default=[], metavar="PATH")
    parser.add_argument("--sessions", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--seconds", type=float, default=1.0, help="a measurement (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements a row (default 5)")
    parser.add_argument("--json", metavar="FILE", help="write every measurement")
    return parser.parse_args()


if __name__ == "__main__":
    main()
