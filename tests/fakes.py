"""Small real things for tests: a tokenizer trained in process and tiny random models."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from palestra.agents.engines.byte_tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS

CONTEXT = 256

_CORPUS = (
    "What is 12 + 30? Let me think step by step.",
    "The answer is 42. The final answer: \\boxed{42}",
    '<tool_call>\n{"name": "python", "arguments": {"code": "print(1 + 1)"}}\n</tool_call>',
    "user assistant system tool functions",
)


@cache
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of about 400 ids with a chat template that knows tools."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIAL_TOKENS[1], pad_token=SPECIAL_TOKENS[2]
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_model(
    arch: str = "qwen3", *, seed: int = 0, context_length: int = CONTEXT, hidden_size: int = 64
) -> Any:
    """A random two-layer model over `tiny_tokenizer`, in fp32 and eval mode.

    The weights are wide enough that greedy choices are clear, and the end-of-turn logit
    swings more than others, so that sampled completions do end.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    tokenizer = tiny_tokenizer()
    classes: dict[str, tuple[Any, Any]] = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }
    config_class, model_class = classes[arch]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=context_length,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config).float().eval()
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] *= 1.6
    return model


def save_tiny_model(folder: Path, arch: str = "qwen3", *, seed: int = 0) -> Path:
    """Write model and tokenizer as a Hugging Face folder."""
    tiny_model(arch, seed=seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
