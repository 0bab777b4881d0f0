"""Generative reward models: the parser, sum-voting over shuffled orders, the meta filter."""

import asyncio
import random
import re

import pytest

from palestra.envs.rewards.endpoint import ModelReply
from palestra.envs.rewards.grm import (
    GenerativeRewardModel,
    Vote,
    add_votes,
    grm_scores,
    parse_scores,
    spct_reward,
)
from palestra.envs.rewards.protocol import JudgeError
from palestra.envs.types import (
    Group,
    Invalid,
    Message,
    StopReason,
    Task,
    Trajectory,
    Turn,
)

TASK = Task("t", (Message("user", "Which is best?"),))


class Judge:
    """Scores the answers as shown with `score(texts, sample)`."""

    identity = {"model": "scripted"}  # noqa: RUF012

    def __init__(self, score):
        self.score, self.orders = score, []

    async def complete(self, messages, *, sample=0, top_logprobs=0):
        text = messages[-1].content
        shown = re.findall(r"<answer-\d+-(\w+)>\n(.*?)\n</answer-\d+-\1>", text, re.DOTALL)
        shown = [answer for _, answer in shown]
        self.orders.append(tuple(shown))
        reply = self.score(shown, sample)
        if isinstance(reply, ModelReply):
            return reply
        boxed = ", ".join(map(str, reply))
        return ModelReply(
            f"Principles: brevity (100%).\nCritique: fine.\nScores: \\boxed{{{boxed}}}"
        )


def by_length(shown, sample):
    return [min(10, len(answer)) for answer in shown]


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("Scores: \\boxed{7, 3}", 2, (7, 3)),
        ("\\boxed{1,1} no: \\boxed{ 10 ,2 }", 2, (10, 2)),
        ("<think>\\boxed{1}</think>\\boxed{5}", 1, (5,)),
        ("\\boxed{7, 3}", 3, None),
        ("\\boxed{7, 11}", 2, None),
        ("\\boxed{0}", 1, None),
        ("\\boxed{7.5}", 1, None),
        ("\\boxed{-7}", 1, None),
        ("\\boxed{seven}", 1, None),
        ("\\boxed{N, N}", 2, None),
        ("\\boxed{7, 3", 2, None),
        ("7, 3", 2, None),
        ("", 1, None),
    ],
)
def test_the_parser(text, count, expected):
    assert parse_scores(text, count) == expected


def test_votes_add_up():
    votes = [Vote(scores, (0, 1), "") for scores in ((7, 3), (4, 6), (9, 1))]
    assert add_votes(votes) == (20, 10)


def test_votes_shuffle_the_order_and_put_the_scores_back():
    judge = Judge(by_length)
    verdict = asyncio.run(GenerativeRewardModel(judge, votes=16).judge("q", ["aaa", "b", "cc"]))
    assert len(set(judge.orders)) > 3  # of six orders
    assert all(vote.scores == (3, 1, 2) for vote in verdict.kept)
    assert verdict.totals == (48, 16, 32) and verdict.rewards == pytest.approx((0.3, 0.1, 0.2))
    for vote, shown in zip(verdict.kept, judge.orders, strict=True):
        assert tuple(["aaa", "b", "cc"][i] for i in vote.order) == shown


def test_shuffling_cancels_a_love_of_the_first_place():
    def first_wins(shown, sample):
        return [10] + [5] * (len(shown) - 1)

    verdict = asyncio.run(
        GenerativeRewardModel(Judge(first_wins), votes=400).judge("q", ["a", "b"])
    )
    assert abs(verdict.totals[0] - verdict.totals[1]) / 400 < 5 * 4 / 20  # 4 sigma of 5 points


def test_votes_that_do_not_parse_are_dropped_and_none_is_invalid():
    def half(shown, sample):
        return [5] if sample % 2 else ModelReply("Hm.")

    verdict = asyncio.run(GenerativeRewardModel(Judge(half), votes=6).judge("q", ["a"]))
    assert (verdict.totals, verdict.dropped) == ((15,), 3)
    for reply in ("Hm.", "\\boxed{11}"):
        silent = GenerativeRewardModel(Judge(lambda s, n, r=reply: ModelReply(r)), votes=3)
        lost = asyncio.run(silent(TASK, (*TASK.prompt, Message("assistant", "a"))))
        assert isinstance(lost, Invalid) and lost.kind == "judge" and reply in lost.message
    cut = Judge(lambda s, n: ModelReply("\\boxed{9}", finished=False))
    assert isinstance(asyncio.run(GenerativeRewardModel(cut).judge("q", ["a"])), Invalid)

    def gone(shown, sample):
        raise JudgeError("gone")

    lost = asyncio.run(GenerativeRewardModel(Judge(gone)).judge("q", ["a"]))
    assert lost == Invalid("judge", "gone")


def test_the_meta_filter_keeps_the_better_half():
    scores = [[9, 1], [1, 9], [8, 2], [2, 8], [7, 3]]

    def vote(shown, sample):
        return [scores[sample]["ab".index(answer)] for answer in shown]

    trusted = []

    async def meta(question, shown, text):
        value = float(parse_scores(text, 2)[list(shown).index("a")])
        trusted.append((question, value))
        return value

    model = GenerativeRewardModel(Judge(vote), votes=5, meta=meta)
    verdict = asyncio.run(model.judge("q", ["a", "b"]))
    assert verdict.totals == (17, 3) and verdict.filtered == 3  # the two votes of 9 and of 8
    assert sorted(trusted) == [("q", float(v)) for v in (1, 2, 7, 8, 9)]
    one = GenerativeRewardModel(Judge(vote), votes=1, meta=meta)
    assert asyncio.run(one.judge("q", ["a", "b"])).totals == (9, 1)

    async def lost(question, shown, text):
        return Invalid("judge", "no meta")

    model = GenerativeRewardModel(Judge(vote), votes=2, meta=lost)
    assert asyncio.run(model.judge("q", ["a", "b"])) == Invalid("judge", "no meta")


def test_more_votes_and_a_meta_filter_make_a_noisy_judge_better():
    """Accuracy over k: each vote is right with 0.6, and trust is a little right too."""

    def noisy(seed):
        def vote(shown, sample):
            rng = random.Random(f"{seed}-{sample}")
            right = rng.random() < 0.6
            return [7 if (answer == "good") == right else 4 for answer in shown]

        return vote

    async def trust(question, shown, text):
        right = parse_scores(text, 2)[list(shown).index("good")] == 7
        return random.Random(text + question).gauss(1.0 if right else 0.0, 1.0)

    def accuracy(votes, meta=None):
        wins = 0.0
        for seed in range(150):
            model = GenerativeRewardModel(Judge(noisy(seed)), votes=votes, meta=meta)
            good, bad = asyncio.run(model.judge(str(seed), ["good", "bad"])).totals
            wins += 1.0 if good > bad else 0.5 * (good == bad)
        return wins / 150

    one, nine = accuracy(1), accuracy(9)
    # 9 votes of 0.6: P(Binomial(9, 0.6) > 4) = 0.733
    assert one == pytest.approx(0.6, abs=0.13) and nine == pytest.approx(0.733, abs=0.12)
    assert nine > one
    assert accuracy(9, trust) > nine


def test_the_rule_that_trains_such_a_model():
    assert spct_reward([7, 3, 5], best=0) == 1.0
    assert spct_reward([7, 7, 5], best=0) == -1.0  # strictly above
    assert spct_reward([7, 3, 5], best=2) == -1.0
    assert spct_reward([7], best=0, label=7) == 1.0
    assert spct_reward([7], best=0, label=6) == -1.0


def test_the_same_vote_is_asked_for_once():
    judge = Judge(by_length)
    model = GenerativeRewardModel(judge, votes=3)
    messages = (*TASK.prompt, Message("assistant", "four"))
    first = asyncio.run(model(TASK, messages))
    assert first.reward == 0.4 and first.parts == {"votes": 3.0, "dropped": 0.0}
    assert asyncio.run(model(TASK, messages)) == first and len(judge.orders) == 3


def member(text, valid=True):
    return Trajectory(
        task_id="t",
        env_id="e",
        token_ids=(),
        mask=(),
        logprobs=(),
        prompt_length=0,
        turns=(Turn(TASK.prompt, Message("assistant", text)),),
        stop_reason=StopReason.COMPLETED if valid else StopReason.ENV_ERROR,
        reward=0.0 if valid else None,
        failure=None if valid else Invalid("sandbox"),
    )


def test_a_group_is_judged_beside_each_other():
    reward = grm_scores(GenerativeRewardModel(Judge(by_length), votes=2))
    group = Group(TASK, (member("aaaa"), member("zzzzzzz", False), member("bb")))
    assert asyncio.run(reward(group)) == [0.4, None, 0.2]
    silent = grm_scores(GenerativeRewardModel(Judge(lambda s, n: ModelReply("?"))))
    lost, none, also = asyncio.run(silent(group))
    assert isinstance(lost, Invalid) and isinstance(also, Invalid) and none is None
    assert asyncio.run(silent(Group(TASK, (member("a", False),)))) == [None]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="votes must be"):
        GenerativeRewardModel(Judge(by_length), votes=0)
    with pytest.raises(ValueError, match="nothing to judge"):
        asyncio.run(GenerativeRewardModel(Judge(by_length)).judge("q", []))
