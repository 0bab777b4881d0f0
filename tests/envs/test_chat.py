"""`palestra/Chat-v0`: the reward sees the answer, nobody sees the thoughts."""

import asyncio
import json
import re
import warnings
from pathlib import Path

import pytest

import palestra
import palestra.envs.chat
from palestra.envs.chat import Chat, EmbeddedReward, ScriptedUser, write_warm_start
from palestra.envs.chat.environment import ZERO
from palestra.envs.chat.features import topic
from palestra.envs.chat.preferences import preference_pairs
from palestra.envs.chat.prompts import shipped_prompts
from palestra.envs.rewards.reward_model import RewardModel
from palestra.envs.rewards.thinking import NULL_ANSWER
from palestra.envs.types import Invalid, Message, Outcome, StopReason, Task

TASK = Task("t", (Message("user", "How do I cook an egg?"),), metadata={"expects": ["water"]})
GOOD = "<think>secret plan</think><response>Boil the egg in water.</response>"


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


class Witness:
    """A reward that writes down what it is shown, and pays for words."""

    def __init__(self):
        self.shown = []

    def __call__(self, task, messages):
        self.shown.append(messages)
        return min(1.0, len(messages[-1].content.split()) / 100)


def ended(env, *actions):
    """The last step of an episode on the first task."""
    env.reset(seed=0, options={"task": env.tasks[0]})
    for action in actions:
        step = env.step(action)
    assert step[2] or step[3]
    return step


def test_the_reward_sees_the_answer_only():
    reward = Witness()
    env = Chat(tasks=[TASK], reward=reward)
    opening, _ = env.reset(seed=0)
    assert [m.role for m in opening] == ["system", "user"] and opening[0].content == ZERO
    step = ended(env, GOOD)
    (seen,) = reward.shown
    assert [(m.role, m.content) for m in seen] == [
        ("user", TASK.question),
        ("assistant", "Boil the egg in water."),
    ]
    assert step[1] == 0.05 and step[4]["stop_reason"] is StopReason.COMPLETED
    assert step[4]["reward_parts"] == {
        "length": 5.0,
        "distinct words": 1.0,
        "on topic": 0.5,
        "answered": 1.0,
        "expected words": 1.0,
    }


@pytest.mark.parametrize("reply", ["Boil it.", "<response>Boil it.", "<think>x</think>Boil it."])
def test_without_both_tags_there_is_no_answer(reply):
    reward = Witness()
    parts = ended(Chat(tasks=[TASK], reward=reward), reply)[4]["reward_parts"]
    assert reward.shown[0][-1].content == NULL_ANSWER
    assert parts["answered"] == 0 and parts["length"] == 0


def test_the_exploit_of_mode_that_is_not_strict_pays_only_there():
    ramble = "<think>" + "let me think about eggs again " * 20
    rewards = {
        strict: [
            float(ended(Chat(tasks=[TASK], reward=Witness(), strict=strict), reply)[1])
            for reply in (GOOD, ramble)
        ]
        for strict in (True, False)
    }
    assert rewards[True][1] < rewards[True][0]  # no tags, no answer
    assert rewards[False][1] > 10 * rewards[False][0]  # the thoughts are paid for their length


def test_plain_takes_the_reply_as_it_is_but_for_native_thoughts():
    reward = Witness()
    env = Chat(tasks=[TASK], reward=reward, template="plain")
    assert env.reset(seed=0)[0] == list(TASK.prompt)
    ended(env, "<think>hm</think>\nBoil it.")
    assert reward.shown[0][-1].content == "Boil it."


@pytest.mark.parametrize("reply", ["<think>private plan", "<think>a</think>So. <think>private"])
def test_thoughts_that_are_not_closed_are_no_answer(reply):
    shown = {}
    for strict in (True, False):
        reward = Witness()
        ended(Chat(tasks=[TASK], reward=reward, template="plain", strict=strict), reply)
        shown[strict] = reward.shown[0][-1].content
    assert shown[True] == NULL_ANSWER and "private" in shown[False]


@pytest.mark.parametrize("template", ["zero", "plain"])
def test_assistant_turns_of_the_prompt_stand_as_they_are(template):
    prompt = (
        Message("user", "The capital of France?"),
        Message("assistant", "Paris. <think>"),
        Message("user", "And its river?"),
    )
    reward = Witness()
    env = Chat(tasks=[Task("t", prompt)], reward=reward, template=template)
    parts = ended(env, "<think>plan</think><think>no tags")[4]["reward_parts"]
    assert [m.content for m in reward.shown[0]] == [*(m.content for m in prompt), NULL_ANSWER]
    assert parts["answered"] == 0.0  # of the replies, not of the turns


def test_a_scripted_user_hears_answers_and_the_last_turn_is_judged():
    heard, reward = [], Witness()

    async def user(messages):
        await asyncio.sleep(0)
        heard.append([m.content for m in messages])
        return ScriptedUser(("And then?", "Thanks."))(messages)

    env = Chat(tasks=[TASK], reward=reward, user=user, max_turns=2)
    env.reset(seed=0)
    observation, _, ended_, truncated, _ = env.step(GOOD)
    assert observation == [Message("user", "And then?")] and not (ended_ or truncated)
    step = env.step("<response>Eat it.</response>")
    assert step[2] and step[4]["stop_reason"] is StopReason.COMPLETED
    assert heard == [[TASK.question, "Boil the egg in water."]]  # the last turn has no successor
    assert [m.content for m in reward.shown[0]] == [
        TASK.question,
        "Boil the egg in water.",
        "And then?",
        "Eat it.",
    ]


def test_a_user_ends_the_conversation_with_none():
    env = Chat(tasks=[TASK], reward=Witness(), user=ScriptedUser(("More?",)))
    env.reset(seed=0)
    assert not env.step(GOOD)[2]
    assert env.step(GOOD)[2]


@pytest.mark.parametrize("broken", [Invalid("judge", "gone"), ZeroDivisionError, float("nan")])
def test_a_reward_that_fails_is_invalid_never_zero(broken):
    def reward(task, messages):
        if isinstance(broken, type):
            raise broken
        return broken

    info = ended(Chat(tasks=[TASK], reward=reward), GOOD)[4]
    assert info["outcome"] is Outcome.INVALID and info["failure"].kind in ("judge", "verifier")


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="answer_of=str"):
        Chat(reward=RewardModel("some/model"))
    with pytest.raises(ValueError, match="template"):
        Chat(template="one")
    with pytest.raises(ValueError, match="scripted"):
        Chat(user="engine")
    with pytest.warns(UserWarning, match="give truncated_reward"):
        env = Chat(reward="some/model")
    assert env.reward.answer_of is str and env.reward_range[1] == float("inf")


@pytest.mark.parametrize(
    ("options", "earned"),
    [
        ({"reward": "some/model", "truncated_reward": -8.0}, -8.0),
        ({"reward": "some/model", "reward_range": (-5.0, 5.0)}, -5.0),
        ({}, 0.0),
    ],
)
def test_what_a_reply_that_is_cut_off_earns(options, earned):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Chat(**options).cut_off(0.0) == earned


def test_tasks_of_any_source_and_disjoint_shipped_splits(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "Hello there"}\n{"prompt": "How are you?"}\n', encoding="utf-8")
    env = Chat(tasks=str(file), task_options={"answer_key": "", "holdout": 0.0})
    assert [t.question for t in env.tasks] == ["Hello there", "How are you?"]
    train, held = shipped_prompts("train"), shipped_prompts("heldout")
    assert len(train) + len(held) == 200 and len(held) > 30
    assert not {t.question for t in train} & {t.question for t in held}
    assert all(t.metadata["expects"] for t in [*train, *held])


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_good_replies_earn_nearly_all_and_empty_ones_nothing(split):
    env = palestra.make("palestra/Chat-v0", split=split).unwrapped
    known = [task for task in env.tasks if task.reference]
    rewards = [float(ended_on(env, task, env.oracle(task)[0])[1]) for task in known]
    assert len(known) > 10 and min(rewards) == 1.0
    assert float(ended_on(env, known[0], "I would rather not.")[1]) == 0.0


def ended_on(env, task, action):
    env.reset(seed=0, options={"task": task})
    return env.step(action)


def test_warm_start_keeps_well_formed_replies_in_order(tmp_path):
    tasks = [Task(str(i), (Message("user", f"Question {i}?"),)) for i in range(5)]

    async def writer(messages):
        assert messages[0].role == "system" and "<response>" in messages[0].content
        number = messages[-1].content.split()[1].rstrip("?")
        await asyncio.sleep(0.01 * (5 - int(number)))
        if number == "3":
            return "<response>No plan.</response>"
        return f"<think>Plan {number}.</think>\n<response>Answer {number}.</response>"

    path = tmp_path / "deep" / "warm.jsonl"
    done = asyncio.run(write_warm_start(path, tasks, writer))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert (done.written, done.dropped) == (4, 1) and [r["id"] for r in rows] == list("0124")
    assert [m["role"] for m in rows[0]["messages"]] == ["system", "user", "assistant"]
    env = Chat(tasks=tasks, reward=Witness())
    assert list(env.begin(tasks[0])) == [Message.from_dict(m) for m in rows[0]["messages"][:2]]
    assert env.answer(rows[0]["messages"][-1]["content"]) == "Answer 0."
    assert list(path.parent.iterdir()) == [path]


def test_the_fitted_model_is_kept_and_a_torn_file_made_anew(tmp_path):
    first = EmbeddedReward(tmp_path)
    assert first.score("How do I cook an egg?", "Boil the egg in water for six minutes.") > 0
    (file,) = tmp_path.iterdir()
    whole = file.read_text(encoding="utf-8")
    assert EmbeddedReward(tmp_path).fitted == first.fitted
    file.write_text(whole[: len(whole) // 2], encoding="utf-8")
    assert EmbeddedReward(tmp_path).fitted == first.fitted  # the fit is deterministic
    assert file.read_text(encoding="utf-8") == whole and list(tmp_path.iterdir()) == [file]


def test_the_embedded_model_tells_good_from_bad_on_held_out_pairs(tmp_path):
    accuracy = EmbeddedReward(tmp_path).fitted.accuracy
    assert accuracy["all"] > 0.9
    assert len(accuracy) == 10 and min(accuracy.values()) > 0.8


def test_the_measure_beside_the_reward_shows_its_exploitation():
    """Another question's reply with this one's words before it is paid in full."""
    env = Chat(split="heldout")
    known = [task for task in env.tasks if task.reference]
    honest, exploit = [], []
    for task, other in zip(known, [*known[1:], known[0]], strict=True):
        asked = " and ".join(sorted(topic(task.question)))
        for kept, text in (
            (honest, task.reference),
            (exploit, f"On {asked}: {other.reference}"),
        ):
            reply = f"<think>x</think><response>{text}</response>"
            _, reward, _, _, info = ended_on(env, task, reply)
            kept.append((float(reward), info["reward_parts"]["expected words"]))
    paid, covered = (sum(column) / len(known) for column in zip(*exploit, strict=True))
    assert paid > 0.8 and covered < 0.1
    paid, covered = (sum(column) / len(known) for column in zip(*honest, strict=True))
    assert paid == 1.0 and covered > 0.8


def test_two_models_of_disjoint_halves_one_paid_and_one_watching():
    env = palestra.make("palestra/Chat-v0", reward="embedded:0", watch="embedded:1").unwrapped
    halves = [preference_pairs("train", half) for half in (0, 1)]
    assert sum(map(len, halves)) == len(preference_pairs("train"))
    assert not {p.prompt for p in halves[0]} & {p.prompt for p in halves[1]}
    *_, reward, _, _, info = ended(env, GOOD)
    prompt = env.tasks[0].question
    paid, watching = (EmbeddedReward(half=half) for half in (0, 1))
    assert reward == paid.score(prompt, "Boil the egg in water.")
    assert info["reward_parts"]["watched"] == watching.score(prompt, "Boil the egg in water.")
    assert paid.fitted.weights != watching.fitted.weights
    assert min(m.fitted.accuracy["all"] for m in (paid, watching)) > 0.9
    with pytest.raises(ValueError, match="half must be"):
        EmbeddedReward(half=2)


def test_a_watcher_that_fails_is_invalid_too():
    def broken(task, messages):
        return Invalid("judge", "gone")

    step = ended(Chat(tasks=[TASK], reward=Witness(), watch=broken), GOOD)
    assert step[4]["failure"].message == "gone"


def test_the_reward_of_a_conversation_is_the_mean_over_its_answers(tmp_path):
    reward = EmbeddedReward(tmp_path)
    task = shipped_prompts()[0]
    turn = (*task.prompt, Message("assistant", task.reference))
    assert reward(task, turn) == 1.0
    assert reward(task, (*turn, Message("user", "More?"), Message("assistant", ""))) == 0.5
    assert reward(task, task.prompt) == 0.0


def test_the_card_runs():
    card = Path(palestra.envs.chat.__file__).with_name("README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(compile(code, "card", "exec"), {})
