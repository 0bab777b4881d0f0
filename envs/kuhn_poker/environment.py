"""`palestra/KuhnPoker-v0`: the smallest poker there is, whose exploitability is exactly known.

Three cards (J < Q < K), one each for two players, an ante of one chip. `first` checks or
bets a chip; then there is one answer to a bet: fold or call (Kuhn 1950). Zero-sum; with best
play `first` loses 1/18 of a chip a game. A policy is a table of the probability to bet or
call in each of the 12 information sets; `exploitability` says how much a best response wins
against it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product

from ..episode import Ask
from ..seats import Move, SeatEnv
from ..tasks import TaskList
from ..types import Message, Task

CARDS = ("J", "Q", "K")
FIRST, SECOND = SEATS = ("first", "second")
DEALS = tuple(permutations(CARDS, 2))
# Histories at which somebody acts; "c" checks or folds, "b" bets or calls.
TURNS = {"": FIRST, "c": SECOND, "b": SECOND, "cb": FIRST}
INFO_SETS = tuple((card, history) for history in TURNS for card in CARDS)
Policy = Mapping[tuple[str, str], float]  # probability of "b" by (card, history)
VALUE = -1 / 18  # of the game, for `first`
_ANSWER = re.compile(r"\[(check|bet|fold|call)\]", re.IGNORECASE)
RULES = (
    "You play Kuhn poker. There are three cards: J, Q and K; K is highest. Each player has put "
    "one chip into the pot and holds one card. A player may check or bet one chip. After a bet "
    "the other folds, and loses the pot, or calls with a chip, and the higher card wins. After "
    "two checks the higher card wins. Choose your move by writing it in brackets."
)


@dataclass(frozen=True, slots=True)
class Game:
    """A deal and what was done so far."""

    cards: tuple[str, str]
    history: str = ""


class KuhnPoker(SeatEnv):
    """Kuhn poker for the seats `first` and `second`.

    A task is one of the six deals. Moves are written in brackets: [check], [bet], [fold],
    [call]; the last one in a reply counts, and a reply without a legal move loses a chip.

    Args:
        rules: whether the first message explains the game.
    """

    seats = SEATS
    reward_range = (-2.0, 2.0)

    def __init__(
        self, *, rules: bool = True, max_turns: int = 3, render_mode: str | None = None
    ) -> None:
        tasks = [Task(f"kuhn/{a}{b}", (), metadata={"cards": [a, b]}) for a, b in DEALS]
        super().__init__(
            tasks=TaskList("kuhn", "train", tasks), max_turns=max_turns, render_mode=render_mode
        )
        self.rules = rules

    def deal(self, task: Task) -> tuple[str, Game]:
        first, second = task.metadata["cards"]
        return FIRST, Game((first, second))

    def introduce(self, seat: str) -> Sequence[Message]:
        game: Game = self.game
        return self.question(game.cards[SEATS.index(seat)], game.history)[0]

    def move(self, seat: str, text: str) -> Move | None:
        game: Game = self.game
        found = _ANSWER.findall(text)
        words = legal(game.history)
        if not found or found[-1].lower() not in words:
            return None
        history = game.history + ("c" if found[-1].lower() == words[0] else "b")
        self.episode.memory.game = Game(game.cards, history)
        if history in TURNS:
            mover = TURNS[history]
            # `second` is told in its opening; only `first` can be asked again.
            news = {FIRST: prompt(game.cards[0], history)} if history == "cb" else {}
            return Move(mover, news)
        won = payoff(game.cards, history)
        return Move(None, rewards={FIRST: won, SECOND: -won})

    def forfeit(self, seat: str) -> dict[str, float]:
        return {s: -1.0 if s == seat else 1.0 for s in SEATS}

    def oracle(self, task: Task) -> Sequence[str]:
        return ()  # nobody can force a win

    async def measure(self, ask: Ask) -> dict[str, float]:
        """`exploitability` in chips a game, exact for a policy that writes bare moves such as
        "[bet]" only; `bare moves`: how likely it writes one, mean over the 12 information sets.
        What it writes else is left out of account."""
        pairs = [await ask(*self.question(*key)) for key in INFO_SETS]
        policy = {
            key: bold / (careful + bold) if careful + bold else 0.5
            for key, (careful, bold) in zip(INFO_SETS, pairs, strict=True)
        }
        bare = sum(map(sum, pairs)) / len(pairs)
        return {"exploitability": exploitability(policy), "bare moves": bare}

    def question(self, card: str, history: str) -> tuple[list[Message], tuple[str, str]]:
        """An information set as its player sees it, and the two moves as bare replies."""
        messages = [Message("system", RULES)] if self.rules else []
        if history == "cb":  # the player has acted before
            messages += [Message("user", prompt(card, "")), Message("assistant", "[check]")]
        messages.append(Message("user", prompt(card, history)))
        careful, bold = legal(history)
        return messages, (f"[{careful}]", f"[{bold}]")


def legal(history: str) -> tuple[str, str]:
    """The two moves, the careful one first."""
    return ("fold", "call") if history.endswith("b") else ("check", "bet")


def prompt(card: str, history: str) -> str:
    """What a player with `card` is asked after `history`."""
    before = {"": "", "c": " Your opponent checked.", "b": " Your opponent bet."}
    told = before.get(history, " You checked, and your opponent bet.")
    careful, bold = legal(history)
    return f"Your card: {card}.{told} [{careful}] or [{bold}]?"


def payoff(cards: Sequence[str], history: str) -> float:
    """What `first` wins at a final history, in chips."""
    stake = 2 if history.endswith("bb") else 1
    if history in ("bc", "cbc"):  # a fold: the one who bet wins the ante
        return 1.0 if history == "bc" else -1.0
    return float(stake if CARDS.index(cards[0]) > CARDS.index(cards[1]) else -stake)


def value(first: Policy, second: Policy) -> float:
    """What `first` wins a game on average when these two policies meet."""
    return sum(_expected(deal, "", first, second) for deal in DEALS) / len(DEALS)


def _expected(cards: Sequence[str], history: str, first: Policy, second: Policy) -> float:
    if history not in TURNS:
        return payoff(cards, history)
    seat = TURNS[history]
    own = (first if seat == FIRST else second)[cards[SEATS.index(seat)], history]
    careful = _expected(cards, history + "c", first, second) if own < 1 else 0.0
    bold = _expected(cards, history + "b", first, second) if own > 0 else 0.0
    return (1 - own) * careful + own * bold


def best_response(seat: str, against: Policy) -> float:
    """The most that `seat` can win a game on average against a policy in the other seat.

    Over all pure strategies of its six information sets: exact, and there are only 64.
    """
    own = [key for key in INFO_SETS if TURNS[key[1]] == seat]
    best = float("-inf")
    for choice in product((0.0, 1.0), repeat=len(own)):
        policy = dict(zip(own, choice, strict=True))
        won = value(policy, against) if seat == FIRST else -value(against, policy)
        best = max(best, won)
    return best


def exploitability(policy: Policy) -> float:
    """How much a best response wins a game against a policy, mean over both seats, in chips.

    0 for an equilibrium, 11/24 for the uniform policy. (NashConv / 2.)

    Raises:
        ValueError: an information set is missing, or a probability is none.
    """
    missing = [key for key in INFO_SETS if key not in policy]
    if missing or not all(0 <= p <= 1 for p in policy.values()):
        raise ValueError(f"a policy needs a probability for each of INFO_SETS; missing: {missing}")
    return (best_response(FIRST, policy) + best_response(SECOND, policy)) / 2


def equilibrium(alpha: float = 1 / 3) -> dict[tuple[str, str], float]:
    """Kuhn's equilibrium; `alpha` in [0, 1/3] is how often `first` bluffs with a jack."""
    if not 0 <= alpha <= 1 / 3:
        raise ValueError(f"alpha must be in [0, 1/3], got {alpha}")
    policy = dict.fromkeys(INFO_SETS, 0.0)
    policy |= {("J", ""): alpha, ("K", ""): 3 * alpha, ("Q", "cb"): alpha + 1 / 3}
    policy |= {("K", "cb"): 1.0, ("J", "c"): 1 / 3, ("K", "c"): 1.0}
    return policy | {("Q", "b"): 1 / 3, ("K", "b"): 1.0}
