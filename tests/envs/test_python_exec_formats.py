"""HumanEval, MBPP and stdin/stdout rows, the shipped problems, and where they come from."""

import json
from collections import Counter
from pathlib import Path

import pytest

from palestra.envs.python_exec.formats import (
    example_tests,
    hidden_tests,
    read_problem,
    solution,
)
from palestra.envs.python_exec.loading import failing_solutions, load_programs
from palestra.envs.rewards.unit_tests import (
    CheckTests,
    FunctionTests,
    StdioTests,
    UnsupportedTestError,
    decode,
    run_tests,
)
from palestra.envs.tasks import check_disjoint
from palestra.sandbox import LocalSandbox

MBPP = str(Path(__file__).parent / "data" / "mbpp_style.jsonl")
ROW = {
    "task_id": "Test/0",
    "prompt": (
        "from typing import List\nBASE = 2\n\ndef helper(x):\n    return x + BASE\n\n"
        'def total(xs: List[int], *, k=1) -> int:\n    """Add up.\n\n    >>> total([1, 2])\n    3\n'
        "    >>> total([helper(1)])\n    3\n    >>> total([4],\n    ...       k=2)\n    8\n"
        '    >>> total(None)\n    Traceback (most recent call last):\n    TypeError\n    """\n'
    ),
    "entry_point": "total",
    "canonical_solution": "    return k * sum(xs)\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2, 3]) == 6\n"
    "    assert candidate([], k=5) == 0, 'empty'\n    assert candidate([helper(1)] * 2) == 2 * 3\n",
}


@pytest.fixture(scope="module")
def sandbox():
    with LocalSandbox(preload=()) as box:
        yield box


def read(row, sandbox=None, **options):
    def get_sandbox():
        assert sandbox is not None, "no expression here needs a sandbox"
        return sandbox

    return read_problem(row, "file:1", get_sandbox, **options)


def test_a_humaneval_row(sandbox):
    problem = read(ROW, sandbox)
    task = problem.to_task("other", "train")
    assert task.id == "Test/0" and task.question.startswith("Complete this function.\n\n```python")
    tests = hidden_tests(task)
    assert isinstance(tests, FunctionTests) and tests.entry_point == "total"
    assert [decode(c.arguments) for c in tests.calls] == [
        (([1, 2, 3],), {}),
        (([],), {"k": 5}),
        (([3, 3],), {}),
    ]
    assert [decode(c.expected) for c in tests.calls] == [6, 0, 6]
    assert tests.preamble.splitlines()[:2] == ["from typing import List", "BASE = 2"]
    assert "def helper" in tests.preamble and "def total" not in tests.preamble
    examples = example_tests(task)
    assert [c.shown("total") for c in examples.calls] == ["total([1, 2])", "total([4], k=2)"]
    assert run_tests(solution(task), tests, sandbox).all_passed
    assert run_tests(solution(task), examples, sandbox).all_passed
    alone = "def total(xs: List[int], k=1): return sum(helper(x) - BASE for x in xs) * k"
    assert run_tests(alone, tests, sandbox).all_passed  # imports and helpers are given


def test_literals_need_no_sandbox():
    plain = {**ROW, "test": "def check(candidate):\n    assert candidate([1]) == 1\n"}
    assert len(read(plain).tests) == 1


def test_loops_become_a_check(sandbox):
    loop = "def check(f):\n    for n in range(5):\n        assert f([n, helper(n)]) == 2 * n + 2\n"
    problem = read({**ROW, "test": loop})
    assert isinstance(problem.tests, CheckTests)
    assert run_tests(problem.solution, problem.tests, sandbox).all_passed
    wrong = "def total(xs): return sum(xs) if 4 not in xs else 9"
    assert not run_tests(wrong, problem.tests, sandbox).all_passed


def test_arguments_that_are_no_data_become_a_check_which_is_at_fault(sandbox):
    problem = read({**ROW, "test": "def check(f):\n    assert f(map(int, '12')) == 3\n"}, sandbox)
    assert isinstance(problem.tests, CheckTests)
    with pytest.raises(UnsupportedTestError, match="type map, which is not plain data"):
        run_tests(problem.solution, problem.tests, sandbox)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": "def check(a, b): pass"}, r"file:1: the test defines no check\(candidate\)"),
        ({"test": "def check(f): pass"}, "asserts nothing"),
        ({"test": "def check(f):\n  assert ("}, "the test is not Python"),
        ({"test": "def check(f):\n    assert f([oh]) == 1"}, "'_\\(\\[oh\\]\\)' raised NameError"),
        ({"prompt": "def total(x"}, "not the beginning of a Python function"),
    ],
)
def test_bad_humaneval_rows_say_so(sandbox, change, message):
    with pytest.raises(ValueError, match=message):
        read({**ROW, **change}, sandbox)


def test_an_mbpp_file(sandbox):
    tasks = load_programs(MBPP, holdout=0.0, sandbox=sandbox)
    kinds = {task.id: type(hidden_tests(task)) for task in tasks}
    assert kinds == {
        "MBPP/1": CheckTests,  # set(...) around the call
        "MBPP/2": CheckTests,  # math.isclose
        "MBPP/3": FunctionTests,
        "MBPP/4": CheckTests,  # arguments of a class of the solution's own
        "MBPP/5": FunctionTests,
        "MBPP/6": FunctionTests,
    }
    assert len(hidden_tests(tasks[2])) == 5  # the challenge tests too
    assert tasks[2].question.endswith("pass this test:\n\nassert is_not_prime(2) == False")
    assert "True" not in tasks[2].question
    assert [len(example_tests(t) or ()) for t in tasks] == [1, 0, 1, 0, 1, 1]
    failing = failing_solutions(tasks, sandbox)
    assert set(failing) == {"MBPP/4"} and "type Pair, which is not plain" in failing["MBPP/4"]


def test_in_mbpp_the_functions_own_name_is_the_submission(sandbox):
    task = load_programs(MBPP, holdout=0.0, sandbox=sandbox)[0]
    wrong = "def similar(a, b): return (4, 5)"
    assert not run_tests(wrong, hidden_tests(task), sandbox).all_passed


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"test_list": [], "text": "x"}, "test_list is empty"),
        ({"test_list": ["assert (1"], "text": "x"}, "is not Python"),
        ({"test_list": ["assert a(1)", "assert b(1)"], "text": "x"}, "no function is called"),
        ({"test_list": ["assert a(1)"]}, "no field 'prompt'"),
        ({"tests": [], "prompt": "x"}, "at least one test"),
        ({"tests": [{"input": 1, "output": "x"}], "prompt": "x"}, "must be text"),
        ({"tests": [{"input": "x"}], "prompt": "x"}, "no field 'output'"),
        ({"tests": [{"input": "", "output": ""}]}, "no prompt"),
        ({"question": "2+2?", "answer": "4"}, "expected HumanEval fields"),
        ([1], "expected a JSON object, got list"),
    ],
)
def test_bad_rows_say_so(row, message):
    with pytest.raises(ValueError, match=f"file:1: .*{message}"):
        read(row)


def test_stdin_rows(sandbox):
    pairs = [{"input": "1 2", "output": "3"}, {"input": ["4", "5"], "output": ["9", ""]}]
    row = {"id": "sum", "prompt": "Add.", "tests": pairs, "solution": "x", "difficulty": 2}
    problem = read(row, match="lines")
    assert isinstance(problem.tests, StdioTests) and problem.tests.match == "lines"
    assert problem.tests.cases[1].stdin == "4\n5" and len(problem.examples) == 1
    assert (problem.id, problem.difficulty, problem.solution) == ("sum", 2.0, "x")


def test_apps_rows(sandbox):
    text = json.dumps({"inputs": ["1\n"], "outputs": ["2\n"]})
    row = {"question": "Add one.", "input_output": text, "solutions": json.dumps(["s1", "s2"])}
    problem = read(row)
    assert isinstance(problem.tests, StdioTests) and problem.solution == "s1"
    call = {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], 7]}
    problem = read({"question": "Add.", "input_output": call})
    assert run_tests("def add(a, b): return a + b", problem.tests, sandbox).passed == 2
    call = {"fn_name": "f", "inputs": [[1], [2]], "outputs": [[2], [4]]}
    tests = read({"question": "Double.", "input_output": call}).tests
    for result, passed in (("[2 * x]", 2), ("2 * x", 2), ("(2 * x,)", 2), ("[[2 * x]]", 0)):
        report = run_tests(f"def f(x): return {result}", tests, sandbox, stop_early=False)
        assert report.passed == passed, result
    assert "expected 2" in report.failures[0].text


def test_the_shipped_problems():
    splits = {split: load_programs("shipped", split=split) for split in ("train", "heldout")}
    check_disjoint(splits["train"], splits["heldout"])
    tasks = [*splits["train"], *splits["heldout"]]
    assert len(tasks) == len({task.id for task in tasks}) == 40 and len(splits["heldout"]) >= 5
    kinds = Counter(type(hidden_tests(task)) for task in tasks)
    assert kinds == {FunctionTests: 30, CheckTests: 2, StdioTests: 8}
    for task in tasks:
        assert task.id.startswith("Palestra/") and example_tests(task)
        assert solution(task).strip() not in task.question


def test_shipped_solutions_pass(sandbox):
    for split in ("train", "heldout"):
        assert failing_solutions(load_programs("shipped", split=split), sandbox) == {}


def test_unsupported_problems_are_refused_or_left_out(tmp_path):
    good = {**ROW, "task_id": "good", "test": "def check(f):\n    assert f([1]) == 1\n"}
    bad = {**ROW, "task_id": "bad", "test": "def check(f): pass", "prompt": "\n" + ROW["prompt"]}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, bad)))
    with pytest.raises(UnsupportedTestError, match=r'rows.jsonl:2: .*unsupported="drop"'):
        load_programs(str(path))
    with pytest.warns(UserWarning, match="1 problems cannot be graded"):
        tasks = load_programs(str(path), unsupported="drop", holdout=0.0)
    assert [task.id for task in tasks] == ["good"]


def test_sources_and_options_that_are_wrong_say_so(tmp_path):
    with pytest.raises(ValueError, match="unknown source of programs 'humaneval'"):
        load_programs("humaneval")
    with pytest.raises(FileNotFoundError, match="no such task file"):
        load_programs("nothing.jsonl")
    with pytest.raises(ValueError, match="unsupported must be"):
        load_programs("shipped", unsupported="ignore")
    with pytest.raises(ValueError, match="match must be one of"):
        load_programs("shipped", match="words")
    with pytest.raises(ValueError, match="unknown split"):
        load_programs(split="validation")


def test_a_file_for_each_split(tmp_path, sandbox):
    rows = [json.loads(line) for line in Path(MBPP).read_text().splitlines()]
    for name, part in (("a", rows[2:3]), ("b", rows[5:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
    files = {"train": str(tmp_path / "a.jsonl"), "heldout": str(tmp_path / "b.jsonl")}
    assert [t.id for t in load_programs(files, sandbox=sandbox)] == ["MBPP/3"]
    assert [t.split for t in load_programs(files, split="test", sandbox=sandbox)] == ["heldout"]
