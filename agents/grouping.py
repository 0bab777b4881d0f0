"""What happens to the episodes of one task together: their seeds, and the group's rewards."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from ..envs.rewards.group import GroupRewards
from ..envs.rewards.protocol import JudgeError
from ..envs.types import Group, Invalid, StopReason, Task, Trajectory
from .seeding import derive_seed


async def with_group_rewards(group: Group, extras: GroupRewards | None) -> Group:
    """The group with the environment's group rewards applied; invalid members stay as they are.

    A group reward that fails makes every member invalid: what is not known is never a zero.
    """
    if extras is None or not group.valid:
        return group
    try:
        return await extras(group)
    except Exception as error:  # noqa: BLE001 - the reward boundary
        kind = "judge" if isinstance(error, JudgeError) else "verifier"
        failure = Invalid(kind, f"group reward: {type(error).__name__}: {error}")
    return replace(group, trajectories=tuple(_failed(t, failure) for t in group.trajectories))


class Gathering:
    """Groups in the making: members arrive in any order, and the last one completes its group.

    `extras` are the group rewards that the environment declares.
    """

    def __init__(self, size: int, extras: GroupRewards | None) -> None:
        self._size, self._extras = size, extras
        self._members: defaultdict[int | str, dict[int, Trajectory]] = defaultdict(dict)

    async def add(self, at: int | str, task: Task, index: int, member: Trajectory) -> Group | None:
        """Take member `index` of group `at`; its last one gives the group, with its rewards."""
        members = self._members[at]
        members[index] = member
        if len(members) < self._size:
            return None
        del self._members[at]
        whole = Group(task, tuple(members[i] for i in range(self._size)))
        return await with_group_rewards(whole, self._extras)


def _failed(trajectory: Trajectory, failure: Invalid) -> Trajectory:
    if trajectory.reward is None:
        return trajectory
    return replace(
        trajectory, reward=None, correct=None, failure=failure, stop_reason=StopReason.ENV_ERROR
    )


def group_seeds(tasks: Sequence[Task], seed: int) -> list[int]:
    """One seed a group: `seed` where a task comes for the first time, another where again."""
    seen: Counter[str] = Counter()
    seeds = []
    for task in tasks:
        again = seen[task.id]
        seeds.append(derive_seed(seed, "again", again) if again else seed)
        seen[task.id] += 1
    return seeds
