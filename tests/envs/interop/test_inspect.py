"""inspect-ai tasks, beside its own evaluation."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

import palestra
from palestra.envs.checker import Status, Subject, audit
from palestra.envs.types import Outcome

pytestmark = pytest.mark.interop
inspect_ai = pytest.importorskip("inspect_ai", reason="needs scripts/test_interop inspect")
sys.path.insert(0, str(Path(__file__).with_name("packages")))


made = []


@pytest.fixture(autouse=True)
def closed():
    yield
    while made:
        made.pop().close()


def make(task, **settings):
    env = palestra.make("palestra/Inspect-v0", name=f"inspect_words:{task}", **settings)
    made.append(env)
    return env.unwrapped


def played(env, index, replies):
    env.reset(options={"task": next(t for t in env.tasks if t.metadata["index"] == index)})
    for reply in replies:
        *_, reward, ended, truncated, info = env.step(reply)
        if ended or truncated:
            return reward, info
    raise AssertionError("the episode goes on")


@pytest.mark.parametrize(
    ("task", "replies"),
    [
        ("reverse", ["artselap"]),
        ("reverse", ["palestra"]),
        ("twice", ["artselap?", "So artselap"]),
        ("twice", ["artselap", "no"]),
        ("pick", ["ANSWER: B"]),
        ("pick", ["ANSWER: A"]),
        ("pick", ["B, I think"]),
    ],
)
def test_scores_are_those_of_its_own_evaluation(task, replies, tmp_path):
    import inspect_words
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import value_to_float

    said = [ModelOutput.from_content("mockllm/model", reply) for reply in replies]
    for output in said:
        output.usage = ModelUsage()  # or it would fetch a tokenizer to count with
    (log,) = inspect_ai.eval(
        getattr(inspect_words, task)(),
        model=get_model("mockllm/model", custom_outputs=said),
        limit=1,
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.status == "success", log.error
    (sample,) = log.samples
    expected = {name: value_to_float()(score.value) for name, score in sample.scores.items()}
    env = make(task)
    reward, info = played(env, 0, replies)
    assert info["reward_parts"] == expected and reward == next(iter(expected.values()))
    assert [m.content for m in env.messages] == [m.text for m in sample.messages][
        : len(env.messages)
    ]


def test_the_solver_writes_the_prompt():
    env = make("reverse")
    opening, _ = env.reset(seed=0)
    assert [m.role for m in opening] == ["system", "user"]
    assert opening[1].content.endswith("Now.")
    again = make("twice")
    again.reset(seed=0)
    observation, reward, ended, *_ = again.step("x")
    assert observation[0].content == "Are you sure?" and (reward, ended) == (0.0, False)


def test_a_scorer_with_several_values():
    env = make("reverse", options={"grading": "both"}, reward="both/brief")
    reward, info = played(env, 0, ["short and wrong"])
    assert reward == 1.0 and info["reward_parts"] == {"both/right": 0.0, "both/brief": 1.0}
    _, info = played(make("reverse", reward="nothing"), 0, ["x"])
    assert info["outcome"] is Outcome.INVALID and "no score 'nothing'" in info["failure"].message


def test_a_scorer_that_raises_is_invalid_and_not_zero():
    _, info = played(make("reverse", options={"grading": "broken"}), 0, ["x"])
    assert info["failure"].kind == "verifier" and "no judge" in info["failure"].message


def test_snapshots_branch():
    env, twin = make("twice"), make("twice")
    env.reset(seed=1)
    env.step("x")
    point, answer = env.snapshot(), env.task.reference
    for other in (env, twin, env):
        other.restore(point)
        assert other.step(answer)[1] == 1.0
        other.restore(point)
        assert other.step("no")[1] == 0.0
    env.restore(point)
    assert pickle.loads(pickle.dumps(env)).step(answer)[1] == 1.0


@pytest.mark.parametrize("task", ["reverse", "twice", "pick"])
def test_the_audit_passes(task):
    findings = list(audit(Subject(lambda **c: make(task, **c), tasks=4, episodes=10)))
    # An echo of the question holds the answer to half of these.
    findings = [f for f in findings if not (task == "pick" and f.check == "leak")]
    assert {f.check: f.detail for f in findings if f.status is Status.FAIL} == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("inspect_words:tools", "gives the model tools"),
        ("inspect_words:boxed", "needs a sandbox: only inspect-ai"),
        ("inspect_words:unscored", "has no scorer"),
        ("inspect_words", "expected module:function"),
    ],
)
def test_what_cannot_be_played_says_why(name, message):
    with pytest.raises(ValueError, match=message):
        palestra.make("palestra/Inspect-v0", name=name)


def test_a_file_will_do():
    path = Path(__file__).with_name("packages") / "inspect_words.py"
    env = palestra.make("palestra/Inspect-v0", name=f"{path}:reverse").unwrapped
    assert env.reset(seed=0)[0][0].role == "system"
