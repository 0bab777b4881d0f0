"""`SeatEnv`: games with several players, as one Gymnasium environment with named seats.

Whoever is at turn (`env.seat`) gets the observation and makes the next action. Each seat has
a conversation of its own: its opening, and then what was said to it since its last action.
`agents/matches.py` plays such environments with one agent to each seat, or one for all.

    class Nim(SeatEnv):
        seats = ("first", "second")
        def deal(self, task): ...            # begin; returns who starts
        def introduce(self, seat): ...       # the rules, and what only this seat knows
        def move(self, seat, text): ...      # returns a Move
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .core import ChatEnv
from .episode import Reply
from .types import Message, StopReason, Task


@dataclass(frozen=True, slots=True)
class Move:
    """What a move leads to.

    Attributes:
        next: the seat at turn, or None when the game is over.
        tell: news by seat, to be read before its next action.
        rewards: by seat, when the game is over; they need not sum to zero.
    """

    next: str | None
    tell: Mapping[str, str] = field(default_factory=dict)
    rewards: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Table:
    """The state of a game: what snapshots copy."""

    seat: str
    game: Any
    news: dict[str, list[Message]] = field(default_factory=dict)
    seated: set[str] = field(default_factory=set)
    rewards: dict[str, float] = field(default_factory=dict)


class SeatEnv(ChatEnv):
    """An environment for several agents that act in turns.

    As a plain Gymnasium environment one caller acts for every seat; the reward of the last
    action is that of the seat that made it, and `rewards` (and `info["reward_parts"]`, as
    `seat/NAME`) has everybody's. A move that cannot be read or is against the rules loses:
    `forfeit` says what that pays.
    """

    seats: tuple[str, ...] = ()

    def deal(self, task: Task) -> tuple[str, Any]:
        """Begin a game: the seat that acts first, and the state, kept as `self.game`."""
        raise NotImplementedError(f"{type(self).__name__} must define deal(task)")

    def introduce(self, seat: str) -> Sequence[Message]:
        """The first messages of a seat's conversation."""
        raise NotImplementedError(f"{type(self).__name__} must define introduce(seat)")

    def move(self, seat: str, text: str) -> Move | None:
        """Play one move; None when `text` is no legal move."""
        raise NotImplementedError(f"{type(self).__name__} must define move(seat, text)")

    def forfeit(self, seat: str) -> dict[str, float]:
        """The rewards when `seat` breaks the rules or runs out of budget."""
        low, high = self.reward_range
        others = len(self.seats) - 1
        return {s: low if s == seat else min(high, -low / others) for s in self.seats}

    @property
    def seat(self) -> str:
        """Who is at turn; after the end, who made the last move."""
        return self._table.seat

    @property
    def game(self) -> Any:
        """The author's state of the running game."""
        return self._table.game

    @property
    def rewards(self) -> dict[str, float]:
        """By seat, once the game is over."""
        return dict(self._table.rewards)

    def begin(self, task: Task) -> Sequence[Message]:
        seat, game = self.deal(task)
        if seat not in self.seats:
            raise ValueError(f"deal() named the seat {seat!r}; seats are {self.seats}")
        self.episode.memory = _Table(seat, game)
        return self._observation(seat)

    def respond(self, action: Message) -> Reply:
        table = self._table
        mover = table.seat
        move = self.move(mover, action.content)
        if move is None:
            move = Move(None, rewards=self.forfeit(mover))
        if move.next is None:
            return self._end(move.rewards)
        for seat, text in move.tell.items():
            table.news.setdefault(seat, []).append(Message("user", text))
        table.seat = move.next
        return Reply(tuple(self._observation(move.next)))

    def give_up(self) -> dict[str, float]:
        """End the game against the seat at turn, which has no move to make; the rewards."""
        self.episode.stop = StopReason.COMPLETED
        self._end(self.forfeit(self.seat))
        return self.rewards

    def _end(self, rewards: Mapping[str, float]) -> Reply:
        if set(rewards) != set(self.seats):
            raise ValueError(f"rewards at the end must be for {self.seats}, got {dict(rewards)}")
        table = self._table
        table.rewards = {seat: float(value) for seat, value in rewards.items()}
        own = table.rewards[table.seat]
        parts = {f"seat/{seat}": value for seat, value in table.rewards.items()}
        return Reply((), own, StopReason.COMPLETED, parts, correct=own > 0)

    def _observation(self, seat: str) -> list[Message]:
        table = self._table
        opening = [] if seat in table.seated else list(self.introduce(seat))
        table.seated.add(seat)
        return opening + table.news.pop(seat, [])

    @property
    def _table(self) -> _Table:
        table = self.episode.memory
        assert isinstance(table, _Table)
        return table
