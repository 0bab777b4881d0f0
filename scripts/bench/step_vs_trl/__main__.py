"""One GRPO step with a tool, ours against TRL's: ratios of time and memory, in one run.

First table: whole steps. A batch of groups is sampled with the Python tool (call, output,
answer), graded, learnt from, and the weights handed to the sampler. Same model, prompts,
sandbox, sampling temperature, learning rate and loss; the two sides sample for themselves,
from a model sharp enough for lengths to agree. Episodes are of two kinds (`prepare.py`): all
alike with one call, which spares TRL padding and lock step, or varied as in practice. Alike
ones are sampled at temperature 0.5: at 1, one in a hundred calls is malformed, which ends TRL's
episode and makes Palestra ask again, and then the lengths do not agree. Both sides
get a thread per core, which is the default of both and the faster setting. Steps alternate
between the sides, each in a process of its own that waits while the other works. TRL is measured
in every variant named, and with two tools: our sandbox, which TRL's users do not have, and a bare
`python -I` per call, which is what they would write. "skipping" is Palestra as it ships: it
leaves sequences without a gradient out of the forward pass; "palestra" forwards all, as TRL.

Second table: the learner alone, on the same given sequences (`learner.py`).

examples:
  python scripts/bench/step_vs_trl --trl-python ~/trl/bin/python
  python scripts/bench/step_vs_trl --trl-python ~/trl/bin/python --episodes varied
  python scripts/bench/step_vs_trl --trl-python ~/trl/bin/python --prompts 4 --size 16 --steps 5
  python scripts/bench/step_vs_trl --model ~/quickstart/base --work /tmp/bench --no-learner
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
LENGTHS = ("prompt", "completion", "sampled", "longest")
COSTS = ("wall_s", "cpu_s", "own_cpu_s", "peak_mb", "added_mb")
TOLERANCE = 0.10
Steps = list[dict[str, Any]]


class Side:
    """A child that runs one step per `go`."""

    def __init__(self, name: str, command: list[str], env: dict[str, str]) -> None:
        self.name = name
        self.steps: Steps = []
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the child)
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=env,
        )

    def step(self) -> dict[str, Any]:
        assert self._child.stdin and self._child.stdout
        try:
            self._child.stdin.write("go\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # it died; the log below says of what
        line = self._child.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"{self.name} failed:\n{self._log.read()[-3000:]}")
        self.steps.append(json.loads(line))
        return self.steps[-1]

    def close(self) -> None:
        assert self._child.stdin
        try:
            self._child.stdin.close()
            self._child.wait(30)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._child.kill()
        self._child.wait()


def environment(threads: int) -> dict[str, str]:
    path = os.pathsep.join(p for p in (str(REPOSITORY), os.environ.get("PYTHONPATH", "")) if p)
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": ""}
    return {**os.environ, **quiet, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}


def write_tasks(path: Path, count: int) -> None:
    """The prompts of every step: products of two-digit numbers."""
    from palestra.envs.tasks import load_tasks

    source = load_tasks("arithmetic", split="train", digits=2, operations="*")
    tasks = [source[i] for i in range(count)]
    path.write_text(json.dumps([{"question": t.question, "answer": t.reference} for t in tasks]))


def commands(args: argparse.Namespace, work: Path) -> dict[str, list[str]]:
    """What starts each side, by its name in the table."""
    from prepare import RESPONSE_TEMPLATE

    common = {
        "--model": work / args.episodes,
        "--tasks": work / "tasks.json",
        "--size": args.size,
        "--max-calls": args.max_calls,
        "--max-tokens": args.max_tokens,
        "--lr": args.lr,
        "--temperature": args.temperature,
    }
    flat = [str(x) for pair in common.items() for x in pair]
    ours = [sys.executable, str(HERE / "ours.py"), *flat, "--threads", str(args.our_threads)]
    flat += ["--threads", str(args.threads)]
    found = {"palestra": ours, "palestra skipping": [*ours, "--skip-zero-advantage"]}
    for variant, tool in product(args.trl, args.tools):
        found[f"trl {variant} {tool}"] = [
            *(args.trl_python, str(HERE / "theirs.py"), *flat, "--variant", variant),
            *("--tool", tool, "--steps", str(args.steps + 1), "--response-template"),
            json.dumps(RESPONSE_TEMPLATE),
        ]
    return found


def measure(args: argparse.Namespace, work: Path) -> dict[str, Steps]:
    """Every side's steps, without the first of each (warm-up); the sides alternate."""
    sides = [
        Side(name, command, environment(args.our_threads if "palestra" in name else args.threads))
        for name, command in commands(args, work).items()
    ]
    try:
        for number in range(args.steps + 1):
            for side in sides:
                s = side.step()
                note = " (warm-up)" if number == 0 else ""
                cost = f"{s['wall_s']:.2f} s wall, {s['cpu_s']:.2f} s CPU"
                print(f"step {number}{note}: {side.name}: {cost}", file=sys.stderr, flush=True)
    finally:
        for side in sides:
            side.close()
    return {side.name: side.steps[1:] for side in sides}


def summary(steps: Steps) -> dict[str, Any]:
    """Medians of the costs, means of the facts, over a side's steps."""
    numbers = {k for k, v in steps[0].items() if isinstance(v, int | float)}
    found: dict[str, Any] = {k: fmean(s[k] for s in steps) for k in numbers}
    found |= {k: median(s[k] for s in steps) for k in COSTS}
    found["peak_mb"] = max(s["peak_mb"] for s in steps)
    found["added_mb"] = max(s["added_mb"] for s in steps)
    return found | {"versions": steps[0]["versions"]}


def print_table(results: dict[str, dict[str, Any]]) -> None:
    columns = {
        "wall s": ("wall_s", ".2f"),
        "CPU s": ("cpu_s", ".2f"),
        "own CPU s": ("own_cpu_s", ".2f"),
        "peak MB": ("peak_mb", ".0f"),
        "added MB": ("added_mb", ".0f"),
        "prompt": ("prompt", ".1f"),
        "completion": ("completion", ".1f"),
        "sampled": ("sampled", ".1f"),
        "longest": ("longest", ".0f"),
        "calls": ("calls", ".2f"),
        "reward": ("reward", ".2f"),
    }
    print(f"{'':28}" + "".join(f"{c:>11}" for c in columns))
    for name, r in results.items():
        print(f"{name:28}" + "".join(f"{format(r[k], f):>11}" for k, f in columns.values()))
    for name, theirs in results.items():
        if name.startswith("trl"):
            cells = "".join(f"{theirs[k] / results['palestra'][k]:>10.1f}x" for k in COSTS)
            print(f"{name + ' / ours':28}{cells}")


def disagreement(results: dict[str, dict[str, Any]]) -> list[str]:
    """Where the two sides did not do the same work."""
    ours, found = results["palestra"], []
    if not ours["calls"]:
        found.append("no episode called the tool: the model does not know how")
    for name, theirs in results.items():
        for key in ("episodes", "calls", *LENGTHS):
            if abs(theirs[key] - ours[key]) > TOLERANCE * ours[key]:
                found.append(f"{key}: {name} {theirs[key]:.1f}, palestra {ours[key]:.1f}")
    if ours["invalid"]:
        found.append(f"{ours['invalid']:.1f} invalid episodes per step of palestra")
    return found


def full_step(args: argparse.Namespace, work: Path) -> list[str]:
    prepare = [sys.executable, str(HERE / "prepare.py"), str(work / args.episodes)]
    prepare += ["--episodes", args.episodes]
    prepare += ["--model", args.model] if args.model else []
    subprocess.run(prepare, check=True, env=environment(args.threads), stdout=sys.stderr)
    write_tasks(work / "tasks.json", args.prompts)
    steps = measure(args, work)
    results = {name: summary(found) for name, found in steps.items()}
    parameters = json.loads((work / args.episodes / "ready.json").read_text())["parameters"]
    print(
        f"\nOne GRPO step: {args.prompts} prompts x {args.size}, episodes {args.episodes}, "
        f"{parameters} parameters, temperature {args.temperature}, "
        f"threads: TRL {args.threads}, Palestra {args.our_threads}; "
        f"median of {args.steps} steps after one of warm-up"
    )
    print_table(results)
    print(
        "lengths in tokens, means; completion = sampled + tool output. CPU s: the process and\n"
        "its sandbox; own: the process alone. added MB: peak over the loaded model, sandbox not\n"
        "counted. Logging and saving are left out on both sides."
    )
    for line in dict.fromkeys(r["versions"] for r in results.values()):
        print(line)
    if args.json:
        Path(args.json).write_text(json.dumps({"args": vars(args), "steps": steps}, indent=1))
    return disagreement(results)


def learner_alone(args: argparse.Namespace) -> None:
    command = [args.trl_python, str(HERE / "learner.py"), "--threads", str(args.threads)]
    env = environment(args.threads)
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"learner.py failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout)
    print("\nThe learner alone: batch, forward, backward, clipping, AdamW; best of the rounds")
    print(f"{'':16}{'wall s':>11}{'CPU s':>11}{'added MB':>11}{'grad norm':>11}")
    for name in ("ours", "trl", "trl / ours"):
        r = found[name]
        cells = (r["wall_s"], r["cpu_s"], r["added_mb"], r["first_grad_norm"])
        print(f"{name:16}" + "".join(f"{c:>11.3g}" for c in cells))


def parse() -> argparse.Namespace:
    summary_, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        description=summary_, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--trl-python", default=sys.executable, help="an interpreter that has TRL (this one)")
    add("--model", help="a quickstart base model; default: build it, which takes minutes")
    add("--work", help="where the models are kept between runs (a folder in the temporary one)")
    add("--prompts", type=int, default=8, help="prompts per step (%(default)s)")
    add("--size", type=int, default=16, help="episodes per prompt (%(default)s)")
    add("--steps", type=int, default=3, help="measured steps of each side (%(default)s)")
    add("--episodes", choices=["alike", "varied"], default="alike", help="(%(default)s)")
    add("--threads", type=int, default=os.cpu_count(), help="TRL's torch threads (%(default)s)")
    add("--our-threads", type=int, default=os.cpu_count(), help="Palestra's (%(default)s)")
    add("--max-tokens", type=int, help="bound of a completion (160; 400 for varied episodes)")
    add("--temperature", type=float, help="of sampling (0.5; 1 for varied episodes)")
    add("--max-calls", type=int, help="bound of an episode's calls (2; 4 for varied episodes)")
    add("--lr", type=float, default=1e-6, help="learning rate (%(default)s)")
    add(
        "--trl",
        nargs="+",
        default=["float32", "bfloat16"],
        choices=["float32", "bfloat16", "continuous"],
        help="TRL's variants: precision, or transformers' continuous batching (%(default)s)",
    )
    add(
        "--tools",
        nargs="+",
        default=["sandbox", "interpreter"],
        choices=["sandbox", "interpreter"],
        help="TRL's tools: our sandbox, or a python -I per call (%(default)s)",
    )
    add("--no-learner", action="store_true", help="leave the second table out")
    add("--json", help="write every step's figures to this file")
    args = parser.parse_args()
    alike = args.episodes == "alike"
    args.max_tokens = args.max_tokens or (160 if alike else 400)
    args.temperature = args.temperature or (0.5 if alike else 1.0)
    args.max_calls = args.max_calls or (2 if alike else 4)
    return args


def main() -> None:
    args = parse()
    work = Path(args.work or Path(tempfile.gettempdir()) / "palestra-step-vs-trl")
    work.mkdir(parents=True, exist_ok=True)
    different = full_step(args, work)
    if not args.no_learner:
        learner_alone(args)
    if different:
        raise SystemExit("the sides did different work:\n  " + "\n  ".join(different))


if __name__ == "__main__":
    main()
