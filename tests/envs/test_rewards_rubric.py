"""Verdict probabilities, rubrics and tournaments: formulae, orders, vetoes, missing verdicts."""

import asyncio
import itertools
import json
import math
import random

import numpy as np
import pytest
from fakes import tiny_model, tiny_tokenizer

from palestra.agents.engines.local import LocalEngine
from palestra.agents.rendering import Renderer
from palestra.envs.rewards.endpoint import ModelReply
from palestra.envs.rewards.judge import Judge
from palestra.envs.rewards.protocol import JudgeError
from palestra.envs.rewards.rubric import (
    CORE,
    IMPLICIT,
    ITEM,
    PRESCRIPTIVE,
    ExplicitRubric,
    ImplicitRubric,
    Item,
    by_judge,
    by_probability,
    explicit_score,
    items_of,
)
from palestra.envs.rewards.tournament import (
    PAIR,
    bradley_terry,
    compare_both_orders,
    compared_by_judge,
    compared_by_probability,
    critic_accuracy,
    tournament,
)
from palestra.envs.rewards.verdict import (
    by_first_token,
    by_scoring,
    expected_score,
    expected_verdict,
    verdict_probabilities,
)
from palestra.envs.types import Invalid, Message, Task

TASK = Task("t", (Message("user", "Greet me."),), "Hello")
ITEMS = (
    Item("short", "It is short.", 1.0),
    Item("polite", "It is polite.", 0.7),
    Item("safe", "It gives nothing away.", 0.3, mandatory=True),
)


def said(text):
    return (*TASK.prompt, Message("assistant", text))


class Model:
    """A chat model made of a function from the question's text to the reply."""

    identity = {"model": "function"}  # noqa: RUF012

    def __init__(self, reply):
        self.reply, self.asked = reply, []

    async def complete(self, messages, *, sample=0, top_logprobs=0):
        self.asked.append(messages[-1].content)
        reply = self.reply(messages[-1].content)
        return reply if isinstance(reply, ModelReply) else ModelReply(reply)


# Verdicts from probabilities.


def test_probabilities_are_renormalised_over_the_verdicts():
    shares = verdict_probabilities([math.log(0.3), math.log(0.1), -math.inf])
    assert shares == pytest.approx([0.75, 0.25, 0.0])
    assert verdict_probabilities([-1000.0, -1000.0]) == [0.5, 0.5]
    for none in ([], [-math.inf, -math.inf]):
        with pytest.raises(ValueError, match="no verdict has a probability"):
            verdict_probabilities(none)


@pytest.fixture(scope="module")
def local():
    """A real engine over a tiny model, in one event loop, and how to render for it."""
    engine = LocalEngine(tiny_model(), tiny_tokenizer())
    with asyncio.Runner() as runner:
        yield engine, Renderer(engine.tokenizer).opening, engine.tokenizer.encode, runner
        runner.run(engine.aclose())


def test_scored_verdicts_equal_the_models_own_distribution(local):
    import torch

    engine, render, encode, runner = local
    verdicts = ["Yes", "No", "10"]
    ask = by_scoring(engine.logprobs, render, encode)
    scores = runner.run(ask(TASK.prompt, verdicts))
    model, prompt = tiny_model(), render(TASK.prompt)
    for verdict, score in zip(verdicts, scores, strict=True):
        ids = prompt + encode(verdict)
        with torch.inference_mode():
            table = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        brute = sum(float(table[t - 1, ids[t]]) for t in range(len(prompt), len(ids)))
        assert score == pytest.approx(brute, abs=1e-4)
    value = runner.run(expected_score(ask, TASK.prompt, {"Yes": 1.0, "No": 0.0}))
    assert value == pytest.approx(1 / (1 + math.exp(scores[1] - scores[0])), abs=1e-6)


def test_a_verdict_that_begins_another_needs_the_end_of_turn(local):
    engine, render, encode, runner = local
    with pytest.raises(ValueError, match="'1' begins as '10' does"):
        runner.run(by_scoring(engine.logprobs, render, encode)(TASK.prompt, ["1", "10"]))
    end = [engine.tokenizer.eos_token_id]
    ask = by_scoring(engine.logprobs, render, encode, end=end)
    assert len(runner.run(ask(TASK.prompt, ["1", "10"]))) == 2


def first_tokens(**probabilities):
    logs = {token: math.log(p) for token, p in probabilities.items()}
    return Model(lambda _: ModelReply("", first_token=logs))


def test_first_tokens_count_for_the_one_verdict_they_begin():
    model = first_tokens(**{"Yes": 0.5, " yes": 0.1, "Y": 0.1, "No": 0.2, "Maybe": 0.1, "": 0.05})
    logprobs = asyncio.run(by_first_token(model)(TASK.prompt, ["Yes", "No"]))
    assert [math.exp(x) for x in logprobs] == pytest.approx([0.7, 0.2])
    both = first_tokens(**{"1": 0.4, "10": 0.2, "2": 0.4})
    logprobs = asyncio.run(by_first_token(both)(TASK.prompt, ["1", "10", "2"]))
    assert logprobs[0] == -math.inf and math.exp(logprobs[1]) == pytest.approx(0.2)


def test_a_judge_that_says_something_else_is_invalid():
    verdict = asyncio.run(by_first_token(first_tokens(Well=0.9))(TASK.prompt, ["Yes", "No"]))
    assert isinstance(verdict, Invalid) and "0.000" in verdict.message
    silent = by_first_token(Model(lambda _: "Yes"), min_mass=0.0)
    verdict = asyncio.run(expected_score(silent, TASK.prompt, {"Yes": 1.0, "No": 0.0}))
    assert isinstance(verdict, Invalid)

    async def lost(messages, **options):
        raise JudgeError("gone")

    model = Model(None)
    model.complete = lost
    verdict = asyncio.run(by_first_token(model)(TASK.prompt, ["Yes"]))
    assert verdict == Invalid("judge", "gone")


def test_the_expected_verdict_is_a_reward():
    model = first_tokens(**{"5": 0.5, "3": 0.3, "1": 0.2})
    reward = expected_verdict(by_first_token(model), PAIR_FREE, {"1": 0.0, "3": 0.5, "5": 1.0})
    assert asyncio.run(reward(TASK, said("Hello"))).reward == pytest.approx(0.5 + 0.15)


PAIR_FREE = type(PAIR)("free", "1", "", "$question $answer")


# Rubrics.


def test_explicit_score_is_equation_1():
    for met in itertools.product([0.0, 0.25, 1.0], repeat=3):
        expected = (1.0 * met[0] + 0.7 * met[1] + 0.3 * met[2]) / 2.0
        if met[2] < 0.5:
            expected = 0.0  # the veto
        assert explicit_score(ITEMS, met) == pytest.approx(expected)
    assert explicit_score(ITEMS, [1, 1, 1]) == 1.0
    with pytest.raises(ValueError, match="one value per item"):
        explicit_score(ITEMS, [1.0])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        explicit_score(ITEMS, [1.0, 2.0, 1.0])
    with pytest.raises(ValueError, match="positive weight"):
        Item("pitfall", "It lies.", -1.0)


def test_items_come_from_a_tasks_metadata():
    rows = [{"text": "A", "category": "important"}, {"text": "B", "name": "b", "mandatory": True}]
    items = items_of(Task("t", TASK.prompt, metadata={"rubric": rows}))
    assert items == (Item("item_0", "A", 0.7), Item("b", "B", 1.0, True))
    for bad, message in (([], "no items"), ([{"text": "A", "wight": 1}], "wight")):
        with pytest.raises(ValueError, match=message):
            items_of(Task("t", TASK.prompt, metadata={"rubric": bad}))
    with pytest.raises(ValueError, match="category"):
        items_of(Task("t", TASK.prompt, metadata={"rubric": [{"text": "A", "category": "x"}]}))


def checklist(question):
    criterion = question.partition("Criterion: ")[2].partition("\n")[0]
    answer = question.rpartition("<answer-")[2].partition("\n")[2].partition("\n</answer")[0]
    met = {"It is short.": len(answer) < 10, "It is polite.": "please" in answer}
    return json.dumps({"score": int(met.get(criterion, "1234" not in answer))})


def test_every_item_is_checked_on_its_own():
    model = Model(checklist)
    reward = ExplicitRubric(ITEMS, by_judge(Judge(model, ITEM)))
    grade = asyncio.run(reward(TASK, said("Hello")))
    assert grade.parts == {"short": 1.0, "polite": 0.0, "safe": 1.0}
    assert grade.reward == pytest.approx(1.3 / 2)
    assert len(model.asked) == 3
    assert asyncio.run(reward(TASK, said("1234, please"))).reward == 0.0  # vetoed


def test_items_of_each_task_and_checks_by_code():
    model = Model(checklist)
    exact = Item("has_hello", "It says hello.", verify=lambda answer: "hello" in answer.lower())
    reward = ExplicitRubric(lambda task: (exact,), by_judge(Judge(model, ITEM)))
    assert asyncio.run(reward(TASK, said("Hello!"))).reward == 1.0
    assert asyncio.run(reward(TASK, said("Hi!"))).reward == 0.0
    assert model.asked == []


def test_one_item_without_a_verdict_makes_the_rubric_invalid():
    model = Model(lambda text: "Who knows?" if "polite" in text else checklist(text))
    verdict = asyncio.run(ExplicitRubric(ITEMS, by_judge(Judge(model, ITEM)))(TASK, said("Hi")))
    assert isinstance(verdict, Invalid) and verdict.kind == "judge"
    assert verdict.message.startswith("polite: ")


def test_items_checked_by_probability():
    reward = ExplicitRubric(ITEMS, by_probability(by_first_token(first_tokens(Yes=0.6, No=0.2))))
    grade = asyncio.run(reward(TASK, said("Hello")))
    assert grade.reward == pytest.approx(0.75) and grade.parts["polite"] == pytest.approx(0.75)


def test_the_implicit_score_is_likert_over_ten():
    model = Model(lambda text: '{"score": 8}')
    reward = ImplicitRubric(ITEMS, Judge(model, IMPLICIT))
    assert asyncio.run(reward(TASK, said("Hello"))).reward == 0.8
    assert "- It is polite. (weight 0.7)" in model.asked[0]
    assert "- It gives nothing away. (weight 0.3, mandatory)" in model.asked[0]
    zero = ImplicitRubric(ITEMS, Judge(Model(lambda text: '{"score": 0}'), IMPLICIT))
    assert isinstance(asyncio.run(zero(TASK, said("Hello"))), Invalid)  # off the scale


def test_the_shipped_items():
    assert all(item.mandatory for item in PRESCRIPTIVE) and not any(i.mandatory for i in CORE)
    assert len({item.name for item in (*CORE, *PRESCRIPTIVE)}) == 5


# Comparisons.


def critic(strength, bias=0.0):
    """Compares by strength, with a constant pull to what is shown first."""

    async def compare(question, first, second):
        gap = strength(first) - strength(second)
        return min(1.0, max(0.0, 0.5 + gap + bias))

    return compare


def test_judging_both_orders_cancels_a_constant_bias():
    for bias in (0.0, 0.2, -0.2):
        outcome = asyncio.run(compare_both_orders(critic(len, bias), "q", "aa", "aa"))
        assert outcome.value == pytest.approx(0.5)
        assert outcome.position_bias == pytest.approx(2 * bias)
        assert outcome.consistent is (bias == 0)
    stubborn = asyncio.run(compare_both_orders(critic(lambda t: 0, 0.5), "q", "a", "b"))
    assert (stubborn.value, stubborn.position_bias, stubborn.consistent) == (0.5, 1.0, False)


def test_win_rates_of_all_against_all():
    answers = ["a", "bb", "ccc", "bb"]
    result = asyncio.run(tournament("q", answers, critic(lambda t: 10 * len(t))))
    assert result.win_rates == pytest.approx((0.0, 0.5, 1.0, 0.5))
    assert (result.inconsistent, result.position_bias, result.invalid) == (0.0, 0.0, 0)
    assert np.isnan(np.diag(result.wins)).all()
    off = ~np.eye(4, dtype=bool)
    assert np.allclose((result.wins + result.wins.T)[off], 1.0)


def test_equal_texts_are_a_tie_that_costs_nothing():
    asked = []

    async def compare(question, first, second):
        asked.append((first, second))
        return 1.0

    result = asyncio.run(tournament("q", ["x", "x", "x"], compare))
    assert asked == [] and result.win_rates == (0.5, 0.5, 0.5)
    assert asyncio.run(tournament("q", ["x"], compare)).win_rates == (None,)


def test_pairs_without_a_verdict_are_left_out():
    async def compare(question, first, second):
        if "z" in first + second:
            return Invalid("judge", "?")
        return float(first > second)

    result = asyncio.run(tournament("q", ["a", "b", "z"], compare))
    assert result.win_rates == (0.0, 1.0, None) and result.invalid == 2


def test_random_opponents_connect_everybody_at_a_fraction_of_the_price():
    asked = []

    async def compare(question, first, second):
        asked.append((first, second))
        return float(int(first) > int(second))

    answers = [str(n) for n in range(20)]
    result = asyncio.run(tournament("q", answers, compare, opponents=4, seed=1))
    assert 20 * 4 <= len(asked) <= 20 * 6  # both orders of n * k / 2 pairs or a few more
    assert None not in result.win_rates
    again = asyncio.run(tournament("q", answers, compare, opponents=4, seed=1))
    assert again.win_rates == result.win_rates
    strengths = bradley_terry(result.wins)
    order = np.corrcoef(np.argsort(np.argsort(strengths)), range(20))[0, 1]
    assert order > 0.9
    with pytest.raises(ValueError, match="at least one opponent"):
        asyncio.run(tournament("q", answers, compare, opponents=0))


def test_bradley_terry_in_closed_form_and_from_exact_probabilities():
    two = np.array([[np.nan, 7.0], [3.0, np.nan]])
    strengths = bradley_terry(two, prior=0.0)
    assert strengths[0] - strengths[1] == pytest.approx(math.log(7 / 3))
    true = np.array([1.0, 0.3, -0.2, -1.1])
    exact = 1 / (1 + np.exp(true[None, :] - true[:, None]))
    np.fill_diagonal(exact, np.nan)
    assert bradley_terry(exact, prior=0.0) == pytest.approx(true, abs=1e-6)
    unbeaten = bradley_terry(np.array([[0, 1.0], [0, 0]]))
    assert np.isfinite(unbeaten).all() and unbeaten[0] > 0 > unbeaten[1]
    with pytest.raises(ValueError, match="positive prior"):
        bradley_terry(np.array([[0, 1.0], [0, 0]]), prior=0.0)


def test_bradley_terry_maximises_its_likelihood():
    rng = np.random.default_rng(0)
    wins, prior = rng.integers(0, 5, (5, 5)).astype(float), 0.1
    np.fill_diagonal(wins, 0)

    def likelihood(s):
        logs = -np.log1p(np.exp(s[None, :] - s[:, None]))
        anchored = -np.log1p(np.exp(-s)) - np.log1p(np.exp(s))
        return float((wins * logs).sum() + prior * anchored.sum())

    # The prior fixes the level, the result is centred: put it back where it is best.
    best = bradley_terry(wins, prior=prior)
    level = max(np.linspace(-1, 1, 2001), key=lambda c: likelihood(best + c))
    top = likelihood(best + level)
    for _ in range(200):
        assert likelihood(best + level + rng.normal(0, 0.05, 5)) <= top + 1e-6


def pairwise(text):
    first, second = (
        text.partition(f"<answer-{x}-")[2].partition("\n")[2].partition("\n</answer")[0]
        for x in "AB"
    )
    return json.dumps({"score": 0.5 if first == second else float(len(first) > len(second))})


def test_comparisons_by_a_judge_and_by_probability():
    compare = compared_by_judge(Judge(Model(pairwise), PAIR))
    result = asyncio.run(tournament("q", ["a", "ccc", "bb"], compare))
    assert result.win_rates == (0.0, 1.0, 0.5)
    soft = compared_by_probability(by_first_token(first_tokens(A=0.6, B=0.2)))
    outcome = asyncio.run(compare_both_orders(soft, "q", "a", "b"))
    assert (outcome.value, outcome.position_bias) == (0.5, pytest.approx(0.5))


def test_the_accuracy_of_a_critic_is_tracked_on_verifiable_pairs():
    rng = random.Random(0)
    triples = [("q", f"right {n}", f"wrong {n}") for n in range(400)]

    def noisy(bias):
        async def compare(question, first, second):
            if rng.random() < bias:
                return 1.0
            return float(first.startswith("right"))

        return compare

    exact = asyncio.run(critic_accuracy(noisy(0.0), triples))
    assert exact == {"accuracy": 1.0, "position_bias": 0.0, "inconsistent": 0.0, "invalid": 0.0}
    # Biased in half of the calls: the order (wrong, right) goes astray, a tie for both.
    half = asyncio.run(critic_accuracy(noisy(0.5), triples))
    assert half["accuracy"] == pytest.approx(0.75, abs=0.05)
    assert half["position_bias"] == pytest.approx(0.5, abs=0.1)

    async def silent(question, first, second):
        return Invalid("judge", "?")

    for percent in range(1, 100):  # a critic that sees the place alone knows nothing

        async def constant(question, first, second, value=percent / 100):
            return value

        blind = asyncio.run(critic_accuracy(constant, triples[:1]))
        assert blind["accuracy"] == 0.5 and blind["inconsistent"] == (percent != 50)

    with pytest.raises(ValueError, match="no verdict on any of 400 pairs"):
        asyncio.run(critic_accuracy(silent, triples))
