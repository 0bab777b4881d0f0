"""Checks of how episodes run: seeds, groups, snapshots, company, hostile actions, clocks."""

from __future__ import annotations

import asyncio
import inspect
import random
import re
import time
import warnings
from contextlib import ExitStack
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import check_env

from ...sandbox.types import Limits
from ..core import Action, ChatEnv
from .policies import HOSTILE
from .subject import Fault, Skip, Subject, as_data, finish, opened, play, python_call

WALL_S = 0.5
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SLACK_S = 2.0  # a busy machine; what is looked for is a limit that is not passed on at all


def gymnasium_accepts_it(subject: Subject) -> str:
    """Gymnasium's own checker, with its warnings taken as errors."""
    with subject.env() as env, warnings.catch_warnings():
        warnings.simplefilter("error")
        # A class that is not registered is checked without other render modes.
        warnings.filterwarnings("ignore", message=".*not having a spec")
        try:
            check_env(env)
        except UserWarning as warning:  # of Gymnasium's logger, which writes in colour
            raise Fault(_COLOUR.sub("", str(warning)).removeprefix("WARN: ")) from warning
        except Exception as error:
            raise Fault(f"{type(error).__name__}: {error}") from error
    return "check_env"


def seeds_are_honoured(subject: Subject) -> str:
    """The same seed gives the same episode, other seeds give others; no global state moves."""
    before = random.getstate(), _numpy_state()
    with subject.env() as env, subject.env() as twin:
        openings = [env.reset(seed=seed) for seed in range(10)]
        again = [twin.reset(seed=seed) for seed in range(10)]
        if openings != again:
            raise Fault("two environments reset with the same seed begin different episodes")
        # Without a prompt two tasks may open alike, and be told apart by their ids only.
        shown = [opening[0] for opening in openings] if env.tasks[0].prompt else openings
        if len(env.tasks) > 1 and all(other == shown[0] for other in shown):
            raise Fault("ten seeds give one and the same episode: draw from self.np_random")
        for script in _scripts(env, 3):
            finish(env, script) if env.episode.stop is None else play(env, env.task, script)
            opened(env, seed=1)
    if (random.getstate(), _numpy_state()) != before:
        raise Fault("the global random state was moved: use self.np_random")
    return "10 seeds"


def groups_are_identical(subject: Subject) -> str:
    """With one seed and task every member of a group meets the same episode."""
    with ExitStack() as stack:
        members = [stack.enter_context(subject.env()) for _ in range(4)]
        members[1].reset(seed=99)  # what came before must not matter
        for index in range(min(5, len(members[0].tasks))):
            seen = [m.reset(seed=7, options={"task": index}) for m in members]
            if any(other != seen[0] for other in seen[1:]):
                raise Fault(f"task {index} with seed 7 opened differently for members of one group")
            script = _scripts(members[0], 1, seed=index)[0]
            ends = [finish(m, script).trace for m in members]
            if any(end != ends[0] for end in ends[1:]):
                raise Fault(f"task {index} with seed 7 answered the same actions differently")
    return "4 members"


def snapshots_restore(subject: Subject) -> str:
    """An episode restored half way goes on as it did, here and in another environment."""
    with subject.env() as env, subject.env() as twin:
        script, deepest = _long_script(env), 0
        for depth in range(min(4, env.max_turns)):
            opened(env, env.tasks[0], seed=5)
            for action in script[:depth]:
                if env.episode.stop is None:
                    env.step(action)
            if env.episode.stop is not None:
                break
            kept, deepest = env.snapshot(), depth
            straight = finish(env, script[depth:]).trace
            for other in (env, twin, env):
                other.restore(kept)
                if finish(other, script[depth:]).trace != straight:
                    raise Fault(
                        f"after {depth} actions a restored episode goes on differently: keep "
                        f"state in episode.memory, or in save_resources/load_resources"
                    )
    return f"after 0 to {deepest} actions, in the same and in another environment"


def interleaving_changes_nothing(subject: Subject) -> str:
    """Episodes side by side in one event loop equal the same episodes one after another."""
    count = subject.episodes
    alone = []
    with subject.env() as env:
        scripts = [_scripts(env, 1, seed=number)[0] for number in range(count)]
        for number in range(count):
            opened(env, seed=number)
            alone.append(finish(env, scripts[number]).trace)
    together = asyncio.run(_together(subject, scripts))
    for number, (one, other) in enumerate(zip(alone, together, strict=True)):
        if one != other:
            raise Fault(f"episode {number} of {count} went differently in company")
    return f"{count} episodes"


async def _together(subject: Subject, scripts: list[list[Action]]) -> list[tuple[Any, ...]]:
    async def episode(number: int) -> tuple[Any, ...]:
        with subject.env() as env:
            opened(env, seed=number)
            trace = []
            for turn in range(env.max_turns + 1):
                script = scripts[number]
                step = await env.astep(script[min(turn, len(script) - 1)])
                trace.append(as_data(step))
                if step[2] or step[3]:
                    break
                await asyncio.sleep(0)
            return tuple(trace)

    return await asyncio.gather(*(episode(number) for number in range(len(scripts))))


def hostile_actions_survive(subject: Subject) -> str:
    """Unicode, NUL, a megabyte, control tokens: answered like any other action."""
    with subject.env() as env:
        for name, text in HOSTILE.items():
            outcome = play(env, env.tasks[0], [text])
            if outcome.invalid:
                raise Fault(f"the action {name!r} made the episode invalid: {outcome.invalid}")
            if not env.observation_space.contains(env.reset(seed=1)[0]):
                raise Fault(f"after the action {name!r} the environment opens no valid episode")
    return ", ".join(HOSTILE)


def time_limits_hold(subject: Subject) -> str:
    """A Python tool that is asked for a time limit returns within it."""
    limits = Limits(wall_s=WALL_S, cpu_s=WALL_S)
    with subject.env() as plain:
        if "limits" not in inspect.signature(type(plain).__init__).parameters:
            raise Skip("the environment takes no limits")
        call = python_call(plain, "while True: pass")
    with subject.env(limits=limits) as env:
        opened(env, env.tasks[0])
        env.step(python_call(env, "1"))  # what starts with the first call is not counted
        start = time.monotonic()
        env.step(call)
        took = time.monotonic() - start
        if took > WALL_S + SLACK_S:
            raise Fault(f"asked for {WALL_S} s, an endless loop returned after {took:.1f} s")
    return f"{took:.2f} s for a limit of {WALL_S} s"


def _long_script(env: ChatEnv) -> list[Action]:
    """Actions that keep an episode going for some turns, with live tool state where it can be."""
    noise = _scripts(env, 1, seed=4)[0]
    try:
        calls: list[Action] = [python_call(env, "x = 40")]
        calls += [python_call(env, f"x += {n}; print(x)") for n in range(3)]
        return [*calls, *noise]
    except Skip:
        pass
    for seed in range(30):  # otherwise whatever drawn action does not end the episode
        first = _scripts(env, 1, seed=seed)[0][:1]
        opened(env, env.tasks[0], seed=5)
        env.step(first[0])
        if env.episode.stop is None:
            return [*first * 3, *noise]
    return noise


def _scripts(env: ChatEnv, count: int, seed: int = 0) -> list[list[Action]]:
    """Actions drawn from the action space: tool calls, answers and noise."""
    env.action_space.seed(seed)
    return [[env.action_space.sample() for _ in range(env.max_turns)] for _ in range(count)]


def _numpy_state() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return (name, np.asarray(keys).tolist(), *rest)
