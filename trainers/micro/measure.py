"""What the micro base model can do before any reinforcement learning, in figures.

Nothing is executed here: a program counts as right when it is one of those that the corpus
would hold for the question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from .corpora.tools import FENCE, Question, draw_number, draw_question, output_block, programs
from .tokenizer import encode_prompt


def measure(
    model: LlamaForCausalLM, tokenizer: Any, *, seed: int = 0, questions: int = 256
) -> dict[str, float]:
    """Figures from responses sampled at temperature 1.

    Returns:
        tool_share: responses to hard questions that open a Python block.
        direct_accuracy_hard / direct_accuracy_easy: right answers among the responses
            without a tool, to products of two-digit numbers and to one-digit questions.
        code_accuracy: right programs, once the block is open.
        answer_accuracy: right answers, once a right program's output is shown.
    """
    rng = np.random.default_rng((seed, 1))
    hard = [_product(rng) for _ in range(questions)]
    easy = [draw_question(rng, easy_share=1.0) for _ in range(questions)]

    def sample(asked: Sequence[Question], begun: Callable[[Question], str]) -> list[str]:
        prompts = [
            encode_prompt(tokenizer, q.text) + tokenizer.encode(begun(q), add_special_tokens=False)
            for q in asked
        ]
        return sample_responses(model, tokenizer, prompts, seed=seed)

    on_hard = sample(hard, lambda q: "")
    on_easy = sample(easy, lambda q: "")
    codes = sample(hard, lambda q: FENCE)
    answers = sample(hard, lambda q: f"{FENCE}{programs(q)[0]}{output_block(str(q.value))}")
    return {
        "tool_share": _share([text.startswith(FENCE) for text in on_hard]),
        "direct_accuracy_hard": _direct_accuracy(hard, on_hard),
        "direct_accuracy_easy": _direct_accuracy(easy, on_easy),
        "code_accuracy": _share(
            [c.split("\n```")[0] in programs(q) for q, c in zip(hard, codes, strict=True)]
        ),
        "answer_accuracy": _share(
            [a == f"\\boxed{{{q.value}}}" for q, a in zip(hard, answers, strict=True)]
        ),
    }


@torch.no_grad()
def sample_responses(
    model: LlamaForCausalLM,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    seed: int = 0,
    max_tokens: int = 48,
) -> list[str]:
    """One continuation of each prompt (token ids), up to the end token, as text."""
    width = max(len(p) for p in prompts)
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(p)) + [*p] for p in prompts])
    lengths = torch.tensor([len(p) for p in prompts])
    seen = torch.arange(width)[None, :] >= width - lengths[:, None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator: Any = model  # its mixin's own annotations exclude it
        output = generator.generate(
            input_ids=ids,
            attention_mask=seen.long(),
            do_sample=True,
            top_k=0,
            max_new_tokens=max_tokens,
        )
    return [tokenizer.decode(row, skip_special_tokens=True) for row in output[:, width:].tolist()]


def _product(rng: np.random.Generator) -> Question:
    left, right = draw_number(2, rng), draw_number(2, rng)
    return Question(f"{left} * {right}", left * right, easy=False)


def _direct_accuracy(questions: Sequence[Question], responses: Sequence[str]) -> float:
    pairs = zip(questions, responses, strict=True)
    return _share(
        [text.endswith(f"\\boxed{{{q.value}}}") for q, text in pairs if FENCE not in text]
    )


def _share(hits: Sequence[bool]) -> float:
    return round(sum(hits) / len(hits), 4) if hits else 0.0
