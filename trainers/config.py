"""Configuration of the training side. Plain frozen dataclasses; every field has a unit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .algorithms import Algorithm, get_algorithm


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """How gradients are computed and applied.

    Attributes:
        lr: AdamW's learning rate.
        betas: AdamW's decay rates.
        weight_decay: AdamW's; norms and biases are decayed like the rest (0 by default, as in
            GRPO and DAPO runs).
        adam_eps: AdamW's epsilon.
        warmup_updates: optimiser updates over which the rate rises linearly to `lr`.
        max_grad_norm: global L2 norm that gradients are scaled down to; 0 turns it off.
        updates_per_batch: optimiser updates per `step`; the batch is cut into as many
            minibatches of whole groups, each normalised by its own counts.
        old_logprobs: what the ratio is taken against: the `sampler`'s log-probs (exact,
            and no extra forward), or a `recompute` by the trainer before the updates.
        temperature: sampling temperature the episodes came from; logits are divided by it. A
            training run follows `sampling.temperature` unless given; a learner alone takes 1.
        micro_batch_tokens: tokens forwarded at once. Bounds memory, never the result.
        share_prefix: forward a common prefix of a group's members once.
        min_shared: length in tokens from which a prefix is shared.
        skip_zero_advantage: leave sequences whose advantage is 0 out of the forward pass
            (their gradient is exactly 0). They still count in the normaliser; metrics then
            cover the forwarded tokens only. Has no effect when the algorithm has a KL term.
        dtype: `float32` and `float64` as they say; `bfloat16`: weights for the forward and
            backward pass in bfloat16, with float32 master weights in the optimiser;
            `autocast`: float32 weights, bfloat16 matrix products.
        entropy: measure the policy's entropy (costs one more pass over the logits in cache).
        activation_checkpointing: recompute layers in the backward pass to save memory.
        device: a torch device; empty picks cuda when there is one.
    """

    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    adam_eps: float = 1e-8
    warmup_updates: int = 0
    max_grad_norm: float = 1.0
    updates_per_batch: int = 1
    old_logprobs: Literal["sampler", "recompute"] = "sampler"
    temperature: float | None = None
    micro_batch_tokens: int = 8192
    share_prefix: bool = True
    min_shared: int = 16
    skip_zero_advantage: bool = True
    dtype: Literal["float32", "bfloat16", "autocast", "float64"] = "float32"
    entropy: bool = True
    activation_checkpointing: bool = False
    device: str = ""

    def __post_init__(self) -> None:
        for name in ("lr", "temperature", "micro_batch_tokens", "updates_per_batch", "min_shared"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        for name in ("weight_decay", "warmup_updates", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class EnvConfig:
    """Which environment, and how it is made.

    Attributes:
        id: a registered id (`palestra list`).
        options: keyword arguments of its constructor.
        policy_as: arguments that take a model and are given the policy itself, such as `critic`
            of Rubric; `heldout` may name another in its place. A run stays reproducible as long
            as an episode that asks it several things at once asks no more until all are answered.
        heldout: arguments that differ when held-out tasks are played; `split` is left out where
            the environment has no splits, and the same tasks serve both ends.
    """

    id: str = "palestra/MathCode-v0"
    options: dict[str, Any] = field(default_factory=dict)
    policy_as: tuple[str, ...] = ()
    heldout: dict[str, Any] = field(default_factory=lambda: {"split": "heldout"})

    def __post_init__(self) -> None:
        if both := sorted(self.options.keys() & set(self.policy_as)):
            raise ValueError(f"in options and in policy_as: {', '.join(both)}")

    def heldout_options(self) -> dict[str, Any]:
        """Arguments of the constructor for held-out tasks."""
        from ..envs.registration import parameters, spec

        has_splits = "split" in parameters(spec(self.id))
        return self.options | {k: v for k, v in self.heldout.items() if k != "split" or has_splits}


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How episodes are sampled.

    Attributes:
        temperature: of sampling; 1 keeps the learner's distribution.
        max_tokens: tokens the model may write in one episode.
        max_turn_tokens: tokens it may write in one turn; 0 means max_tokens.
        timeout_s: wall clock of one episode, in seconds.
        concurrency: episodes in flight at once.
    """

    temperature: float = 1.0
    max_tokens: int = 512
    max_turn_tokens: int = 0
    timeout_s: float = 300.0
    concurrency: int = 256

    def __post_init__(self) -> None:
        _at_least(self, 1, "max_tokens", "concurrency")
        _at_least(self, 0, "temperature", "max_turn_tokens", "timeout_s")


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """Held-out evaluation during training.

    Attributes:
        every: steps between evaluations; 0 leaves only the first and the last.
        tasks: held-out tasks, the same each time.
        samples: episodes of each.
        temperature: of sampling; 0 is greedy.
    """

    every: int = 5
    tasks: int = 64
    samples: int = 1
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _at_least(self, 1, "tasks", "samples")
        _at_least(self, 0, "every", "temperature")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training run: everything that determines it.

    Attributes:
        model: "smollm2", a local folder, or a hub id.
        engine: "local" or "vllm".
        engine_options: keyword arguments of the engine.
        opponents: models that play seats of a game and do not learn, by seat; the policy has all
            the others, and learns from each.
        algorithm: a row of the table in `trainers/algorithms.py`: grpo, dr_grpo, dapo.
        algorithm_options: fields of that row to change. Lengths that the row takes from its
            paper follow `sampling.max_tokens` unless given (see `chosen_algorithm`).
        curriculum: how the level of the next task is chosen: bands, window, adarft, bandit or
            replay (see `envs/curriculum`); empty plays all tasks, epoch after epoch.
        curriculum_options: fields of the controller.
        steps: optimisation steps.
        prompts_per_step: tasks per step (with dynamic sampling: groups; a game has one for each
            seat that learns).
        group_size: episodes per task.
        max_rounds: how often a step may draw more tasks to replace groups without signal
            (dynamic sampling); afterwards it goes on with what it has.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of them stay; 0 keeps all.
        save_episodes_every: steps between saved episodes; 0 saves none.
        deterministic: make the engine's batches, and so every bit of the run, independent
            of how long tools take. Costs waiting for slow tools.
        seed: fixes the tasks, their order and every sampled token.
        threads: torch threads; 0 leaves the default.
    """

    model: str = "smollm2"
    engine: Literal["local", "vllm"] = "local"
    engine_options: dict[str, Any] = field(default_factory=dict)
    env: EnvConfig = field(default_factory=EnvConfig)
    opponents: dict[str, str] = field(default_factory=dict)
    algorithm: str = "dapo"
    algorithm_options: dict[str, Any] = field(default_factory=dict)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    curriculum: str = ""
    curriculum_options: dict[str, Any] = field(default_factory=dict)
    steps: int = 100
    prompts_per_step: int = 8
    group_size: int = 8
    max_rounds: int = 4
    checkpoint_every: int = 10
    keep_checkpoints: int = 2
    save_episodes_every: int = 1
    seed: int = 0
    deterministic: bool = True
    threads: int = 0

    def __post_init__(self) -> None:
        _at_least(self, 1, "steps", "prompts_per_step", "max_rounds", "checkpoint_every")
        _at_least(self, 0, "keep_checkpoints", "save_episodes_every", "threads")
        if self.group_size < 2:
            raise ValueError(
                f"group_size must be at least 2 (a group of one has no baseline), "
                f"got {self.group_size}"
            )
        if not self.sampling.temperature > 0:
            raise ValueError("sampling.temperature must be above 0 in training, got 0")
        if self.learner.temperature not in (None, self.sampling.temperature):
            raise ValueError(
                f"learner.temperature ({self.learner.temperature}) must equal "
                f"sampling.temperature ({self.sampling.temperature}): log-probs of different "
                f"distributions do not compare"
            )

    def learner_config(self) -> LearnerConfig:
        """The learner's part, at the temperature of sampling."""
        return replace(self.learner, temperature=self.sampling.temperature)


def chosen_algorithm(config: TrainConfig) -> Algorithm:
    """The run's row of the table.

    A paper's lengths are those of its models. Unless given, the soft overlong punishment
    (DAPO) reaches its end at `sampling.max_tokens` and begins a fifth before, as in the
    paper, and the constant that Dr. GRPO divides by is `sampling.max_tokens`.
    """
    longest, row = config.sampling.max_tokens, get_algorithm(config.algorithm)
    lengths: dict[str, int] = {}
    if row.overlong_length:
        lengths = {"overlong_length": longest, "overlong_cache": max(1, longest // 5)}
    if row.aggregation == "constant":
        lengths["constant_length"] = longest
    return get_algorithm(config.algorithm, **(lengths | config.algorithm_options))


def _at_least(config: object, least: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")
