"""`palestra/Gymnasium-v0`: any Gymnasium environment that can be read and acted on as text.

What the agent sees is the observation itself where it is text, else the environment's "ansi"
rendering, else the observation written out. It acts by writing an action in brackets.

    env = palestra.make("palestra/Gymnasium-v0", name="Taxi-v4", max_turns=50)
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator

from ..core import ChatEnv
from ..episode import Reply
from ..global_random import GlobalRandom
from ..spaces import TextSpace
from ..tasks.seeds import SeedTasks
from ..types import Message, StopReason, Task

_COLOURED = re.compile(r"\x1b\[([\d;]+)m(.*?)\x1b\[0m", re.DOTALL)
_ESCAPE = re.compile(r"\x1b\[[\d;]*[A-Za-z]")
_BRACKETS = re.compile(r"\[([^\[\]\n]*)\]")
_COLOURS = ("gray", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
# Parts of Gymnasium's documentation that tell a player how to play.
_FOR_PLAYERS = ("description", "action space", "observation space", "rewards", "episode end")


class GymnasiumText(ChatEnv):
    """A Gymnasium environment whose actions are `Discrete` or `Text`, played in chat.

    The last brackets in a reply count. Every step pays what the environment pays; its own
    truncation ends the episode as `max_turns`, unless it has succeeded by then.

    In the place of a reply without a legal action one is played that is drawn from the
    episode's generator, and the agent is told. What it loses is paid and what it gains is not:
    where every step costs (Taxi, MountainCar) not to act must not be cheaper than to act, and
    where every step pays (CartPole) it must not pay. No foreign reward has to be known for that.

    Args:
        name: an id of Gymnasium's registry; `module:Name-v0` imports the module first.
        options: keyword arguments of its constructor.
        actions: names of the discrete actions, in order; without them they are numbers.
        instructions: the first message; by default the parts of the environment's
            documentation that describe the game.
        success: the sum of rewards from which an episode counts as correct (default: the
            `reward_threshold` of its registration; without one nothing counts).
        reward_range: of a whole episode, where it is known.
        truncated_reward: what an episode earns beside its steps' rewards when a budget of tokens
            or time cuts it off (see `ChatEnv`): where every step costs, what the rest would have.
        split, size: which seeds are the tasks, and how many.
        max_turns: by default the environment's own limit, or 100 where it has none.

    Raises:
        ValueError: no such environment, or one whose actions are not text.
    """

    def __init__(
        self,
        *,
        name: str = "FrozenLake-v1",
        options: Mapping[str, Any] | None = None,
        actions: Sequence[str] | None = None,
        instructions: str | None = None,
        success: float | None = None,
        reward_range: tuple[float, float] = (float("-inf"), float("inf")),
        truncated_reward: float | None = None,
        split: str = "train",
        size: int | None = None,
        max_turns: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self._random = GlobalRandom(0)
        with self._random.lent():
            self.foreign = _make(name, dict(options or {}))
        spec = self.foreign.spec
        limit = max_turns or (spec.max_episode_steps if spec else None) or 100
        tasks = SeedTasks(f"gymnasium/{name}", split=split, size=size)
        super().__init__(tasks=tasks, max_turns=limit, render_mode=render_mode)
        self.reward_range = (float(reward_range[0]), float(reward_range[1]))
        self.truncated_reward = truncated_reward
        self.success = spec.reward_threshold if success is None and spec else success
        self.actions = _action_names(self.foreign.action_space, actions)
        self.action_space = TextSpace(examples=[f"[{name}]" for name in self.actions or ()])
        about = _documentation(self.foreign) if instructions is None else instructions
        self.instructions = "\n\n".join(filter(None, (about, self._how_to_act())))

    def begin(self, task: Task) -> Sequence[Message]:
        seed = int(task.metadata["seed"])
        self._random = GlobalRandom(seed)
        with self._random.lent():
            observation, _ = self.foreign.reset(seed=seed)
            text = self.describe(observation)
        self.episode.memory = 0.0  # the sum of rewards
        return (Message("user", f"{self.instructions}\n\n{text}"),)

    def respond(self, action: Message) -> Reply:
        choice = self.read(action.content)
        legal, notice = choice is not None, ""
        if not legal:
            choice, notice = self._drawn()
        with self._random.lent():
            observation, reward, terminated, truncated, _ = self.foreign.step(choice)
            text = notice + self.describe(observation)
        value = float(reward) if legal else min(float(reward), 0.0)
        self.episode.memory += value
        if not terminated and not truncated:
            return Reply((Message("user", text),), value)
        total = self.episode.memory
        correct = None if self.success is None else total >= self.success
        # Where the aim is to last until the limit, reaching it is the end of the task.
        stop = StopReason.COMPLETED if terminated or correct else StopReason.MAX_TURNS
        return Reply((), value, stop, {"return": total}, correct)

    def describe(self, observation: Any) -> str:
        """What the agent is shown of a state. Override it for another wording."""
        if isinstance(observation, str):
            return observation
        rendering = self.foreign.render() if self.foreign.render_mode == "ansi" else None
        return plain(rendering) if isinstance(rendering, str) else written(observation)

    def read(self, text: str) -> Any:
        """The action that a reply asks for; None where it asks for no legal one."""
        choice: Any = text
        if self.actions is not None:
            written = _BRACKETS.findall(text)
            choice = self.actions.get(written[-1].strip().lower()) if written else None
        return choice if self.foreign.action_space.contains(choice) else None

    def save_resources(self) -> Any:
        try:
            return copy.deepcopy((self.foreign, self._random))
        except Exception as error:
            raise TypeError(
                f"{self.foreign} cannot be copied, so its episodes cannot be branched: "
                f"{type(error).__name__}: {error}"
            ) from error

    def load_resources(self, saved: Any) -> None:
        self.foreign, self._random = copy.deepcopy(saved)

    def close(self) -> None:
        super().close()
        self.foreign.close()

    def _drawn(self) -> tuple[Any, str]:
        """A legal action that follows from the episode's seed, and the notice that it is played."""
        space = self.foreign.action_space
        space.seed(int(self.np_random.integers(2**31)))
        choice = space.sample()
        names = {number: name for name, number in (self.actions or {}).items()}
        played = f"[{names[int(choice)]}]" if names else repr(choice)
        return choice, (
            f"There is no legal action in your reply, so {played} was played. "
            f"{self._how_to_act()}\n\n"
        )

    def _how_to_act(self) -> str:
        if self.actions is None:
            return "Reply with your action and nothing else."
        names = list(self.actions)
        listed = ", ".join(f"[{name}]" for name in names[:30])
        more = f", ... up to [{names[-1]}]" if len(names) > 30 else ""
        return f"Write your action in brackets, one of: {listed}{more}."


def plain(rendering: str) -> str:
    """Terminal text without its escapes: what was highlighted stands in brackets, and what
    was coloured is listed below the text by its colour."""
    coloured: list[str] = []

    def told(match: re.Match[str]) -> str:
        codes, inner = [int(code) for code in match[1].split(";") if code], match[2]
        coloured.extend(f"{_COLOURS[c - 30]}: {inner.strip()}" for c in codes if 30 <= c <= 37)
        return f"[{inner}]" if any(40 <= code <= 47 for code in codes) else inner

    text = _ESCAPE.sub("", _COLOURED.sub(told, rendering)).strip("\n")
    return "\n".join([text, *coloured])


def written(observation: Any) -> str:
    """An observation that is neither text nor rendered, as short text."""
    if isinstance(observation, tuple | list):
        return f"({', '.join(map(written, observation))})"
    if isinstance(observation, Mapping):
        return ", ".join(f"{key}: {written(value)}" for key, value in observation.items())
    return str(observation)


def _make(name: str, options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    module, _, id = name.rpartition(":")
    if module:
        import_module(module)
    try:
        point = gymnasium.spec(id).entry_point
    except gymnasium.error.Error as error:
        raise ValueError(str(error)) from error
    creator = load_env_creator(point) if isinstance(point, str) else point
    modes = getattr(creator, "metadata", {}).get("render_modes", ())
    render = {"render_mode": "ansi"} if "ansi" in modes else {}
    return gymnasium.make(id, disable_env_checker=True, **{**render, **options})


def _action_names(space: Any, names: Sequence[str] | None) -> dict[str, int] | None:
    """Discrete actions by what the agent writes for them; None for actions that are text."""
    if isinstance(space, spaces.Text):
        if names is not None:
            raise ValueError("actions names discrete actions, but those of this space are text")
        return None
    if not isinstance(space, spaces.Discrete):
        raise ValueError(
            f"actions must be Discrete or Text to be played in chat, and this space is {space}: "
            f"wrap the environment in a gymnasium.ActionWrapper that maps one of them to it"
        )
    numbers = range(int(space.start), int(space.start + space.n))
    if names is None:
        return {str(number): number for number in numbers}
    if len(names) != len(numbers):
        raise ValueError(f"expected a name for each of {len(numbers)} actions, got {list(names)}")
    return {name.strip().lower(): number for name, number in zip(names, numbers, strict=True)}


def _documentation(env: gymnasium.Env[Any, Any]) -> str:
    """What the docstring of an environment tells about its game."""
    doc = inspect.cleandoc(type(env.unwrapped).__doc__ or "")
    opening, *sections = re.split(r"^\s*## +", doc, flags=re.MULTILINE)
    kept = [s for s in sections if s.lower().startswith(_FOR_PLAYERS)]
    lines = "\n\n".join(part.strip() for part in (opening, *kept)).splitlines()
    return "\n".join(line.strip() for line in lines)
