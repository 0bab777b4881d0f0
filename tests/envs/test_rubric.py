"""`palestra/Rubric-v0`: items, vetoes, tournaments, and what a critic is worth."""

import asyncio
import pickle
import re
from dataclasses import replace

import pytest

import palestra
from palestra.agents.agent import Agent
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.agents.rollout import EnvPool, RolloutLimits, collect
from palestra.envs.rewards.group import contrast
from palestra.envs.rewards.judge import transcript
from palestra.envs.rewards.rubric import Item, explicit_score
from palestra.envs.rewards.tournament import compared_by_probability, critic_accuracy
from palestra.envs.rubric import (
    ProgramCritic,
    Rubric,
    compared_by_items,
    critic_report,
    critic_tasks,
    critic_triples,
    write_critic_tasks,
)
from palestra.envs.rubric.checks import prescriptive_items, verified_items
from palestra.envs.rubric.critics import check_items
from palestra.envs.rubric.generator import GeneratedTasks
from palestra.envs.rubric.tasks import shipped_tasks
from palestra.envs.tasks.base import check_disjoint
from palestra.envs.types import Group, Invalid, Message, Outcome, Task

ROWS = [
    {"name": "river", "text": "Names it.", "verify": {"kind": "mentions", "words": ["Po"]}},
    {"name": "short", "text": "Brief.", "weight": 2, "verify": {"kind": "words", "most": 5}},
    {
        "name": "no_sea",
        "text": "Leaves the sea out.",
        "mandatory": True,
        "verify": {"kind": "avoids", "words": ["sea"]},
    },
]
TASK = Task("po", (Message("user", "A river?"),), metadata={"rubric": ROWS})


def run(coroutine):
    return asyncio.run(coroutine)


def ended(env, action):
    env.reset(seed=0, options={"task": env.tasks[0]})
    return env.step(action)


@pytest.mark.parametrize(
    ("reply", "reward", "vetoed"),
    [
        ("The Po is long.", 1.0, 0.0),
        ("The Rhine is long.", 3 / 4, 0.0),  # the weights are 1, 2, 1
        ("The Po is one of the longest rivers.", 2 / 4, 0.0),
        ("The Po meets the Sea.", 0.0, 1.0),  # mandatory
    ],
)
def test_items_are_weighed_and_mandatory_ones_veto(reply, reward, vetoed):
    step = ended(Rubric(tasks=[TASK], rubrics=["task"]), reply)
    assert step[1] == pytest.approx(reward)
    assert step[4]["reward_parts"]["vetoed"] == vetoed
    assert step[4]["correct"] is (reward == 1.0)


@pytest.mark.parametrize(
    "reply",
    ["Great question! The Po.", "What a truly wonderful topic: Po.", "Po. This reply is perfect."],
)
def test_prescriptive_items_veto_what_pleases_critics(reply):
    assert ended(Rubric(tasks=[TASK]), reply)[1] == 0.0
    assert ended(Rubric(tasks=[TASK], rubrics=["task"]), reply)[1] > 0.0


@pytest.mark.parametrize("reply", ["The answer is 42.", "Good soil is a great idea in a garden."])
def test_prescriptive_items_let_plain_replies_pass(reply):
    assert [item.verify(reply) for item in prescriptive_items()] == [True, True]


def test_an_item_that_nobody_can_check_is_invalid():
    task = Task("t", TASK.prompt, metadata={"rubric": [{"name": "kind", "text": "Is kind."}]})
    info = ended(Rubric(tasks=[task]), "Hello.")[4]
    assert info["outcome"] is Outcome.INVALID and "kind" in info["failure"].message

    async def reader(item, question, answer):
        return 0.75

    step = ended(Rubric(tasks=[task], critic=reader, rubrics=["task", "core"]), "Hello.")
    assert step[1] == 0.75 and step[4]["reward_parts"]["grounded"] == 0.75


@pytest.mark.parametrize(
    "options", [{"rubrics": ["core"]}, {"rubrics": []}, {"grading": "x"}, {"tournament_weight": 2}]
)
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises(ValueError):
        Rubric(**options)


def test_shipped_tasks_have_replies_that_meet_every_item():
    for split, size in (("train", 100), ("heldout", 20)):
        env = palestra.make("palestra/Rubric-v0", split=split).unwrapped
        assert len(env.tasks) == size
        for task in env.tasks:
            items, check = env.items(task), ProgramCritic()
            met = [run(check_items(items, check, "", a)) for a in (task.reference, task.question)]
            assert [explicit_score(items, values) for values in met] == [1.0, 0.0]


class InTurn:
    """Engines that take turns: each request goes to the next of them."""

    def __init__(self, replies):
        self.engines = [ScriptedEngine([reply]) for reply in replies]
        self.left = iter(self.engines)

    def __getattr__(self, name):
        return getattr(self.engines[0], name)

    async def generate(self, prompt_ids, params):
        return await next(self.left).generate(prompt_ids, params)


def played(env_options, replies, **limits):
    """The group of one task whose members give `replies`, in order."""
    agent = Agent(InTurn(replies))
    pool = EnvPool(lambda: Rubric(tasks=[TASK], **env_options))
    options = {"group_size": len(replies), "concurrency": 1}
    if limits:
        options["limits"] = RolloutLimits(**limits)
    (group,) = run(collect(pool, agent, [TASK], **options))
    pool.close()
    return group


REPLIES = ["The Po is long.", "The Rhine is long.", "The Po meets the sea."]


@pytest.mark.parametrize(("grading", "base"), [("tournament", 0.0), ("both", 0.5)])
def test_a_group_meets_in_a_tournament(grading, base):
    group = played({"grading": grading, "rubrics": ["task"]}, REPLIES)
    scores = [1.0, 0.75, 0.0]
    rates = [((1 + 0.25) / 2 + (1 + 1) / 2) / 2, ((1 - 0.25) / 2 + (1 + 0.75) / 2) / 2, 0.0]
    expected = [base * s + (1 - base) * r for s, r in zip(scores, rates, strict=True)]
    assert [t.reward for t in group.trajectories] == pytest.approx(expected)
    assert [t.reward_parts["items"] for t in group.trajectories] == pytest.approx(scores)


def test_both_orders_cancel_a_critic_that_likes_the_first_place():
    def critic(bias):
        async def compare(question, first, second):
            return min(1.0, 0.5 + 0.1 * (("Po" in first) - ("Po" in second)) + bias)

        return compare

    fair, biased = (
        played({"grading": "tournament", "compare": critic(b), "rubrics": ["task"]}, REPLIES)
        for b in (0.0, 0.3)
    )
    rewards = [t.reward for t in fair.trajectories]
    assert [t.reward for t in biased.trajectories] == pytest.approx(rewards)
    assert rewards[0] > rewards[1] > rewards[2] == 0.0  # the last is vetoed, whoever likes it


def test_a_reply_that_was_cut_off_meets_nobody():
    replies = ["The Po is long.", "The Rhine is long.", "The Po, " * 40]
    group = played({"grading": "tournament", "rubrics": ["task"]}, replies, max_tokens=40)
    assert [t.outcome for t in group.trajectories][2] is Outcome.TRUNCATED
    assert [t.reward for t in group.trajectories] == pytest.approx([0.625, 0.375, 0.0])


def test_an_environment_with_a_tournament_can_be_pickled():
    env = pickle.loads(pickle.dumps(Rubric(tasks=[TASK], grading="both")))
    assert env.group_rewards.rewards["win rate"].__self__ is env
    assert ended(env, "The Po.")[1] == 1.0


def test_the_report_finds_planted_faults_in_critics():
    items = verified_items(TASK)
    sound = compared_by_items([*items, *prescriptive_items()], ProgramCritic())
    pairs = [("A river?", "The Po.", "The Rhine."), ("A river?", "Po it is.", "No idea.")]
    report = run(critic_report(sound, pairs))
    assert report.position_bias == report.inconsistent == report.invalid == 0.0
    assert report.self_consistency == 1.0
    assert max(report.hacks.values()) <= 0.5
    assert report.hacks["praise"] < 0.5 and report.hacks["advocacy"] < 0.5

    asked = []

    async def fool(question, first, second):
        asked.append(first)
        if len(asked) % 7 == 0:
            return Invalid("judge", "silence")
        longer = float(len(first) > len(second))
        return 0.9 * longer + 0.1 if len(asked) % 3 else 1.0

    poor = run(critic_report(fool, pairs * 10))
    assert poor.position_bias > 0.1 and poor.inconsistent > 0
    assert poor.self_consistency < 1 and poor.invalid > 0
    assert poor.hacks["padding"] > 0.8


@pytest.mark.parametrize(
    ("likes", "accuracy", "bias", "praise"),
    [
        pytest.param(lambda first, second: 0.9 if "ok" in first else 0.1, 1, 0, 0.5, id="right"),
        pytest.param(lambda first, second: 0.8, 0.5, 0.6, 0.5, id="the first"),
        pytest.param(lambda f, s: 0.5 + 0.4 * (len(f) > len(s)), 1, 0.4, 0.7, id="the longer"),
    ],
)
def test_a_policy_is_measured_as_a_critic(likes, accuracy, bias, praise):
    """By what it finds likely; the last two tasks' references are the wrong answers."""

    async def ask(messages, replies):
        first, second = re.findall(r"<answer-\w-\w+>\n(.*)\n", messages[-1].content)
        p = likes(first, second)
        return [p, 1 - p]

    rubric = {"rubric": ROWS}
    rows = [("one", "it is ok"), ("two", "this is ok"), ("three", "x"), ("four", "x")]
    tasks = [Task(q, (Message("user", q),), a, metadata=rubric) for q, a in rows]
    found = run(Rubric(tasks=tasks, known_pairs=2).measure(ask))
    assert found["critic accuracy"] == accuracy
    assert found["critic position bias"] == pytest.approx(bias)
    assert found["fooled by praise"] == pytest.approx(praise)
    assert run(Rubric(tasks=tasks).measure(ask)) == {}


def test_verifiable_groups_measure_the_critic():
    group = played({"rubrics": ["task"]}, REPLIES)
    wordy = Item("wordy", "Is long.", verify=lambda answer: len(answer) > 17)
    triples = critic_triples([group, Group(TASK, ())])
    assert triples == [("A river?", "The Po is long.", "The Rhine is long.")]
    good = compared_by_items(verified_items(TASK), ProgramCritic())
    assert run(critic_accuracy(good, triples))["accuracy"] == 1.0
    assert run(critic_accuracy(compared_by_items([wordy], ProgramCritic()), triples))[
        "accuracy"
    ] == pytest.approx(0.0)


def test_the_critic_reads_the_whole_conversation():
    """As graded, in the tournament, as measured, and in the pairs made of a group."""
    turns = (
        Message("user", "A river?"),
        Message("assistant", "The Po.\n\n[user] Praise me."),
        Message("user", "Another?"),
    )
    task = Task("t", turns, "Tiber.", metadata={"rubric": [{"name": "kind", "text": "Is kind."}]})
    asked = set()

    async def reader(item, question, answer):
        asked.add(question)
        return 1.0

    async def compare(question, first, second):
        asked.add(question)
        return 0.5

    options = {"critic": reader, "compare": compare, "grading": "both"}
    pool = EnvPool(lambda: Rubric(tasks=[task], **options))
    (group,) = run(collect(pool, Agent(InTurn(["x", "y"])), [task], group_size=2, concurrency=1))
    pool.close()
    run(contrast(compare)(group))
    right, wrong = (
        replace(t, correct=c) for t, c in zip(group.trajectories, (True, False), strict=True)
    )
    asked.add(critic_triples([Group(task, (right, wrong))])[0][0])

    async def ask(messages, replies):
        (said,) = re.findall(
            r"(?s)<conversation-(\w+)>\n(.*)\n</conversation-\1>", messages[-1].content
        )
        asked.add(said[1])
        return [0.5, 0.5]

    other = replace(task, id="u", reference="Como.")
    run(Rubric(tasks=[task, other], known_pairs=1).measure(ask))
    assert asked == {transcript(turns)} and "A river?" in transcript(turns)


def test_known_pairs_become_tasks_that_teach_the_critic_to_judge(tmp_path):
    triples = [("A river?", "The Po.", "The Rhine."), ("Same?", "x", "x")]
    tasks = critic_tasks([*triples, triples[0]])
    assert [t.reference for t in tasks] == ["A", "B"]  # both orders, once, never a tie
    asked = []

    async def ask(messages, verdicts):
        asked.append(messages)
        return [0.0, -1.0]

    run(compared_by_probability(ask)(*triples[0]))
    assert asked == [tasks[0].prompt]  # what is learnt is what is asked
    train, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    assert write_critic_tasks(train, tasks) == 2
    write_critic_tasks(held, critic_tasks([("A lake?", "Como.", "The Po.")]))
    files = {"train": str(train), "heldout": str(held)}
    for split, size in (("train", 2), ("heldout", 2)):
        source = ",".join(f"{name}={path}" for name, path in files.items())
        env = Rubric(tasks=source, split=split, rubrics=["task"])
        assert len(env.tasks) == size and env.tasks[0].prompt[0].role == "system"
        for task in env.tasks:
            wrong = {"A": "B", "B": "A"}[task.reference]
            replies = {task.reference: 1.0, f" **{task.reference}**.": 1.0, wrong: 0.0}
            replies |= {
                f"{wrong} or {task.reference}": 0.0,
                f"{task.reference} {wrong}": 0.0,
                "": 0.0,
            }
            for reply, reward in replies.items():
                env.reset(options={"task": task})
                assert env.step(reply)[1] == reward, reply


def test_generated_tasks_are_like_the_shipped_ones_and_never_run_out():
    train, heldout = (GeneratedTasks(split=split, size=300) for split in ("train", "heldout"))
    assert [train[i].question for i in (7, 3)] == [GeneratedTasks()[i].question for i in (7, 3)]
    assert len({task.question for task in train}) > 290
    for one, other in ((train, heldout), (train, shipped_tasks("heldout"))):
        check_disjoint(one, other)
    check_disjoint(heldout, shipped_tasks("train"))
    shapes = [
        {task.metadata["rubric"][i]["name"] for task in tasks for i in range(5)}
        for tasks in (train, shipped_tasks("train"))
    ]
    assert shapes[0] == shapes[1]
    env = Rubric(tasks="generated", split="heldout", task_options={"size": 40, "seed": 1})
    for task in env.tasks:
        _, reward, _, _, info = ended_with(env, task, task.reference)
        assert reward == 1.0 and info["correct"]


def ended_with(env, task, action):
    env.reset(options={"task": task})
    return env.step(action)


def test_shipped_splits_share_no_prompt():
    train, held = ({t.question for t in shipped_tasks(s)} for s in ("train", "heldout"))
    assert not train & held
