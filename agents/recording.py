"""Writing a trajectory down: ids, mask and log-probs, as they are fed and sampled."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version

from ..envs.core import ChatEnv
from ..envs.types import Completion, Invalid, StopReason, Task, ToolStats, Trajectory, Turn


@dataclass(slots=True)
class Recorder:
    """A trajectory being written: one agent's view of an episode."""

    token_ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt_length: int = 0
    turns: list[Turn] = field(default_factory=list)
    reward: float = 0.0
    reward_parts: dict[str, float] = field(default_factory=dict)
    correct: bool | None = None
    failure: Invalid | None = None
    policy_version: int | None = None
    last_ids: tuple[int, ...] = ()

    def observe(self, ids: Sequence[int]) -> None:
        self.token_ids += ids
        self.mask += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)

    def sample(self, completion: Completion) -> None:
        self.token_ids += completion.token_ids
        self.mask += [True] * len(completion.token_ids)
        self.logprobs += completion.logprobs
        self.last_ids = completion.token_ids
        if self.policy_version is None:
            self.policy_version = completion.policy_version

    @property
    def num_sampled(self) -> int:
        return sum(self.mask)


def close_record(
    env: ChatEnv,
    task: Task | None,
    record: Recorder,
    stop: StopReason,
    seed: int,
    start: float,
) -> Trajectory:
    """The trajectory of an episode that is over."""
    invalid = stop in (StopReason.ENV_ERROR, StopReason.ENGINE_ERROR)
    truncated = not invalid and stop is not StopReason.COMPLETED
    started = env._episode is not None
    return Trajectory(
        task_id=(task or env.task).id if (task or started) else "",
        env_id=env.spec.id if env.spec else type(env).__name__,
        token_ids=tuple(record.token_ids),
        mask=tuple(record.mask),
        logprobs=tuple(record.logprobs),
        prompt_length=record.prompt_length,
        turns=tuple(record.turns),
        stop_reason=stop,
        reward=None if invalid else record.reward,
        reward_parts=dict(record.reward_parts),
        correct=None if invalid else (False if truncated else record.correct),
        failure=record.failure,
        tools=env.tool_stats if started else ToolStats(),
        seed=seed,
        policy_version=record.policy_version or 0,
        duration_s=time.perf_counter() - start,
        versions=_versions(),
    )


@cache
def _versions() -> dict[str, str]:
    return {"palestra": version("palestra")}
