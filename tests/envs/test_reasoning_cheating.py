"""Answers that would rather be a program, or the question again, than an answer."""

import asyncio

import pytest

import palestra
from palestra.envs.rewards import ascore_reasoning, score_reasoning
from palestra.envs.rewards.reasoning import LIMITS, gates, scoring_sandbox
from palestra.envs.tasks import load_tasks
from palestra.envs.types import Invalid
from palestra.sandbox import LocalSandbox

pytest.importorskip("reasoning_gym")
EVALUATED = ("binary_matrix", "countdown", "n_queens", "polynomial_multiplication",
             "simple_integration", "spiral_matrix", "string_insertion")  # fmt: skip


def program(path):
    """What reached the host while scorers shared a worker with their audit hook."""
    return (
        "(__import__('sys').modules['__main__'].__dict__.update(_judging=False), "
        f"__import__('os').system('touch {path}'))"
    )


@pytest.fixture
def no_gates(monkeypatch):
    """As if the gates had a hole: what the walls are for."""
    monkeypatch.setattr("palestra.envs.rewards.reasoning.scoring.settle", lambda *_: None)


@pytest.mark.parametrize("family", EVALUATED)
def test_a_program_is_refused_and_reaches_nothing(family, tmp_path):
    mark = tmp_path / "mark"
    task = load_tasks(f"rg:{family}")[0]
    assert score_reasoning(program(mark), task) == 0.0
    assert score_reasoning(f"[{program(mark)}]", task) == 0.0
    assert not mark.exists()


def test_environments_refuse_it_too(tmp_path):
    mark = tmp_path / "mark"
    env = palestra.make("palestra/Reasoning-v0", families="spiral_matrix").unwrapped
    env.reset(seed=0)
    assert env.step(f"<answer>{program(mark)}</answer>")[1] == 0.0
    env = palestra.make("palestra/MathCode-v0", tasks="rg:spiral_matrix").unwrapped
    env.reset(seed=0)
    assert env.step(f"\\boxed{{{program(mark)}}}")[1] == 0.0
    assert not mark.exists()


def test_behind_the_gates_is_a_sandbox(no_gates, tmp_path):
    mark = tmp_path / "mark"
    task = load_tasks("rg:spiral_matrix")[0]
    assert score_reasoning(program(mark), task) == 0.0
    assert score_reasoning(f"open({str(mark)!r}, 'w').write('x')", task) == 0.0
    assert score_reasoning("__import__('socket').socket().connect(('1.1.1.1', 80))", task) == 0.0
    assert not mark.exists()


def test_nothing_lasts_from_one_answer_to_the_next(no_gates):
    task = load_tasks("rg:spiral_matrix")[0]
    poison = (
        "[setattr(kind[0], 'score_answer', lambda *_: 1.0) for kind in "
        "__import__('sys').modules['reasoning_gym.factory'].DATASETS.values()]"
    )
    score_reasoning(poison, task)
    assert score_reasoning("nonsense", load_tasks("rg:gcd")[0]) == 0.0
    assert score_reasoning("nonsense", task) == 0.0


def test_puzzle24_compares_the_numbers_and_does_not_round():
    task = load_tasks("rg:puzzle24")[0]
    assert score_reasoning(task.reference, task) == 1.0
    assert score_reasoning("6*4*1*1", task) == 0.0
    numbers = {"metadata": {"numbers": [7, 7, 2, 2]}}
    assert gates.settle("puzzle24", numbers, "7*7/2 - 2 + 2") == 0.0
    assert gates.settle("puzzle24", {"metadata": {"numbers": [7, 7, 2, 4]}}, "7*7/2") == 0.0
    assert gates.settle("puzzle24", {"metadata": {"numbers": [49, 2, 1, 1]}}, "49/2*1*1") == 0.0
    assert gates.settle("puzzle24", {"metadata": {"numbers": [4, 1, 1, 1]}}, "4!*1*1*1") == 0.0
    assert gates.settle("puzzle24", {"metadata": {"numbers": [6, 4, 1, 1]}}, "6*4*1*1 = 24") == 1.0


@pytest.mark.parametrize("family", ["simple_integration", "intermediate_integration"])
def test_the_question_is_no_answer_to_it(family):
    task = load_tasks(f"rg:{family}")[0]
    known = task.metadata["entry"]["metadata"]
    integrand, variable = known["integrand"], known["variable"]
    for answer in (
        f"Integral({integrand}, {variable})",
        f"integrate({integrand}, {variable})",
        f"Integral({integrand}, {variable}).doit()",
        f"Function('f')({variable})",
        f"Subs({integrand}, {variable}, {variable})",
        f"({integrand}, {variable})",
    ):
        assert score_reasoning(answer, task) == 0.0
    assert score_reasoning(task.reference, task) == 1.0
    assert score_reasoning(task.reference.replace("C", "K"), task) == 1.0


def test_products_have_to_be_worked_out():
    task = load_tasks("rg:polynomial_multiplication")[0]
    question = task.metadata["entry"]["metadata"]["polynomial_expr"]
    assert score_reasoning(f"expand({question})", task) == 0.0
    assert score_reasoning(f"({question}).expand()", task) == 0.0
    assert score_reasoning(task.reference, task) == 1.0


@pytest.mark.parametrize(
    ("family", "answer"),
    [
        ("n_queens", '[r.split(" ") for r in valid_solutions[0].split(chr(10))]'),
        ("spiral_matrix", "oracle_answer.split()"),
        ("binary_matrix", "[r.split() for r in oracle_answer.splitlines()]"),
        ("string_insertion", "oracle_answer"),
        ("string_insertion", "[*oracle_answer]"),
    ],
)
def test_a_scorers_own_names_are_no_answer(family, answer):
    assert score_reasoning(answer, load_tasks(f"rg:{family}")[0]) == 0.0


def test_lists_and_plain_text_still_count():
    for family, listed, least in (
        ("n_queens", lambda text: [row.split() for row in text.splitlines()], 0.5),
        ("spiral_matrix", lambda text: [int(item) for item in text.split()], 0.1),
        ("binary_matrix", lambda text: [row.split() for row in text.splitlines()], 0.1),
        ("string_insertion", list, 0.1),
    ):
        task = load_tasks(f"rg:{family}")[0]
        assert score_reasoning(task.reference, task) == 1.0
        assert score_reasoning(str(listed(task.reference)), task) == least


@pytest.mark.parametrize(
    ("good", "answer"),
    [
        (True, "-3*X**3*sin(X)/2 + exp(-X)*log(2*X + 1) + E**X + sqrt(pi)/4 + 1.5e3 + C"),
        (True, "Rational(1, 3)*X**3 + C_1"),
        (True, "(2*X\n + 1)**5"),
        (False, "X.subs(X, 1)"),
        (False, "X[0]"),
        (False, "exp(X, evaluate=False)"),
        (False, "exp(*X)"),
        (False, "'1'"),
        (False, "1 if X else 2"),
        (False, "[X for X in X]"),
        (False, "lambda: X"),
        (False, "__import__"),
        (False, "eval(X)"),
        (False, "X := 1"),
        (False, "\uff45\uff56\uff41\uff4c(1)"),
        (False, "((" * 5000),
        (False, "-" * 15_000 + "1"),
        (False, "1" + "+1" * 9_000),
    ],
)
def test_algebra_is_told_from_programs(good, answer):
    entry = {"metadata": {"variable": "X"}}
    assert gates.settle("simple_integration", entry, answer) == (None if good else 0.0)


def test_limits_hold_and_are_no_reason_to_void_an_episode():
    task = load_tasks("rg:simple_integration")[0]
    assert score_reasoning("9**9**9**9", task) == 0.0
    assert score_reasoning("[" * 100_000, load_tasks("rg:knight_swap")[0]) < 0.5
    assert score_reasoning("1" * (gates.MAX_LENGTH + 1), load_tasks("rg:gcd")[0]) == 0.0


def test_a_lost_sandbox_is_no_score():
    task = load_tasks("rg:gcd")[0]
    closed = LocalSandbox(("math",))
    closed.close()
    score = score_reasoning(task.reference, task, sandbox=closed)
    assert isinstance(score, Invalid) and score.kind == "verifier"
    assert isinstance(asyncio.run(ascore_reasoning("1", task, sandbox=closed)), Invalid)
    with LocalSandbox(("math",), limits=LIMITS) as without:
        score = score_reasoning(task.reference, task, sandbox=without)
    assert isinstance(score, Invalid) and "reasoning-gym" in score.message


def test_an_answer_costs_a_fork_not_an_import():
    task = load_tasks("rg:gcd")[0]
    score_reasoning("1", task)
    before = scoring_sandbox().stats().opened
    execution = scoring_sandbox().run("import sys, time\n'reasoning_gym' in sys.modules")
    assert execution.value == "True"
    assert score_reasoning(task.reference, task) == 1.0
    assert scoring_sandbox().stats().opened == before + 2
