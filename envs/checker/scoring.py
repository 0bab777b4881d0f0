"""Checks of what is paid for what."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..core import Action, ChatEnv
from ..types import Task
from .policies import FLOORS
from .subject import Fault, Outcome, Skip, Subject, opened, play

TOLERANCE = 0.01  # of the reward range: what a floor policy may earn by luck, on average


def oracle_scores_the_maximum(subject: Subject) -> str:
    """The environment's own best answers earn the most it declares."""
    with subject.env() as env:
        top, count = env.reward_range[1], 0
        for task, actions in _oracles(subject, env):
            outcome = play(env, task, actions)
            _valid(outcome)
            if not math.isclose(outcome.reward, top, rel_tol=1e-6, abs_tol=1e-6):
                raise Fault(
                    f"the oracle of task {task.id!r} earned {outcome.reward:g}, not the {top:g} "
                    f"that reward_range declares"
                )
            count += 1
    return f"{count} tasks"


def floors_earn_nothing(subject: Subject) -> str:
    """Replies that know nothing stay at the floor: empty, echoing, format-only, injecting."""
    with subject.env() as env:
        low, high = env.reward_range
        room = TOLERANCE * (high - low) if math.isfinite(high - low) else TOLERANCE
        tasks = subject.chosen(env)
        for name, policy in FLOORS.items():
            rewards = []
            for task in tasks:
                outcome = play(env, task, [policy(opened(env, task))])
                _valid(outcome)
                rewards.append(outcome.reward)
            mean = sum(rewards) / len(rewards)
            if mean > _floor(env, low) + room:
                worst = tasks[max(range(len(tasks)), key=rewards.__getitem__)]
                raise Fault(
                    f"the policy {name!r} earned {mean:.3g} on average, most on {worst.id!r}: "
                    f"an answer without knowledge must stay at {low:g}"
                )
    return f"{len(FLOORS)} policies, {len(tasks)} tasks"


def verdicts_repeat(subject: Subject) -> str:
    """The same conversation earns the same again, in any order of the tasks."""
    with subject.env() as env:
        tasks = subject.chosen(env)
        known = {task.id: actions for task, actions in _oracles(subject, env, needed=False)}
        scripts = {task.id: known.get(task.id, ["\\boxed{7}"]) for task in tasks}
        first = {t.id: play(env, t, scripts[t.id]).trace for t in tasks}
        for order in (tasks, list(reversed(tasks))):
            for task in order:
                if play(env, task, scripts[task.id]).trace != first[task.id]:
                    raise Fault(
                        f"task {task.id!r} was judged differently the second time: a verdict must "
                        f"depend on the conversation alone"
                    )
    return f"{len(tasks)} tasks, three times"


def rewards_are_in_range(subject: Subject) -> str:
    """Every reward seen lies in `reward_range`, and is a finite number."""
    seen = []
    with subject.env() as env:
        low, high = env.reward_range
        if not low < high:
            raise Fault(f"reward_range is {env.reward_range}: expected (lowest, highest)")
        known = {task.id: actions for task, actions in _oracles(subject, env, needed=False)}
        env.action_space.seed(0)
        for task in subject.chosen(env):
            scripts: list[Sequence[Action]] = [[env.action_space.sample()] for _ in range(3)]
            scripts += [known[task.id]] if task.id in known else []
            for script in scripts:
                outcome = play(env, task, script)
                _valid(outcome)
                seen.append(outcome.reward)
                if not low - 1e-9 <= outcome.reward <= high + 1e-9:
                    raise Fault(
                        f"task {task.id!r} paid {outcome.reward:g}, outside the declared "
                        f"{low:g} to {high:g}"
                    )
    return f"{len(seen)} episodes between {min(seen):g} and {max(seen):g}"


def _floor(env: ChatEnv, low: float) -> float:
    """What knowing nothing may earn: the lowest reward, or 0 where rewards go below it."""
    return max(low, 0.0) if low < 0 < env.reward_range[1] else low


def _oracles(
    subject: Subject, env: ChatEnv, needed: bool = True
) -> list[tuple[Task, Sequence[Action]]]:
    found: list[tuple[Task, Sequence[Action]]] = []
    for task in subject.chosen(env):
        opened(env, task)
        if actions := list(env.oracle(task)):
            found.append((task, actions))
    if not found and needed:
        raise Skip("no oracle: define oracle(task) to have the top of the range checked")
    return found


def _valid(outcome: Outcome) -> None:
    if outcome.invalid:
        raise Fault(f"an ordinary episode was invalid: {outcome.invalid}")
