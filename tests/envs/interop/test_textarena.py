"""TextArena's own games, through our seats."""

from __future__ import annotations

import asyncio
import pickle
import random

import pytest

import palestra
from palestra.agents.agent import Agent
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.agents.matches import match
from palestra.envs.interop.textarena import TextArena, games
from palestra.envs.types import StopReason

ta = pytest.importorskip("textarena")

# One of each kind that needs no word list and no model: alone, two, three and six seats.
ALONE = ("2048-v0", "Minesweeper-v0", "TowerOfHanoi-v0", "LightsOut-v0", "Mastermind-v0-hard")
SEATED = {
    "TicTacToe-v0": 2,
    "ConnectFour-v0": 2,
    "KuhnPoker-v0": 2,
    "Stratego-v0": 2,
    "QuantumTicTacToe-v0": 2,  # could be begun alone
    "ThreePlayerTicTacToe-v0": 3,
    "SecretMafia-v0": 6,
}
MOVES = [f"[{i}]" for i in range(9)] + [f"[{i} {j}]" for i in range(4) for j in range(4)]
MOVES += ["[up]", "[left]", "[check]", "[bet]", "[A 3]", "nonsense"]


def script(seed, length=40):
    draw = random.Random(seed)
    return [draw.choice(MOVES) for _ in range(length)]


def theirs(name, players, seed, moves):
    """What a game comes to in TextArena's own loop: who moved when, and the rewards."""
    random.seed(seed)
    env = ta.make(name)
    env.reset(num_players=players, seed=seed)
    movers = []
    for move in moves:
        player, _ = env.get_observation()
        movers.append(player)
        done, _ = env.step(action=move)
        if done:
            return movers, env.close()[0]
    return movers, None


def ours(env, seed, moves):
    env.reset(options={"task": seed // 2})
    movers = []
    for move in moves:
        movers.append(env.seats.index(env.seat))
        *_, ended, truncated, info = env.step(move)
        if ended or truncated:
            assert "failure" not in info
            return movers, {i: env.rewards[seat] for i, seat in enumerate(env.seats)}
    return movers, None


@pytest.mark.parametrize("name", [*ALONE, *SEATED])
def test_a_game_goes_as_in_textarenas_own_loop(name):
    env = TextArena(name=name)
    assert len(env.seats) == SEATED.get(name, 1)
    for seed in (0, 2, 4):
        moves = script(seed)
        state = random.getstate()
        expected = theirs(name, env.players, seed, moves)
        random.setstate(state)
        assert ours(env, seed, moves) == expected
        assert random.getstate() == state


def test_each_seat_hears_what_is_new_to_it():
    env = TextArena(name="TicTacToe-v0")
    first, _ = env.reset(seed=0)
    assert env.seat == "player 0" and "You are Player 0" in first[0].content
    second = env.step("The corner: [0]")[0][0].content
    assert env.seat == "player 1" and "You are Player 1" in second
    assert "[Player 0]" in second  # what the other said
    again = env.step("[4]")[0][0].content
    assert env.seat == "player 0" and "[Player 1]" in again
    assert "The corner" not in again and "You are Player" not in again


def test_a_first_illegal_move_is_an_observation_and_a_second_loses():
    env = TextArena()
    env.reset(seed=0)
    env.step("[0]")
    observation, reward, ended, *_ = env.step("[0]")
    assert "invalid move" in observation[0].content and (reward, ended) == (0.0, False)
    assert env.seat == "player 1"
    *_, reward, ended, _, info = env.step("no move at all")
    assert (reward, ended, info["correct"]) == (-1.0, True, False)
    assert env.rewards == {"player 0": 1.0, "player 1": -1.0}


def test_a_game_that_pays_its_reason_loses_all_the_same():
    env = TextArena(name="Cryptarithm-v0")
    env.reset(seed=0)
    env.step("?")
    *_, reward, ended, _, info = env.step("?")
    assert (reward, ended) == (-1.0, True) and "failure" not in info


def test_two_agents_play_each_other():
    players = {
        "player 0": Agent(ScriptedEngine(["[0]", "[1]", "Won: [2]"])),
        "player 1": Agent(ScriptedEngine(["[3]", "[4]"])),
    }
    sides = asyncio.run(match(TextArena(), players, seed=1))
    assert {seat: side.reward for seat, side in sides.items()} == {"player 0": 1, "player 1": -1}
    assert [len(side.turns) for side in sides.values()] == [3, 2]
    cut = asyncio.run(match(TextArena(max_turns=3), players, seed=1))
    assert {side.stop_reason for side in cut.values()} == {StopReason.MAX_TURNS}


def test_snapshots_branch_the_game_and_its_dice():
    env, twin = TextArena(name="2048-v0"), TextArena(name="2048-v0")
    env.reset(seed=3)
    for move in ("[up]", "[left]", "[down]"):
        env.step(move)
    point = env.snapshot()
    moves = ["[right]", "[up]", "[left]", "[down]"]  # each is answered with a random tile
    boards = [[env.step(m)[0] for m in moves]]
    for other in (env, twin):
        random.seed(len(boards))
        other.restore(point)
        boards.append([other.step(m)[0] for m in moves])
    assert boards[0] == boards[1] == boards[2]
    copy = pickle.loads(pickle.dumps(env))
    assert copy.step("[up]")[0] == env.step("[up]")[0]


def test_options_and_variants_reach_the_game():
    env = TextArena(name="2048-v0-3x3", options={"target_tile": 8})
    board = env.reset(seed=0)[0][0].content
    assert "3" in board
    for move in ["[up]", "[left]", "[down]", "[right]"] * 10:
        *_, reward, ended, _, info = env.step(move)
        if ended:
            break
    assert ended and info["correct"] == (reward >= 1.0)


def test_the_registry_is_listed():
    assert len(games()) > 400 and "TicTacToe-v0" in games()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "TicTacTo-v0"}, "Did you mean TicTacToe-v0"),
        ({"name": "GuessWho-v0"}, "cannot be begun here: ValueError: OpenRouter API key"),
        ({"name": "TicTacToe-v0", "options": {"size": 4}}, "cannot be begun here: TypeError"),
    ],
)
def test_mistakes_are_named(settings, message, monkeypatch):
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    with pytest.raises(ValueError, match=message):
        palestra.make("palestra/TextArena-v0", **settings)
