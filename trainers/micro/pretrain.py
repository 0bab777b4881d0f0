"""Build the micro base model: a Llama of half a million parameters, from scratch, in a minute.

What it can do is what its corpus holds (`corpora/`). The one behind `palestra quickstart` can use
the Python tool and copy its output, but calls it in about one response of twenty-five, and its
own answers to hard questions are guesses.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from .corpora import CORPORA, Document
from .measure import measure
from .tokenizer import END, PAD, SPECIAL_TOKENS, build_tokenizer, encode_prompt

Progress = Callable[[int, int, float], None]
CARD = "card.json"


@dataclass(frozen=True, slots=True)
class MicroRecipe:
    """Everything that determines the base model, next to the seed.

    Attributes:
        version: raise it when a corpus, the tokenizer or the training code changes.
        corpus: what it is trained on, a name in `corpora.CORPORA`.
        steps / documents_per_step: optimiser updates, and documents in each.
        lr: peak rate of AdamW, which trains the embedding and the norms.
        matrix_lr: peak rate of Muon, which trains the weight matrices; at this size it
            learns to copy in a third of the steps that AdamW takes.
        warmup / cooldown: shares of the steps in which the rates rise and fall linearly.
        threads: torch threads. At this size a second one gains little, costs much on a busy
            machine, and would change the last bits of the weights.
    """

    version: int = 1
    corpus: str = "tools"
    hidden_size: int = 128
    layers: int = 3
    heads: int = 4
    mlp_size: int = 256
    context_length: int = 512
    steps: int = 500
    documents_per_step: int = 50
    lr: float = 3e-3
    matrix_lr: float = 0.01
    warmup: float = 0.08
    cooldown: float = 0.6
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    threads: int = 1

    def fingerprint(self, seed: int) -> str:
        """Equal fingerprints mean equal models, up to floating-point differences."""
        data = json.dumps({**asdict(self), "seed": seed}, sort_keys=True)
        return sha256(data.encode()).hexdigest()[:16]


def build_base_model(
    folder: str | Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    progress: Progress | None = None,
    recipe: MicroRecipe | None = None,
) -> Path:
    """Write the micro base model to `folder`, unless it is there already; return the folder.

    The folder holds a Hugging Face model and tokenizer and `card.json` with the recipe and
    measured figures. It is written aside and renamed, so a folder that exists is complete.
    The same seed and steps give the same weights on one machine.

    Args:
        steps: overrides the recipe's number of steps.
        progress: called after every step with (step, steps, loss).

    Raises:
        FileExistsError: `folder` holds something that is not a micro base model.
    """
    recipe = recipe or MicroRecipe()
    recipe = recipe if steps is None else replace(recipe, steps=steps)
    folder = Path(folder)
    fingerprint = recipe.fingerprint(seed)
    if _stored_fingerprint(folder) == fingerprint:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        _write(aside, recipe, seed, progress)
        _replace(aside, folder)
    finally:
        torch.set_num_threads(threads)
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def pretrain(
    recipe: MicroRecipe, seed: int = 0, progress: Progress | None = None
) -> LlamaForCausalLM:
    """Train a new model on `recipe.steps` batches of fresh documents. Random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = new_model(recipe)
    draw, rng = CORPORA[recipe.corpus], np.random.default_rng(seed)
    tokenizer = build_tokenizer(recipe.context_length)
    optimizers = _optimizers(model, recipe)
    for step in range(recipe.steps):
        _set_rates(optimizers, _rate(recipe, step / recipe.steps))
        documents = draw(recipe.documents_per_step, rng, step / recipe.steps)
        loss = _accumulate(model, tokenizer, documents)
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if progress is not None:
            progress(step + 1, recipe.steps, loss)
    model.train(False)
    return model


def new_model(recipe: MicroRecipe) -> LlamaForCausalLM:
    """An untrained model. Weights start at fan-in scale: with the usual 0.02, attention in a
    model this narrow starts so flat that copying is learnt several times later."""
    config = LlamaConfig(
        vocab_size=len(build_tokenizer()),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.mlp_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context_length,
        initializer_range=recipe.hidden_size**-0.5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIAL_TOKENS.index(END),
        pad_token_id=SPECIAL_TOKENS.index(PAD),
    )
    model: LlamaForCausalLM = LlamaForCausalLM(config)
    return model


def encode_document(tokenizer: Any, document: Document) -> tuple[list[int], list[float]]:
    """Token ids and loss weights, both [T]. The prompt weighs nothing: it is random."""
    ids = encode_prompt(tokenizer, document.prompt)
    weights = [0.0] * len(ids)
    for piece in document.pieces:
        new = tokenizer.encode(piece.text, add_special_tokens=False)
        ids += new
        weights += [piece.weight] * len(new)
    return [*ids, tokenizer.eos_token_id], [*weights, document.pieces[-1].weight]


def _accumulate(model: LlamaForCausalLM, tokenizer: Any, documents: Sequence[Document]) -> float:
    """Backward of the weighted mean token loss. Long and short documents are forwarded apart,
    which spares most of the padding; padding stands on the right, where causal attention
    never looks, so no mask is needed."""
    rows = [encode_document(tokenizer, d) for d in documents]
    total = sum(sum(weights) for _, weights in rows)
    loss = 0.0
    for long in (True, False):
        part = [row for row, d in zip(rows, documents, strict=True) if d.long is long]
        if part:
            ids, weights = _pad(part, tokenizer.pad_token_id)
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            share = (losses * weights[:, 1:].flatten()).sum() / total
            share.backward()  # type: ignore[no-untyped-call]
            loss += share.item()
    return loss


def _pad(
    rows: Sequence[tuple[list[int], list[float]]], pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and weights as [B, T] tensors, padded on the right."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in rows])
    weights = torch.tensor([row + [0.0] * (length - len(row)) for _, row in rows])
    return ids, weights


def _optimizers(model: LlamaForCausalLM, recipe: MicroRecipe) -> list[torch.optim.Optimizer]:
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "embed" not in name
        (matrices if is_matrix else rest).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_lr, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(rest, lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _set_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak_lr", group["lr"]) * factor


def _rate(recipe: MicroRecipe, done: float) -> float:
    """Share of the peak rate when `done` of the training is over."""
    return min(1.0, (done + 1e-3) / recipe.warmup, (1.0 - done) / recipe.cooldown)


def _write(folder: Path, recipe: MicroRecipe, seed: int, progress: Progress | None) -> None:
    began = time.perf_counter()
    model = pretrain(recipe, seed, progress)
    tokenizer = build_tokenizer(recipe.context_length)
    seconds = time.perf_counter() - began
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = {
        "fingerprint": recipe.fingerprint(seed),
        "recipe": asdict(recipe),
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "pretraining_s": round(seconds, 1),
        "torch": torch.__version__,
        "figures": measure(model, tokenizer, seed=seed) if recipe.corpus == "tools" else {},
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")


def _stored_fingerprint(folder: Path) -> str | None:
    """The fingerprint of the model in `folder`; None when nothing is there."""
    card = folder / CARD
    if card.is_file():
        return str(json.loads(card.read_text())["fingerprint"])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder} holds something that is not a micro base model: "
            f"name another folder, or delete this one"
        )
    return None


def _replace(aside: Path, folder: Path) -> None:
    """Put `aside` in the place of `folder`, which may hold an older model."""
    aside.chmod(0o755)  # mkdtemp makes it private
    if folder.exists():
        shutil.rmtree(folder)
    aside.replace(folder)
