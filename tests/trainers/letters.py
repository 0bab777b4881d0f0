"""An environment with a smooth reward, for training runs in tests; and such a run.

python letters.py FOLDER [--resume]
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from palestra.envs.core import ToolEnv
from palestra.envs.registration import register
from palestra.envs.types import Message, Task
from palestra.trainers.config import EvalConfig, LearnerConfig, SamplingConfig, TrainConfig

STEPS = 6


class Letters(ToolEnv):
    """Pays the share of letters among what was written."""

    def __init__(self, split: str = "train") -> None:
        prompts = [(Message("user", f"{split} {i}"),) for i in range(12)]
        tasks = [Task(f"{split}-{i}", prompt) for i, prompt in enumerate(prompts)]
        super().__init__(tasks=tasks, protocol="hermes")

    def grade(self, task: Task, messages: tuple[Message, ...]) -> float:
        text = messages[-1].content
        return sum(c.isalpha() for c in text) / (len(text) + 1)


class LongPrompts(Letters):
    """The same after a system prompt that all share, and prompts of 180 to 1180 tokens."""

    def __init__(self, split: str = "train") -> None:
        super().__init__(split)
        brief = Message("system", "Be brief. " * 15)
        self.tasks = [
            replace(t, prompt=(brief, Message("user", f"{split} {i} " + "word " * (40 * i))))
            for i, t in enumerate(self.tasks[:6])
        ]


register("tests/Letters-v0", Letters)
register("tests/LongPrompts-v0", LongPrompts)


def save_model(folder: Path, context_length: int = 256, hidden_size: int = 64) -> Path:
    from fakes import tiny_model, tiny_tokenizer

    made = tiny_model("qwen3", context_length=context_length, hidden_size=hidden_size)
    made.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def config(model: Path, **changes: object) -> TrainConfig:
    from palestra.trainers.config import EnvConfig

    values = {
        "model": str(model),
        "env": EnvConfig("tests/Letters-v0"),
        "algorithm": "dapo",
        "algorithm_options": {"overlong_length": 32, "overlong_cache": 8},
        "learner": LearnerConfig(lr=3e-3),
        "sampling": SamplingConfig(max_tokens=24),
        "eval": EvalConfig(every=2, tasks=4),
        "steps": STEPS,
        "prompts_per_step": 3,
        "group_size": 4,
        "checkpoint_every": 2,
        "threads": 1,
    }
    return TrainConfig(**{**values, **changes})  # type: ignore[arg-type]


def same(left: object, right: object) -> bool:
    """Whether two loaded checkpoints are equal, bit for bit."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


if __name__ == "__main__":
    from palestra.trainers.online import train

    folder = Path(sys.argv[1])
    train(config(folder.parent / "model"), folder, resume="--resume" in sys.argv)
