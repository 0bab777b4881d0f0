"""Rows of task files as programming problems: HumanEval, MBPP, and stdin/stdout.

| format | recognised by | hidden tests | examples the agent may see |
| --- | --- | --- | --- |
| HumanEval | `entry_point` and `test` | `check(candidate)` | doctests of the docstring |
| MBPP | `test_list` | all assertions | the first assertion |
| stdin/stdout | `tests`, or APPS' `input_output` | all pairs | `examples`, or the first pair |

Assertions become calls with expected values by reading them (`unit_tests.translate`); what
cannot be split so keeps its code, which then runs in a session of its own.
"""

from __future__ import annotations

import ast
import doctest
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...sandbox import Sandbox
from ..rewards.unit_tests import (
    Call,
    CheckTests,
    FunctionTests,
    StdioCase,
    StdioTests,
    UnitTests,
    UnsupportedTestError,
    encode,
    unit_tests_from_json,
    unit_tests_to_json,
)
from ..rewards.unit_tests.translate import (
    Pending,
    find_check,
    literal,
    translate,
    translate_body,
)
from ..rewards.unit_tests.trusted import resolve
from ..types import Message, Task

Row = Mapping[str, Any]
GetSandbox = Callable[[], Sandbox]


@dataclass(frozen=True, slots=True)
class Problem:
    """A programming problem. Only `prompt` and `examples` may be shown to the agent."""

    prompt: str
    tests: UnitTests
    examples: UnitTests | None = None
    solution: str = ""
    id: str = ""
    difficulty: float | None = None

    def to_task(self, task_id: str, split: str) -> Task:
        """Hidden tests and solution go into the reference, which no agent is shown."""
        reference = {"tests": unit_tests_to_json(self.tests), "solution": self.solution}
        examples = self.examples and len(self.examples) and unit_tests_to_json(self.examples)
        return Task(
            id=self.id or task_id,
            prompt=(Message("user", self.prompt),),
            reference=json.dumps(reference),
            split=split,
            difficulty=self.difficulty,
            metadata={"examples": examples} if examples else {},
        )


def hidden_tests(task: Task) -> UnitTests:
    """The tests that decide.

    Raises:
        ValueError, KeyError: the task was not made by `load_programs`.
    """
    return unit_tests_from_json(json.loads(task.reference)["tests"])


def example_tests(task: Task) -> UnitTests | None:
    """The tests that the agent may see fail, if there are any."""
    examples = task.metadata.get("examples")
    return unit_tests_from_json(examples) if examples else None


def solution(task: Task) -> str:
    """The canonical solution as a whole program; empty where the file gives none."""
    return str(json.loads(task.reference)["solution"])


def read_problem(row: Any, where: str, get_sandbox: GetSandbox, match: str = "tokens") -> Problem:
    """One row of a file, in whichever of the formats it is.

    Args:
        where: file and line, the start of every error message.
        get_sandbox: asked for a sandbox if the test's expressions have to be evaluated.
        match: how standard output is compared (`StdioTests.match`).

    Raises:
        ValueError: the row has none of the formats, or a field is missing or odd.
        UnsupportedTestError: its tests cannot be graded from outside; the message says why.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
    try:
        if "entry_point" in row and "test" in row:
            return _humaneval(row, get_sandbox)
        if "test_list" in row:
            return _mbpp(row, get_sandbox)
        if "input_output" in row or "tests" in row:
            return _stdio(row, match)
    except KeyError as error:
        raise ValueError(f"{where}: no field {error}; got {sorted(row)}") from error
    except UnsupportedTestError as error:
        raise UnsupportedTestError(f"{where}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    raise ValueError(
        f"{where}: expected HumanEval fields (prompt, entry_point, test), MBPP fields (text or "
        f"prompt, test_list) or stdin/stdout fields (prompt, tests), got {sorted(row)}"
    )


def _humaneval(row: Row, get_sandbox: GetSandbox) -> Problem:
    prompt, entry, test = str(row["prompt"]), str(row["entry_point"]), str(row["test"])
    program = prompt + str(row.get("canonical_solution") or "\n    raise NotImplementedError\n")
    preamble = _preamble(prompt, entry)
    found = find_check(test)
    if found is None:
        raise UnsupportedTestError("the test defines no check(candidate)")
    setup = f"{program}\n{test}"
    tests = _tests(translate_body(*found), entry, preamble, setup, setup, get_sandbox)
    examples = FunctionTests(entry, tuple(_doctests(prompt, entry)), preamble)
    return Problem(
        f"Complete this function.\n\n```python\n{prompt.strip()}\n```",
        tests,
        examples,
        program if row.get("canonical_solution") else "",
        str(row.get("task_id", "")),
        _difficulty(row),
    )


def _mbpp(row: Row, get_sandbox: GetSandbox) -> Problem:
    text = str(row["text"] if "text" in row else row["prompt"])
    asserts = [str(one) for one in row["test_list"]]
    hidden = asserts + [str(one) for one in row.get("challenge_test_list") or ()]
    code = str(row.get("code", ""))
    imports = row.get("test_imports") or ()
    preamble = "\n".join([*imports, str(row.get("test_setup_code") or "")]).strip()
    entry = _called_name(asserts, code)
    source = "\n".join(hidden)
    check = f"{preamble}\n{code}\n{_as_check(source, entry)}"
    setup = f"{preamble}\n{code}"
    tests = _tests(translate(source, entry), entry, preamble, setup, check, get_sandbox)
    first = [call for one in translate(asserts[0], entry) or () if (call := literal(one))]
    return Problem(
        f"{text.strip()}\nYour code should pass this test:\n\n{asserts[0]}",
        tests,
        FunctionTests(entry, tuple(first), preamble),
        code,
        f"MBPP/{row['task_id']}" if "task_id" in row else "",
        _difficulty(row),
    )


def _tests(
    pending: list[Pending] | None,
    entry: str,
    preamble: str,
    setup: str,
    check: str,
    get_sandbox: GetSandbox,
) -> UnitTests:
    if pending is not None and not pending:
        raise UnsupportedTestError("the test asserts nothing about the function")
    calls = resolve(pending, setup, get_sandbox) if pending else None
    if calls is not None:
        return FunctionTests(entry, tuple(calls), preamble)
    return CheckTests(entry, check, preamble)


def _stdio(row: Row, match: str) -> Problem:
    pairs = row.get("tests")
    if pairs is None:
        pairs = row["input_output"]
        pairs = json.loads(pairs) if isinstance(pairs, str) else pairs
        if pairs.get("fn_name"):
            return _apps_function(row, pairs)
        pairs = [
            {"input": given, "output": wanted}
            for given, wanted in zip(pairs["inputs"], pairs["outputs"], strict=True)
        ]
    cases = tuple(_case(pair) for pair in pairs)
    if not cases:
        raise ValueError("a problem needs at least one test")
    shown = tuple(_case(pair) for pair in row["examples"]) if "examples" in row else cases[:1]
    return Problem(
        _question(row),
        StdioTests(cases, match),
        StdioTests(shown, match),
        _first_solution(row),
        str(row.get("id", row.get("task_id", ""))),
        _difficulty(row),
    )


def _apps_function(row: Row, pairs: Mapping[str, Any]) -> Problem:
    """APPS with `fn_name`: argument lists and results as JSON values."""
    name = str(pairs["fn_name"])
    # Most rows of the data set wrap results in a list of one, and some do not: what its own
    # tester accepts is right.
    calls = [
        Call(encode((tuple(given), {})), encode(wanted), "apps")
        for given, wanted in zip(pairs["inputs"], pairs["outputs"], strict=True)
    ]
    if not calls:
        raise ValueError("a problem needs at least one test")
    return Problem(
        _question(row),
        FunctionTests(name, tuple(calls)),
        FunctionTests(name, tuple(calls[:1])),
        _first_solution(row),
        str(row.get("id", row.get("task_id", ""))),
        _difficulty(row),
    )


def _case(pair: Mapping[str, Any]) -> StdioCase:
    given, wanted = pair["input"], pair["output"]
    given = "\n".join(given) if isinstance(given, list) else given
    wanted = "\n".join(wanted) if isinstance(wanted, list) else wanted
    if not isinstance(given, str) or not isinstance(wanted, str):
        raise ValueError(f"input and output of a test must be text, got {pair!r:.100}")
    return StdioCase(given, wanted)


def _question(row: Row) -> str:
    text = row.get("prompt") or row.get("question")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("no prompt: expected a text in 'prompt' or 'question'")
    return text.strip()


def _first_solution(row: Row) -> str:
    if "solution" in row:
        return str(row["solution"])
    found = row.get("solutions") or []
    found = json.loads(found) if isinstance(found, str) else found
    return str(found[0]) if found else ""


def _difficulty(row: Row) -> float | None:
    value = row.get("difficulty")
    return float(value) if isinstance(value, int | float) else None


def _preamble(prompt: str, entry: str) -> str:
    """What a HumanEval prompt gives beside the function: imports, constants, helpers."""
    kept = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef)
    return "\n".join(
        ast.unparse(node)
        for node in _parse_prompt(prompt).body
        if isinstance(node, kept) and getattr(node, "name", None) != entry
    )


def _parse_prompt(prompt: str) -> ast.Module:
    for ending in ("", "\n    pass\n"):  # a signature alone needs a body
        try:
            return ast.parse(prompt + ending)
        except SyntaxError:
            continue
    raise ValueError("the prompt is not the beginning of a Python function")


def _doctests(prompt: str, entry: str) -> Iterable[Call]:
    """The `>>>` examples of the function's docstring whose results are literals."""
    for node in _parse_prompt(prompt).body:
        if not isinstance(node, ast.FunctionDef) or node.name != entry:
            continue
        try:
            examples = doctest.DocTestParser().get_examples(ast.get_docstring(node) or "")
        except ValueError:  # not written as doctest wants it
            return
        for example in examples:
            yield from _doctest(example, entry)


def _doctest(example: doctest.Example, entry: str) -> Iterable[Call]:
    try:
        wanted = ast.literal_eval(example.want.strip())
        pending = translate(f"assert {example.source.strip()} == None", entry)
    except (ValueError, SyntaxError):
        return
    for one in pending or ():
        call = literal(one)
        if call is not None:
            yield Call(call.arguments, encode(wanted))


def _called_name(asserts: list[str], code: str) -> str:
    """The function under test: called in every assertion and defined by the solution."""
    if not asserts:
        raise UnsupportedTestError("test_list is empty")
    counts: Counter[str] = Counter()
    for one in asserts:
        try:
            nodes = list(ast.walk(ast.parse(one)))
        except SyntaxError as error:
            raise UnsupportedTestError(f"the assertion {one!r:.100} is not Python") from error
        names = (
            n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        )
        counts.update(dict.fromkeys(names, 1))
    everywhere = [name for name, count in counts.items() if count == len(asserts)]
    try:
        defined = {n.name for n in ast.parse(code).body if isinstance(n, ast.FunctionDef)}
    except SyntaxError:
        defined = set()
    chosen = [name for name in everywhere if name in defined] or everywhere
    if not chosen:
        raise UnsupportedTestError("no function is called in every assertion")
    return chosen[0]


def _as_check(source: str, entry: str) -> str:
    """Assertions as `check(entry)`, so that the function's own name means the candidate."""
    module = ast.parse(f"def check({entry}): pass")
    function = module.body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = ast.parse(source).body or function.body
    return ast.unparse(module)
