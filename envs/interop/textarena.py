"""`palestra/TextArena-v0`: the games of TextArena (arXiv:2504.11442), one seat or several.

    env = palestra.make("palestra/TextArena-v0", name="ConnectFour-v0")

Each seat hears what is new since its last move, its own moves left out: TextArena's other
renderings repeat the whole game at every turn, which a conversation holds already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import count
from typing import Any

from ..episode import Reply
from ..global_random import GlobalRandom
from ..seats import Move, SeatEnv
from ..spaces import TextSpace
from ..tasks.seeds import SeedTasks
from ..types import Message, Task
from .packages import need

MAX_PLAYERS = 16
_EXAMPLES = (*(f"[{number}]" for number in range(9)), "[up]", "[left]", "[1 2]")


@dataclass
class Game:
    """A running game: TextArena's environment without wrappers, and its random numbers."""

    env: Any
    random: GlobalRandom
    opening: str = ""


class TextArena(SeatEnv):
    """A TextArena game with the seats `player 0`, `player 1`, ...

    TextArena itself judges what is legal: it answers a first illegal move with a notice, and
    ends the game at the second. A game that needs a model of its own (a jury, a game master)
    or word lists that are not installed cannot be made, and says why.

    Args:
        name: an id of TextArena's registry, variants such as `Sudoku-v0-hard` included.
        players: how many; by default the fewest that the game takes.
        options: keyword arguments of the game's constructor.
        reward_range: of a whole game; a few games pay other sums than -1 to 1.
        split, size: which seeds are the tasks, and how many.
        max_turns: moves of all seats together.

    Raises:
        ImportError: textarena is not installed.
        ValueError: no such game, or it cannot be begun here.
    """

    def __init__(
        self,
        *,
        name: str = "TicTacToe-v0",
        players: int | None = None,
        options: Mapping[str, Any] | None = None,
        reward_range: tuple[float, float] = (-1.0, 1.0),
        split: str = "train",
        size: int | None = None,
        max_turns: int = 200,
        render_mode: str | None = None,
    ) -> None:
        self.name, self.options = name, dict(options or {})
        self.players = _fewest_players(name, self.options) if players is None else players
        self.seats = tuple(f"player {number}" for number in range(self.players))
        tasks = SeedTasks(f"textarena/{name}", split=split, size=size)
        super().__init__(tasks=tasks, max_turns=max_turns, render_mode=render_mode)
        self.reward_range = (float(reward_range[0]), float(reward_range[1]))
        self.action_space = TextSpace(examples=_EXAMPLES)

    def deal(self, task: Task) -> tuple[str, Game]:
        game, _ = _begin(self.name, self.options, self.players, int(task.metadata["seed"]))
        seat, game.opening = self._observed(game)
        return seat, game

    def introduce(self, seat: str) -> Sequence[Message]:
        # Whoever comes to move later is introduced by the news of its first turn.
        text, self.game.opening = self.game.opening, ""
        return (Message("user", text),) if text else ()

    def move(self, seat: str, text: str) -> Move | None:
        game: Game = self.game
        with game.random.lent():
            for wrapper in reversed(_action_wrappers(self.name)):
                text = wrapper(game.env).action(text)
            done, _ = game.env.step(text)
            if done:
                rewards, told = game.env.close()
        if done:
            own = rewards.get(self.seats.index(seat), 0.0)
            if isinstance(own, str) and any(player["invalid_move"] for player in told.values()):
                return None  # some games give the reason of a lost game as its reward
            return Move(None, rewards={s: rewards.get(i, 0.0) for i, s in enumerate(self.seats)})
        next_seat, news = self._observed(game)
        return Move(next_seat, {next_seat: news})

    def _end(self, rewards: Mapping[str, float]) -> Reply:
        reply = super()._end(rewards)
        # Alone, any progress pays something, and only the whole of it is a solution.
        return replace(reply, correct=reply.reward >= 1.0) if len(self.seats) == 1 else reply

    def _observed(self, game: Game) -> tuple[str, str]:
        """Who is at turn, and what is new to that seat."""
        ta = need("textarena", "textarena")
        with game.random.lent():
            player, observed = game.env.get_observation()
        players = range(self.players)  # any other sender is the game
        own = (player, ta.ObservationType.PLAYER_ACTION)
        roles: Mapping[int, str] = game.env.state.role_mapping
        lines = [
            f"[{roles.get(sender, f'Player {sender}')}] {text}" if sender in players else text
            for sender, text, kind in observed
            if isinstance(text, str) and (sender, kind) != own
        ]
        return self.seats[player], "\n".join(lines) or "It is your turn."


def games() -> list[str]:
    """The ids that `name` may be.

    Raises:
        ImportError: textarena is not installed.
    """
    registry = need("textarena.envs.registration", "textarena").ENV_REGISTRY
    return sorted(name for name in registry if not name.endswith("-raw"))


def _begin(name: str, options: Mapping[str, Any], players: int, seed: int) -> tuple[Game, Any]:
    """A game with its first position on the board; and TextArena's module."""
    ta = need("textarena", "textarena")
    random = GlobalRandom(seed)
    with random.lent():
        env = ta.make(name, **options)
        while isinstance(env, ta.Wrapper):
            env = env.env
        env.reset(num_players=players, seed=seed)
    return Game(env, random), ta


def _fewest_players(name: str, options: Mapping[str, Any]) -> int:
    if name not in games():
        near = get_close_matches(name, games(), n=3, cutoff=0.6)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"TextArena has no game {name!r}.{hint}")
    for players in count(1):
        try:
            game, ta = _begin(name, options, players, seed=0)
        except Exception as error:  # games refuse a number of players in ways of their own
            if players < MAX_PLAYERS and isinstance(error, AssertionError | ValueError):
                continue
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise ValueError(f"TextArena's {name} cannot be begun here: {why}") from error
        # Some games for several can be begun alone, and fail later.
        if (players == 1) == isinstance(game.env.state, ta.SinglePlayerState):
            return players
    raise AssertionError("unreachable")


def _action_wrappers(name: str) -> list[Any]:
    """The classes that TextArena puts between a reply and the game, the innermost first."""
    ta = need("textarena", "textarena")
    spec = need("textarena.envs.registration", "textarena").ENV_REGISTRY[name]
    return [w for w in spec.default_wrappers or () if issubclass(w, ta.ActionWrapper)]
