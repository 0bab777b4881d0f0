"""The quickstart's base model, taught to call the tool in chat turns: the model of both sides.

Both sides sample, so equal lengths need a model that is sure of itself: some hundred supervised
steps make nearly every episode one of those it was taught.

- `alike`: call, output, answer. Every episode has the same length but for a token or two.
- `varied`: one to three calls (more with probability 0.4 each time), and a run of filler words
  before the answer, their number geometric with mean 12. The longest of 128 episodes is then two
  to three times the mean, as completions of language models under GRPO are.

    python prepare.py FOLDER [--model BASE] [--episodes varied] [--steps 400]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from palestra.trainers.micro import build_base_model
from palestra.trainers.micro.corpora.tools import draw_number

# The micro model's template with calls and results. It is handed the tools by both sides and
# shows them on neither: the model knows its one tool from training.
CHAT_TEMPLATE = (
    "{#- tools: not shown -#}"
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + (message['content'] or '') -}}"
    "{%- for call in message.tool_calls or [] -%}"
    "{{- '<tool_call>\n' + call.function | tojson + '\n</tool_call>' -}}"
    "{%- endfor -%}{{- '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
# How transformers reads calls back (its response-parsing docs; TRL asks for one per template).
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|end\|>\s*", "content": "text"},
    },
}
BATCH, LR, DONE = 32, 2e-3, "ready.json"
MORE_CALLS, MAX_CALLS, FILLER = 0.4, 3, 12  # of varied episodes


def draw(rng: np.random.Generator, tokenizer: Any, varied: bool) -> tuple[list[int], list[float]]:
    """One episode as ids and loss weights: what the environment says weighs nothing."""
    left, right = draw_number(2, rng), draw_number(2, rng)
    calls = min(int(rng.geometric(1 - MORE_CALLS)), MAX_CALLS) if varied else 1
    filler = "so " * (int(rng.geometric(1 / (FILLER + 1))) - 1 if varied else 0)
    call = {"name": "python", "arguments": {"code": f"print({left} * {right})"}}
    turn = (
        (f"<tool_call>\n{json.dumps(call)}\n</tool_call><|end|>", 1.0),
        (f"<|tool|>{left * right}\n<|end|><|assistant|>", 0.0),
    )
    parts = (
        (f"<|user|>What is {left} * {right}?<|end|><|assistant|>", 0.0),
        *(turn * calls),
        (f"{filler}\\boxed{{{left * right}}}<|end|>", 1.0),
    )
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in parts:
        new = tokenizer.encode(text, add_special_tokens=False)
        ids += new
        weights += [weight] * len(new)
    return ids, weights


def teach(model: Any, tokenizer: Any, steps: int, varied: bool) -> float:
    """Supervised steps on fresh episodes, the rate falling to zero. Returns the last loss."""
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / steps)
    for step in range(steps):
        rows = [draw(rng, tokenizer, varied) for _ in range(BATCH)]
        width = max(len(ids) for ids, _ in rows)
        pad = tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (width - len(row)) for row, _ in rows])
        weights = torch.tensor([row + [0.0] * (width - len(row)) for _, row in rows])[:, 1:]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (losses * weights.flatten()).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 25 == 0:
            print(f"  fine-tuning step {step}/{steps}, loss {loss.item():.3f}", flush=True)
    return float(loss.item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, help="a quickstart base model; default: build it")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--episodes", choices=["alike", "varied"], default="alike")
    args = parser.parse_args()
    if (args.folder / DONE).is_file():
        return
    torch.manual_seed(0)
    base = args.model or build_base_model(args.folder.with_name("base"))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = CHAT_TEMPLATE
    loss = teach(model, tokenizer, args.steps, args.episodes == "varied")
    model.save_pretrained(args.folder)
    tokenizer.save_pretrained(args.folder)
    count = sum(p.numel() for p in model.parameters())
    (args.folder / DONE).write_text(json.dumps({"parameters": count, "loss": loss}))


if __name__ == "__main__":
    main()
