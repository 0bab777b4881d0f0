"""verifiers before 0.4, beside its own rollout loop."""

from __future__ import annotations

import asyncio
import pickle
import sys
from pathlib import Path

import pytest

import palestra
from palestra.envs.checker import Status, Subject, audit
from palestra.envs.types import Outcome, ToolStatus

pytestmark = pytest.mark.interop
vf = pytest.importorskip("verifiers", reason="needs scripts/test_interop verifiers_legacy")
if not hasattr(vf, "load_environment"):
    pytest.skip("needs verifiers before 0.4", allow_module_level=True)
sys.path.insert(0, str(Path(__file__).with_name("packages")))


made = []


@pytest.fixture(autouse=True)
def closed():
    yield
    while made:
        made.pop().close()


def make(kind, **settings):
    options = {"kind": kind} | settings.pop("options", {})
    name = settings.pop("name", "vf-old-words")
    env = palestra.make("palestra/Verifiers-v0", name=name, options=options, **settings)
    made.append(env)
    return env.unwrapped


def call(name, **arguments):
    import json

    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def theirs(kind, index, replies):
    """What verifiers' own loop makes of scripted replies."""
    from verifiers.types import AssistantMessage, Response, ResponseMessage, ToolCall

    env = vf.load_environment("vf-old-words", kind=kind)
    script = iter(replies)

    class Scripted(vf.Client):
        def __init__(self):
            pass

        async def get_response(self, *args, **kwargs):
            said = next(script)
            calls = [ToolCall(id="c", name=n, arguments=a) for n, a in said[1:]] or None
            message = AssistantMessage(content=said[0], tool_calls=calls)
            fields = {"finish_reason": "stop", "is_truncated": False}
            whole = ResponseMessage(**message.model_dump(), **fields)
            return Response(id="r", created=0, model="m", message=whole)

    Scripted.__abstractmethods__ = frozenset()

    async def play():
        state = await env.rollout(env.get_dataset()[index], Scripted(), "m", {})
        await env.rubric.score_rollout(state)
        return state

    state = asyncio.run(play())
    said = [m.content for m in [*state["prompt"], *state["completion"]] if m.role != "assistant"]
    return said, state["reward"], state["metrics"]


def ours(kind, index, replies):
    env = make(kind)
    task = next(t for t in env.tasks if t.metadata["index"] == index)
    heard, _ = env.reset(options={"task": task})
    said = [m.content for m in heard]
    for reply in replies:
        observation, reward, ended, truncated, info = env.step(reply)
        said += [m.content for m in observation]
        if ended or truncated:
            return said, reward, info["reward_parts"]
    raise AssertionError("the episode goes on")


@pytest.mark.parametrize("reply", ["<answer>artselap</answer>", "palestra", "", "x" * 200])
def test_a_single_turn_is_scored_as_in_their_own_loop(reply):
    assert ours("single", 0, [reply]) == theirs("single", 0, [(reply,)])


def test_tools_answer_as_in_their_own_loop():
    one, two = call("letters", word="oil"), call("letters", word=3)
    expected = theirs(
        "tools",
        0,
        [
            (one, ("letters", '{"word": "oil"}')),
            (two, ("letters", '{"word": 3}')),
            ("artselap",),
        ],
    )
    assert ours("tools", 0, [one, two, "artselap"]) == expected


def test_a_game_goes_as_in_their_own_loop():
    replies = ["five", *map(str, range(1, 10))]
    said, reward, parts = theirs("game", 3, [(r,) for r in replies])
    mine = ours("game", 3, replies)
    assert (mine[1], mine[2]) == (reward, parts)
    assert [*mine[0], "Right."] == said or mine[0] == said  # what comes after the last action


def test_tools_are_offered_and_bad_calls_are_observations():
    env = make("tools")
    env.reset(seed=0)
    (schema,) = env.tool_schemas
    assert schema["function"]["name"] == "letters" and "letters" in env.tool_instructions
    observation, *_, info = env.step('<tool_call>{"name":</tool_call>')
    assert "Expecting value" in observation[0].content
    assert info["tool_results"][0].status is ToolStatus.MALFORMED
    observation, *_ = env.step(call("digits"))
    assert "digits" in observation[0].content
    assert env.tool_stats.malformed == 1 and env.tool_stats.calls == 1


def test_a_reward_that_raises_is_invalid_and_not_zero():
    env = make("broken")
    env.reset(seed=0)
    *_, info = env.step("x")
    assert info["outcome"] is Outcome.INVALID
    assert info["failure"].kind == "verifier" and "KeyError: 'no judge'" in info["failure"].message


def test_an_environment_that_asks_a_model_is_invalid():
    env = make("game")
    env.reset(seed=0)
    *_, info = env.step("ask a model")
    assert info["failure"].kind == "env" and "no model here" in info["failure"].message


def test_snapshots_branch_the_game():
    env, twin = make("game"), make("game")
    env.reset(options={"task": 0})
    env.step("five")
    point = env.snapshot()
    answers = []
    for other in (env, twin, env):
        other.restore(point)
        steps = [other.step(str(n)) for n in range(1, 3)]
        answers.append([(m[0].content if m else "", r) for m, r, *_ in steps])
    assert answers[0] == answers[1] == answers[2]
    copy = pickle.loads(pickle.dumps(env))
    assert copy.reset(options={"task": 0})[0] == env.reset(options={"task": 0})[0]


@pytest.mark.parametrize("kind", ["single", "game"])
def test_the_audit_passes(kind):
    def subject(**changes):
        return make(kind, **changes)

    # A short reply earns 0.2 for its length here: that the audit says so is right.
    skip = {"floor"} if kind == "single" else set()
    findings = [f for f in audit(Subject(subject, tasks=4, episodes=10)) if f.check not in skip]
    assert {f.check: f.detail for f in findings if f.status is Status.FAIL} == {}


def test_splits_are_its_own_or_by_hash():
    own = {s: make("single", split=s, options={"heldout": True}) for s in ("train", "heldout")}
    assert [len(env.tasks) for env in own.values()] == [6, 2]
    hashed = {s: make("game", split=s) for s in ("train", "heldout")}
    prompts = [{t.question for t in env.tasks} for env in hashed.values()]
    assert sum(map(len, prompts)) == 60 and not prompts[0] & prompts[1]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kind": "group"}, ValueError, "rewards groups of rollouts"),
        ({"kind": "single", "name": "no-such-words"}, ImportError, "no module 'no_such_words'"),
    ],
)
def test_what_cannot_be_played_says_why(settings, error, message):
    with pytest.raises(error, match=message):
        make(**settings)
