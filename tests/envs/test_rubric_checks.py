"""Rubric items checked by programs: what they count, and that no answer holds them up or
escapes them."""

import asyncio
import re

import pytest

from palestra.envs.rewards.rubric import ExplicitRubric, verified
from palestra.envs.rubric import ProgramCritic, Rubric
from palestra.envs.rubric.checks import MAX_CHARS, checker, prescriptive_items, verified_items
from palestra.envs.types import Invalid, Message, Outcome, Task
from palestra.sandbox import Limits, SandboxError, shared_sandbox

ASK = (Message("user", "?"),)
CODE = "def check(answer):\n    return sum(map(int, answer.split())) == 10"


@pytest.fixture(scope="module", autouse=True)
def sandbox():
    """Held, so that the whole file starts one."""
    return shared_sandbox()


def holds(spec, answer):
    return asyncio.run(verified(checker(spec), answer))


def task_of(code, reference=""):
    row = {"name": "sum", "text": "Adds up.", "verify": {"kind": "code", "code": code}}
    return Task("t", ASK, reference, metadata={"rubric": [row]})


def by_code(code, answer, reference="", **options):
    (item,) = verified_items(task_of(code, reference))
    return asyncio.run(ProgramCritic(**options)(item, "?", answer))


@pytest.mark.parametrize(
    ("spec", "yes", "no"),
    [
        ({"kind": "regex", "pattern": r"\?$"}, "Is it?", "It is."),
        ({"kind": "regex", "pattern": "cat", "absent": True}, "dog", "a cat"),
        ({"kind": "regex", "pattern": "(?i)^cat", "absent": True}, "a cat", "Cat"),
        ({"kind": "mentions", "words": ["oak", "elm"]}, "Elm and OAK.", "oaks and elm"),
        ({"kind": "avoids", "words": ["very"]}, "every day", "very good"),
        ({"kind": "words", "least": 2, "most": 3}, "one two", "one"),
        ({"kind": "sentences", "least": 2, "most": 2}, "It is 3.5 long. Yes!", "One."),
        ({"kind": "sentences", "least": 2, "most": 2}, 'He said "No..." Oh?!)', "Wait...what?"),
        ({"kind": "bullets", "least": 2}, "- a\n2. b", "- a\nb"),
    ],
)
def test_checks(spec, yes, no):
    assert (holds(spec, yes), holds(spec, no)) == (1.0, 0.0)


@pytest.mark.parametrize(
    "spec",
    [{"kind": "magic"}, {"kind": "words", "max": 3}, {"kind": "regex", "pattern": "("}, {}],
)
def test_bad_checks_are_named(spec):
    with pytest.raises(ValueError, match="check"):
        checker(spec)


def test_an_item_checked_by_code_takes_the_answer_as_data():
    answers = ["4 6", "4 7", "')) or True or bool(check('"]
    assert [by_code(CODE, answer) for answer in answers] == [1.0, 0.0, 0.0]


def test_a_critic_starts_one_sandbox():
    critic, (item,) = ProgramCritic(), verified_items(task_of(CODE))
    held = set()
    for answer in ("4 6", "none"):
        asyncio.run(critic(item, "?", answer))
        held.add(critic.sandbox)
    assert held == {shared_sandbox()}


@pytest.mark.parametrize("reference", ["", "4 6"])
def test_an_answer_that_breaks_its_check_has_not_met_it(reference):
    assert by_code(CODE, "a lot", reference) == 0.0
    slow = CODE.replace("return", "while 'a' in answer: pass\n    return")
    limits = Limits(wall_s=5.0, cpu_s=0.5)
    assert by_code(slow, "a", reference, limits=limits) == 0.0
    env = Rubric(tasks=[task_of(CODE, reference)], rubrics=["task"])
    env.reset(seed=0)
    _, reward, _, _, info = env.step("no number")
    assert reward == 0.0 and info["outcome"] is Outcome.VALID


@pytest.mark.parametrize(
    ("code", "reference"),
    [
        ("def check(answer):\n    return 1 / 0", "4 6"),
        ("def grade(answer):\n    return True", ""),
        ("check = 3", ""),
        ("def check(answer)", ""),
    ],
)
def test_a_check_that_is_broken_itself_is_invalid(code, reference):
    broken = by_code(code, "4 6", reference)
    assert isinstance(broken, Invalid) and broken.kind == "verifier"


def test_a_lost_sandbox_is_invalid_not_unmet():
    class Lost:
        async def aopen(self, limits, seed):
            raise SandboxError("gone")

    critic = ProgramCritic(sandbox=Lost())
    env = Rubric(tasks=[task_of(CODE)], rubrics=["task"], critic=critic)
    env.reset(seed=0)
    assert env.step("4 6")[4]["outcome"] is Outcome.INVALID


def test_an_expression_that_would_take_for_ever_is_cut_off_and_not_met():
    """Not met as "absent" either."""
    spec = {"kind": "regex", "pattern": r"^(\w+\s?)+$"}
    ticks = 0

    async def beside():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async def main():
        clock = asyncio.create_task(beside())
        checks = [checker(spec | {"absent": absent}) for absent in (False, True)]
        met = await asyncio.gather(*(verified(check, "a" * 40 + "!") for check in checks))
        clock.cancel()
        return met

    assert asyncio.run(main()) == [0.0, 0.0]
    assert ticks > 10  # the event loop went on


def test_an_explicit_rubric_awaits_a_check_that_is_async():
    row = {"name": "p", "text": "p", "verify": {"kind": "regex", "pattern": "b$"}}
    task = Task("t", ASK, metadata={"rubric": [row]})
    reward = ExplicitRubric(verified_items, ProgramCritic())
    grades = [asyncio.run(reward(task, (*ASK, Message("assistant", a)))) for a in ("ab", "ba")]
    assert [grade.reward for grade in grades] == [1.0, 0.0]


@pytest.mark.parametrize(
    "text",
    ["." * MAX_CHARS, "." * (MAX_CHARS - 1) + "x", ("." + ")" * 99) * (MAX_CHARS // 100)],
)
def test_counting_sentences_tries_each_run_of_marks_once(text):
    """As often as a pattern that tries each of them finds one, without its squared time."""
    slow = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")
    short = text[-900:]
    count = len(slow.findall(short))
    assert holds({"kind": "sentences", "least": count, "most": count}, short) == 1.0
    assert holds({"kind": "sentences", "most": 1}, text) == 1.0


def test_a_longer_answer_than_is_read_meets_no_item():
    padded = "five words and no more" + " " * MAX_CHARS
    specs = [
        {"kind": "words", "most": 5},
        {"kind": "avoids", "words": ["sea"]},
        {"kind": "mentions", "words": ["words"]},
        {"kind": "regex", "pattern": "sea", "absent": True},
        {"kind": "sentences", "most": 9},
    ]
    for spec in specs:
        assert holds(spec, padded.strip()) == 1.0 and holds(spec, padded) == 0.0
    assert by_code("def check(answer):\n    return True", padded) == 0.0
    assert [item.verify(padded) for item in prescriptive_items()] == [False, False]
