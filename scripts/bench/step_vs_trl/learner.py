#!/usr/bin/env python
"""The learner alone: one GRPO update by TRL and by us, on the same sequences, model and machine.

    python scripts/bench/step_vs_trl/learner.py [--dtype bfloat16] [--vocab 151936] [--threads 2]

Run it where both `trl` and the repository can be imported (`PYTHONPATH=.`). Each side runs
in a process of its own, in turn, `--rounds` times; the best time of each is reported, with
the memory it added to a process that already held the model. What is timed is the whole
update: batch assembly, forward, backward, clipping and AdamW. Generation is not.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GROUPS, SIZE = 2, 8


def episodes(args: argparse.Namespace) -> list[dict]:
    """Two prompts x eight episodes of four turns with tool output in between."""
    rng = random.Random(0)
    made = []
    for _ in range(GROUPS):
        prompt = [rng.randrange(2, args.vocab) for _ in range(args.prompt)]
        for _ in range(SIZE):
            mask: list[int] = []
            for turn in range(args.turns):
                mask += [1] * rng.randrange(args.sampled // 2, args.sampled + 1)
                mask += [0] * (args.tool if turn + 1 < args.turns else 0)
            made.append(
                {
                    "prompt_ids": prompt,
                    "completion_ids": [rng.randrange(2, args.vocab) for _ in mask],
                    "env_mask": mask,
                    "logprobs": [-9.0 * m for m in mask],
                    "reward": float(rng.random() < 0.5) + 0.1 * rng.random(),
                }
            )
    return made


def build_model(args: argparse.Namespace):  # noqa: ANN201
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=args.vocab,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config)


def run_ours(args: argparse.Namespace, given: list[dict]):  # noqa: ANN201
    from palestra.envs.types import Group, StopReason, Task, Trajectory
    from palestra.trainers.algorithms import get_algorithm
    from palestra.trainers.batching import build_batch
    from palestra.trainers.config import LearnerConfig
    from palestra.trainers.learner import Learner

    algorithm = get_algorithm("grpo")
    config = LearnerConfig(device="cpu", dtype=args.dtype, old_logprobs="recompute")
    learner = Learner(build_model(args), config, algorithm)
    members = []
    for e in given:
        head = [0] * len(e["prompt_ids"])
        members.append(
            Trajectory(
                task_id="t",
                env_id="bench/Env-v0",
                token_ids=tuple(e["prompt_ids"] + e["completion_ids"]),
                mask=tuple(bool(m) for m in head + e["env_mask"]),
                logprobs=tuple([0.0] * len(head) + e["logprobs"]),
                prompt_length=len(head),
                turns=(),
                stop_reason=StopReason.COMPLETED,
                reward=e["reward"],
            )
        )
    groups = [
        Group(Task("t", ()), tuple(members[i : i + SIZE])) for i in range(0, len(members), SIZE)
    ]

    def update() -> float:
        return learner.step(build_batch(groups, algorithm))["train/grad_norm"]

    return update


def run_trl(args: argparse.Namespace, given: list[dict]):  # noqa: ANN201
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    core = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    rows = [{"prompt": "x"}] * len(given)
    trainer = GRPOTrainer(
        model=build_model(args).to(getattr(torch, args.dtype)),
        reward_funcs=[lambda **kwargs: [e["reward"] for e in given]],
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=len(given),
            num_generations=SIZE,
            loss_type="grpo",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        rollout_func=lambda prompts, trainer: {
            k: [e[k] for e in given]
            for k in ("prompt_ids", "completion_ids", "logprobs", "env_mask")
        },
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    optimizer = trainer.create_optimizer()

    def update() -> float:
        inputs = trainer._generate_and_score_completions(rows)
        trainer.compute_loss(trainer.model, inputs).backward()
        norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(norm)

    return update


def child(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(args.threads)
    update = {"ours": run_ours, "trl": run_trl}[args.side](args, episodes(args))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    walls, cpus, norms = [], [], []
    for _ in range(args.repeats + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        norms.append(update())
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {"wall_s": min(walls[1:]), "cpu_s": min(cpus[1:]), "added_mb": (peak - before) / 1024}
    print("RESULT " + json.dumps(result | {"first_grad_norm": norms[0]}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--prompt", type=int, default=244)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--sampled", type=int, default=64)
    parser.add_argument("--tool", type=int, default=45)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", choices=["ours", "trl"], help="run one side in this process")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.side:
        child(args)
        return
    best: dict[str, dict] = {}
    for _ in range(args.rounds):
        for side in ("trl", "ours"):
            command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--side", side]
            done = subprocess.run(command, capture_output=True, text=True)
            found = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")]
            if not found:
                raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
            result = json.loads(found[0].removeprefix("RESULT "))
            old = best.get(side, result)
            best[side] = result if result["cpu_s"] < old["cpu_s"] else old
    ratios = {k: best["trl"][k] / best["ours"][k] for k in best["trl"]}
    print(json.dumps({"args": vars(args), **best, "trl / ours": ratios}, indent=1))


if __name__ == "__main__":
    main()
