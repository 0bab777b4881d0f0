"""TRL's side: GRPOTrainer with an environment whose one method is the Python tool.

Set up as TRL's documentation advises for tools and for a model that fits in memory:
`environment_factory` with state per rollout, a response template on the tokenizer, no
reference model (beta 0), no gradient checkpointing, the whole step in one batch, the fused
head (its default). Its advice beyond that needs a GPU (Liger and Hub kernels, padding-free
batches, vLLM with weights handed over by NCCL) or is a variant here (bfloat16, continuous
batching).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from meter import Meter
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from palestra.sandbox import Session, shared_sandbox

VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"bf16": False},
    "bfloat16": {"bf16": True},
    "continuous": {"bf16": False, "use_transformers_continuous_batching": True},
}


class PythonEnv:
    """A fresh interpreter per rollout, from the same sandbox that Palestra's side uses."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self.calls = 0

    def reset(self, **row: Any) -> None:
        self._close()
        self.calls = 0

    def python(self, code: str) -> str:
        """
        Run Python code and return what it prints.

        Args:
            code: the program

        Returns:
            What it printed.
        """
        self.calls += 1
        return self._run(code)

    def _run(self, code: str) -> str:
        self._session = self._session or shared_sandbox().open()
        done = self._session.run(code)
        value = f"{done.value}\n" if done.value is not None else ""
        return done.stdout + value + ("" if done.ok else done.stderr)

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


class InterpreterEnv(PythonEnv):
    """A bare interpreter per call, not isolated: what a user of TRL alone would write."""

    def _run(self, code: str) -> str:
        command = [sys.executable, "-I", "-c", code]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except subprocess.TimeoutExpired:
            return "TimeoutError"
        return done.stdout + done.stderr


ENVIRONMENTS = {"sandbox": PythonEnv, "interpreter": InterpreterEnv}


class Facts:
    """The reward function: right or wrong, and notes of what the step was made of.

    Cheaper than Palestra's grader, which parses mathematics.
    """

    __name__ = "answer"

    def __init__(self, prompt_tokens: float) -> None:
        self.prompt_tokens = prompt_tokens
        self.seen: dict[str, float] = {}

    def __call__(
        self,
        completions: list[Any],
        completion_ids: list[list[int]],
        environments: list[PythonEnv],
        answer: list[str],
        **rest: Any,
    ) -> list[float]:
        rewards = []
        for completion, expected in zip(completions, answer, strict=True):
            found = re.findall(r"\\boxed\{([^}]*)\}", completion[-1]["content"])
            rewards.append(float(bool(found) and found[-1] == expected))
        lengths = [len(ids) for ids in completion_ids]
        self.seen = {
            "episodes": len(lengths),
            "prompt": self.prompt_tokens,
            "completion": fmean(lengths),
            "longest": max(lengths),
            "calls": fmean(e.calls for e in environments),
            "reward": fmean(rewards),
        }
        for environment in environments:
            environment._close()
        return rewards


class Timing(TrainerCallback):  # type: ignore[misc]
    """A step starts when the parent says so; TRL's logging is left out of its time."""

    def __init__(self, meter: Meter, facts: Facts) -> None:
        self.meter, self.facts = meter, facts

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.meter.wait()
        self.meter.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.meter.stop()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **rest: Any) -> None:
        if "completions/mean_length" in logs:
            versions = f"trl {trl.__version__}, transformers {transformers.__version__}"
            self.meter.answer(
                **self.facts.seen,
                sampled=logs["completions/mean_length"],
                grad_norm=logs.get("grad_norm"),
                versions=f"{versions}, torch {torch.__version__}",
            )


def build(args: argparse.Namespace, meter: Meter, folder: str) -> GRPOTrainer:
    rows = json.loads(Path(args.tasks).read_text())
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokenizer.response_template = json.loads(args.response_template)
    prompts = [[{"role": "user", "content": row["question"]}] for row in rows]
    rendered = [
        tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=False)
        for p in prompts
    ]
    facts = Facts(fmean(len(ids) for ids in rendered))
    data = [{"prompt": p, "answer": row["answer"]} for p, row in zip(prompts, rows, strict=True)]
    return GRPOTrainer(
        model=args.model,
        reward_funcs=[facts],
        args=GRPOConfig(
            output_dir=folder,
            model_init_kwargs={"dtype": "float32"},
            per_device_train_batch_size=len(rows) * args.size,
            num_generations=args.size,
            temperature=args.temperature,
            max_completion_length=args.max_tokens,
            max_tool_calling_iterations=args.max_calls,
            max_steps=args.steps,
            learning_rate=args.lr,
            lr_scheduler_type="constant",
            loss_type="grpo",
            gradient_checkpointing=False,
            use_cpu=True,
            dataloader_pin_memory=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **VARIANTS[args.variant],
        ),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        environment_factory=ENVIRONMENTS[args.tool],
        callbacks=[Timing(meter, facts)],
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--tasks", "--response-template"):
        parser.add_argument(name, required=True)
    for name in ("--size", "--threads", "--max-calls", "--max-tokens", "--steps"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--lr", "--temperature"):
        parser.add_argument(name, type=float, required=True)
    parser.add_argument("--variant", choices=list(VARIANTS), required=True)
    parser.add_argument("--tool", choices=list(ENVIRONMENTS), required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        build(args, meter, folder).train()


if __name__ == "__main__":
    main()
