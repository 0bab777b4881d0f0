"""Kuhn poker: rules, known values, and the checker's view of a game with seats."""

import itertools
import random

import pytest

import palestra
from palestra.envs.checker import Status, Subject, audit
from palestra.envs.kuhn_poker import (
    DEALS,
    FIRST,
    INFO_SETS,
    SECOND,
    VALUE,
    best_response,
    equilibrium,
    exploitability,
    payoff,
    prompt,
    value,
)

UNIFORM = dict.fromkeys(INFO_SETS, 0.5)


def make():
    return palestra.make("palestra/KuhnPoker-v0").unwrapped


def play(cards, *moves):
    env = make()
    env.reset(seed=0, options={"task": DEALS.index(cards)})
    for move in moves:
        step = env.step(f"I think so. [{move}]")
    return env, step


@pytest.mark.parametrize(
    ("cards", "moves", "won"),
    [
        (("K", "Q"), ("check", "check"), 1),
        (("J", "Q"), ("check", "check"), -1),
        (("J", "Q"), ("bet", "fold"), 1),
        (("J", "K"), ("bet", "call"), -2),
        (("Q", "J"), ("check", "bet", "fold"), -1),
        (("Q", "J"), ("check", "bet", "call"), 2),
    ],
)
def test_the_rules(cards, moves, won):
    env, (_, reward, ended, _, info) = play(cards, *moves)
    assert ended and env.rewards == {FIRST: won, SECOND: -won}
    assert info["reward_parts"] == {"seat/first": won, "seat/second": -won}
    mover = FIRST if len(moves) == 3 else SECOND
    assert reward == env.rewards[mover]


def test_each_seat_sees_its_own_card_and_what_concerns_it():
    env = make()
    opening, _ = env.reset(seed=0, options={"task": DEALS.index(("Q", "K"))})
    assert env.seat == FIRST and opening[-1].content == prompt("Q", "")
    answer = env.step("[check]")[0]
    assert env.seat == SECOND and "Your card: K" in answer[-1].content
    assert "Q" not in answer[-1].content and answer[0].role == "system"
    again = env.step("[bet]")[0]
    assert [m.content for m in again] == [prompt("Q", "cb")]


@pytest.mark.parametrize("text", ["", "bet", "[fold]", "[raise]", "I [bet] or [call]?"])
def test_no_legal_move_loses_a_chip(text):
    env = make()
    env.reset(seed=0)
    _, reward, ended, _, _ = env.step(text)
    assert ended and reward == -1 and env.rewards == {FIRST: -1, SECOND: 1}


def test_known_values():
    """Kuhn (1950): the game is worth -1/18 to the first player, whatever the bluffing rate."""
    for alpha, beta in itertools.product((0, 0.1, 1 / 3), repeat=2):
        assert value(equilibrium(alpha), equilibrium(beta)) == pytest.approx(VALUE)
        assert exploitability(equilibrium(alpha)) == pytest.approx(0, abs=1e-12)
    assert exploitability(UNIFORM) == pytest.approx(11 / 24)
    assert best_response(SECOND, dict.fromkeys(INFO_SETS, 0.0)) > 0.3


def test_value_is_what_games_pay_on_average():
    rng = random.Random(0)
    policy = {key: rng.random() for key in INFO_SETS}
    total, count = 0.0, 60_000
    for _ in range(count):
        cards, history = rng.choice(DEALS), ""
        while history in ("", "c", "b", "cb"):
            card = cards[0] if history in ("", "cb") else cards[1]
            history += "b" if rng.random() < policy[card, history] else "c"
        total += payoff(cards, history)
    assert total / count == pytest.approx(value(policy, policy), abs=0.02)


def test_a_policy_must_be_whole():
    with pytest.raises(ValueError, match="missing"):
        exploitability({("J", ""): 0.5})
    with pytest.raises(ValueError, match="probability"):
        exploitability(UNIFORM | {("J", ""): 1.5})
    with pytest.raises(ValueError, match="alpha"):
        equilibrium(0.5)


def test_the_audit_passes():
    found = audit(Subject(lambda **changes: make(), 6, 20))
    assert {f.check: f.detail for f in found if f.status is Status.FAIL} == {}
