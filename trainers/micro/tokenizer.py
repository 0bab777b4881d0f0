"""A byte-level tokenizer: 256 bytes and six special tokens, nothing else.

Every string survives the round trip exactly, printable ASCII as one token a character
and anything else as its UTF-8 bytes, so no text is ever unknown.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("system", "user", "assistant", "tool")
SPECIAL_TOKENS = (PAD, END, *(f"<|{role}|>" for role in ROLES))

# One special token opens a turn and one ends it, so a prompt costs three tokens more than
# its text, and what stands before a turn never changes when the next one is added.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + (message['content'] or '') + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def build_tokenizer(context_length: int = 512) -> PreTrainedTokenizerFast:
    """The tokenizer of the micro model; ids 0 to 5 are `SPECIAL_TOKENS`, then the bytes."""
    # Byte-level BPE without a single merge: the alphabet holds one printable stand-in a byte.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL_TOKENS[2:]),
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def turn(role: str, text: str) -> str:
    """A whole turn as the template writes it."""
    return f"<|{role}|>{text}{END}"


def encode_prompt(tokenizer: PreTrainedTokenizerFast, question: str) -> list[int]:
    """Ids of a user message and the opening of the assistant's turn, as the template has it."""
    user, end, assistant = (SPECIAL_TOKENS.index(t) for t in ("<|user|>", END, "<|assistant|>"))
    return [user, *tokenizer.encode(question, add_special_tokens=False), end, assistant]
