"""Programming tasks made on demand: a chain of typed steps, told in words, with tests.

Task `i` is a function of (options, seed, split, i). Its hidden tests are chosen from a pool
of random inputs so that every mutant of the reference (`mutation.py`) that any input of the
pool can tell from it fails one of them. A program in which dropping a step or a branch would
change nothing is drawn again.

Train and held-out are apart by what programs do, not by how they are told: a program belongs
to the split that the hash of its results on fixed probe inputs says, so two programs of
different splits never compute the same function.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..rewards.unit_tests import Call, FunctionTests, StdioCase, StdioTests, encode
from ..tasks import TaskSet
from ..tasks.base import canonical_split, in_split
from ..types import Task
from .formats import Problem
from .mutation import mutants
from .steps import CONDITIONS, INPUTS, STEPS, TYPES, VARIABLES, Condition, Step

DEFAULT_SIZE = {"train": 1_000_000, "heldout": 500}
LEVELS = (1, 5)
KINDS = ("function", "stdin")
HIDDEN, EXAMPLES, POOL, PROBES = 10, 3, 48, 48
_MAX_ATTEMPTS = 2_000
_EDGES: dict[str, Any] = {"int": 0, "ints": [], "text": "", "words": [], "counts": {}}


@dataclass(frozen=True, slots=True)
class _Program:
    """A drawn program: how it is told, its body (the last line gives `value`), its types."""

    source: str
    result: str
    phrases: tuple[str, ...]
    lines: tuple[str, ...]
    value: str

    def function(self) -> str:
        """The reference as a function `f`."""
        body = [*self.lines, f"return {self.value}"]
        return "\n".join([f"def f({VARIABLES[self.source]}):", *(f"    {one}" for one in body)])

    def script(self) -> str:
        """The reference as a program from stdin to stdout."""
        read = f"{VARIABLES[self.source]} = {_READ[self.source]}"
        return "\n".join([read, *self.lines, _PRINT[self.result].format(v=self.value)])


class ProgramTasks(TaskSet):
    """Small programs to write, at five levels.

    Args:
        level: 1 (one step on an integer, a list or a string) to 5 (four steps and a branch),
            or an inclusive (low, high) range from which it is drawn evenly.
        kind: "function" (write `f`) or "stdin" (read standard input, print the result).
        argument: only programs of this type of argument: int, ints, text, words or counts
            (counts not with "stdin"). Empty for any.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        size: int | None = None,
        seed: int = 0,
        level: int | tuple[int, int] = 1,
        kind: str = "function",
        argument: str = "",
    ) -> None:
        low, high = (level, level) if isinstance(level, int) else level
        if not LEVELS[0] <= low <= high <= LEVELS[1]:
            raise ValueError(f"level must be within 1 and 5, low to high, got {level!r}")
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        possible = sorted({s.source for s in STEPS if s.tier <= low and _may_start(s, kind)})
        if argument and argument not in possible:
            raise ValueError(f"argument must be one of {', '.join(possible)}, got {argument!r}")
        self.split, self.seed = canonical_split(split), seed
        self.size = DEFAULT_SIZE[self.split] if size is None else size
        if self.size < 0:
            raise ValueError(f"size must not be negative, got {size}")
        self.levels, self.kind, self.argument = (low, high), kind, argument
        levels = f"level={low}" + f"-{high}" * (low < high)
        of = f",argument={argument}" if argument else ""
        self.name = f"programs({levels}{',kind=stdin' * (kind == 'stdin')}{of})"

    def __len__(self) -> int:
        return self.size

    def task(self, index: int) -> Task:
        for attempt in range(_MAX_ATTEMPTS):
            rng = random.Random(f"{self.name}/{self.split}/{self.seed}/{index}/{attempt}")
            level = rng.randint(*self.levels)
            program = _draw(rng, level, self.kind, self.argument)
            if program is None or not in_split(behaviour(program), self.split):
                continue
            inputs = _choose_inputs(rng, program)
            if inputs is not None:
                problem = _problem(program, *inputs, level, self.kind)
                return problem.to_task(f"{self.name}/{self.split}/{self.seed}/{index}", self.split)
        raise ValueError(f"{self.name!r} found no program for its {self.split} split: report this")


def behaviour(program: _Program) -> str:
    """What a program does, as text: its results on fixed inputs."""
    results = _results(_compiled(program.function()), _probes(program.source))
    return f"{program.source} {' '.join(results)}"


@cache
def _probes(source: str) -> tuple[Any, ...]:
    rng = random.Random(f"palestra probes {source}")
    return tuple(INPUTS[source](rng) for _ in range(PROBES))


# Programs.


def _draw(rng: random.Random, level: int, kind: str, argument: str) -> _Program | None:
    """A chain of steps, one of them of the level's own tier; None if it got stuck."""
    usable = [step for step in STEPS if step.tier <= level]
    # Where there are more steps to begin with, more programs begin.
    starts = [s.source for s in usable if _may_start(s, kind)]
    source = current = argument or rng.choice(starts)
    count = min(level, 3) + (level == 5)
    branch_at = rng.randrange(count) if level >= 4 else None
    phrases, lines, value, tiers = [], [], VARIABLES[source], set()
    for position in range(count):
        if position == branch_at and any(test.source == current for test in CONDITIONS):
            phrase, added = _branch(rng, current, level)
            phrases.append(phrase)
            lines += added
        choices = [s for s in usable if s.source == current]
        if not choices:
            return None
        step = rng.choice(choices)
        usable.remove(step)
        tiers.add(step.tier)
        phrase, value = _told(rng, step, current)
        phrases.append(phrase)
        current = step.result
        if position < count - 1:
            lines.append(f"{VARIABLES[current]} = {value}")
    if level not in tiers:
        return None
    return _Program(source, current, tuple(phrases), tuple(lines), value)


def _may_start(step: Step, kind: str) -> bool:
    return step.source != "counts" or kind == "function"


def _told(rng: random.Random, step: Step | Condition, current: str) -> tuple[str, str]:
    """A step's phrase and expression, its constant drawn."""
    k = rng.choice(step.choices) if step.choices else None
    return step.phrase.format(k=k), step.template.format(v=VARIABLES[current], k=k)


def _branch(rng: random.Random, current: str, level: int) -> tuple[str, list[str]]:
    """`if ...: one step, otherwise: another`, both keeping the type."""
    test = rng.choice([test for test in CONDITIONS if test.source == current])
    keeping = [s for s in STEPS if s.source == s.result == current and s.tier <= level]
    condition, code = _told(rng, test, current)
    (then, yes), (otherwise, no) = (_told(rng, s, current) for s in rng.sample(keeping, 2))
    name = VARIABLES[current]
    lines = [f"if {code}:", f"    {name} = {yes}", "else:", f"    {name} = {no}"]
    return f"if {condition}, {then}, and otherwise {otherwise}", lines


# Tests.


def _choose_inputs(rng: random.Random, program: _Program) -> tuple[list[Any], list[Any]] | None:
    """Inputs for hidden tests and for examples; None if the program is not worth posing."""
    reference = program.function()
    pool = _pool(rng, program.source)
    expected = _results(_compiled(reference), pool)
    if "!" in expected or len(set(expected)) < 4 or expected == [encode(one) for one in pool]:
        return None
    kills = []
    for mutant in mutants(reference):
        results = _results(_compiled(mutant.source), pool)
        killed = {i for i, text in enumerate(results) if text != expected[i]}
        if killed:
            kills.append(killed)
        elif mutant.kind in ("drop", "branch"):
            return None
    chosen = _cover(kills)
    rest = [i for i in range(len(pool)) if i not in chosen]
    while len(chosen) < HIDDEN:
        chosen.append(rest.pop(0))
    return [pool[i] for i in chosen], [pool[i] for i in rest[-EXAMPLES:]]


def _pool(rng: random.Random, source: str) -> list[Any]:
    """Different inputs, the empty one first."""
    drawn = {encode(_EDGES[source]): _EDGES[source]}
    for _ in range(4 * POOL):
        value = INPUTS[source](rng)
        drawn.setdefault(encode(value), value)
    return list(drawn.values())[:POOL]


def _cover(kills: list[set[int]]) -> list[int]:
    """Few inputs that kill every mutant, greedily; the empty input always among them."""
    chosen, alive = [0], [killed for killed in kills if 0 not in killed]
    while alive:
        candidates = sorted({i for killed in alive for i in killed})
        best = max(candidates, key=lambda i: sum(i in killed for killed in alive))
        chosen.append(best)
        alive = [killed for killed in alive if best not in killed]
    return chosen


def _compiled(source: str) -> Callable[[Any], Any]:
    """The function `f` of a program of this module's own making (never a model's)."""
    names: dict[str, Any] = {}
    exec(compile(source, "<generated>", "exec"), names)
    function: Callable[[Any], Any] = names["f"]
    return function


def _results(function: Callable[[Any], Any], inputs: list[Any] | tuple[Any, ...]) -> list[str]:
    """Encoded results, "!" for an exception."""
    found = []
    for value in inputs:
        try:
            found.append(encode(function(value)))
        except Exception:  # noqa: BLE001 - a mutant may do anything
            found.append("!")
    return found


# Tasks.

_READ = {
    "int": "int(input())",
    "ints": "[int(x) for x in input().split()]",
    "text": "input()",
    "words": "input().split()",
}
_PRINT = {
    "int": "print({v})",
    "text": "print({v})",
    "ints": "print(*{v})",
    "words": "print(*{v})",
    "counts": "d = {v}\nfor key in sorted(d):\n    print(key, d[key])",
}
_READ_WORDS = {
    "int": "an integer n from the first line of standard input",
    "ints": "a list of integers xs, separated by spaces, from the first line of standard input",
    "text": "a string s, the first line of standard input",
    "words": "a list of strings ws, separated by spaces, from the first line of standard input",
}
_PRINT_WORDS = {
    "ints": "Print the resulting list on one line, separated by spaces.",
    "words": "Print the resulting list on one line, separated by spaces.",
    "counts": "Print a line with key and value for each key, sorted by key.",
}


def _problem(
    program: _Program, hidden: list[Any], shown: list[Any], level: int, kind: str
) -> Problem:
    reference = program.function()
    function = _compiled(reference)
    what = "; then ".join(program.phrases)
    if kind == "function":
        name = VARIABLES[program.source]
        lines = [f"f({one!r}) == {function(one)!r}" for one in shown]
        prompt = (
            f"Write a Python function f({name}) of {TYPES[program.source]} {name}: {what}. "
            f"Return the result.\n\nExamples:\n" + "\n".join(lines)
        )
        calls = _calls(function, hidden)
        return Problem(prompt, calls, _calls(function, shown), reference, difficulty=float(level))
    cases = _cases(function, shown)
    pairs = "\n".join(f"{c.stdin.strip()!r} -> {c.stdout.strip()!r}" for c in cases.cases)
    ending = _PRINT_WORDS.get(program.result, "Print the result.")
    prompt = (
        f"Write a Python program that reads {_READ_WORDS[program.source]}, and does this: "
        f"{what}. {ending}\n\nExamples (input -> output):\n{pairs}"
    )
    script = program.script()
    return Problem(prompt, _cases(function, hidden), cases, script, difficulty=float(level))


def _calls(function: Callable[[Any], Any], inputs: list[Any]) -> FunctionTests:
    return FunctionTests("f", tuple(Call.of((one,), function(one)) for one in inputs))


def _cases(function: Callable[[Any], Any], inputs: list[Any]) -> StdioTests:
    cases = tuple(StdioCase(_written(one) + "\n", _printed(function(one))) for one in inputs)
    return StdioTests(cases)


def _written(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _printed(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(f"{key} {value[key]}\n" for key in sorted(value))
    return _written(value) + "\n"
