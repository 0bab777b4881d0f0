"""verifiers 0.4: tasks scored by their own rewards."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

import palestra
from palestra.envs.checker import Status, Subject, audit
from palestra.envs.types import Outcome

pytestmark = pytest.mark.interop
pytest.importorskip("verifiers", "0.4.0", reason="needs scripts/test_interop verifiers_v1")
sys.path.insert(0, str(Path(__file__).with_name("packages")))


made = []


@pytest.fixture(autouse=True)
def closed():
    yield
    while made:
        made.pop().close()


def make(**settings):
    settings = {"name": "vf-new-words", "size": 30} | settings
    env = palestra.make("palestra/Verifiers-v0", **settings)
    made.append(env)
    return env.unwrapped


def word(env):
    return env.task.question.split("'")[1]


def test_the_reward_is_their_own_with_its_parts():
    env = make(options={"prefix": "Turn round"})
    opening, _ = env.reset(seed=0)
    assert opening[0].content == "Answer in a box."
    assert opening[1].content.startswith("Turn round '")
    *_, reward, ended, _, info = env.step(f"So: \\boxed{{{word(env)[::-1]}}}")
    assert ended and reward == pytest.approx(1.0) and info["correct"]
    assert info["reward_parts"] == {"right": 0.8, "brief": 0.2, "metric/words": 2.0}
    env.reset(seed=0)
    *_, reward, ended, _, info = env.step("I do not know.")
    assert reward == pytest.approx(0.2) and not info["correct"]


def test_their_own_trace_says_the_same():
    import asyncio

    import verifiers.v1 as vf
    from vf_new_words import WordsConfig, WordsTaskset

    task = next(iter(WordsTaskset(WordsConfig(id="vf-new-words"))))
    trace = vf.Trace(
        task=vf.TraceTask(type="WordTask", data=task.data),
        agent=vf.AgentInfo(config=vf.AgentConfig()),
    )
    reply = "\\boxed{artselap}"
    trace.nodes.append(vf.MessageNode(message=vf.AssistantMessage(content=reply), sampled=True))
    asyncio.run(task.score(trace))
    env = make()
    env.reset(options={"task": next(t for t in env.tasks if t.metadata["index"] == 0)})
    assert env.step(reply)[1] == trace.reward


def test_a_reward_that_raises_is_invalid_and_not_zero():
    env = make()
    env.reset(seed=0)
    *_, info = env.step("crash")
    assert info["outcome"] is Outcome.INVALID and info["failure"].kind == "verifier"
    assert "KeyError: 'no judge'" in info["failure"].message


def test_the_audit_passes():
    # A short reply earns 0.2 for its length here: that the audit says so is right.
    findings = [f for f in audit(Subject(lambda **c: make(**c), 4, 10)) if f.check != "floor"]
    assert {f.check: f.detail for f in findings if f.status is Status.FAIL} == {}
    env = make()
    env.reset(seed=0)
    copy = pickle.loads(pickle.dumps(env))
    assert copy.step("x")[1] == env.step("x")[1]


def test_an_endless_taskset_is_divided_by_the_hash_of_its_prompts():
    train, heldout = (make(split=split) for split in ("train", "heldout"))
    assert len(train.tasks) == len(heldout.tasks) == 30
    assert not {t.question for t in train.tasks} & {t.question for t in heldout.tasks}


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("vf-new-boxed", ValueError, "needs setup: only verifiers itself"),
        ("vf-new-inside", ValueError, "needs a runtime for file"),
        ("vf-old-words", ValueError, r"written for verifiers before 0.4, and 0\.4"),
        ("owner/no-such-words@1.0", ImportError, "no module 'no_such_words'"),
    ],
)
def test_what_cannot_be_played_says_why(name, error, message):
    with pytest.raises(error, match=message):
        make(name=name)
