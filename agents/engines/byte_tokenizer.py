"""A tokenizer of 256 bytes and three special tokens, for tests, examples and benchmarks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

CHAT_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- '# Tools\\n\\nYou may call these functions:\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\\n</tools>\\n\\nA call is a JSON object inside <tool_call></tool_call> tags:\\n' }}
{{- '<tool_call>\\n{"name": <name>, "arguments": <arguments>}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{%- set function = call.function or call %}
{%- if message.content or not loop.first %}{{- '\\n' }}{%- endif %}
{{- '<tool_call>\\n{"name": "' + function.name + '", "arguments": ' }}
{%- if function.arguments is string %}{{- function.arguments }}
{%- else %}{{- function.arguments | tojson }}{%- endif %}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_SPECIAL = re.compile("|".join(re.escape(s) for s in SPECIAL_TOKENS))
# Inside a rendered template a special token is a lone surrogate: message text is scrubbed of
# those, so no message can write one.
_MARKS = tuple(chr(0xDC00 + i) for i in range(len(SPECIAL_TOKENS)))
_MARK = re.compile(f"([{_MARKS[0]}-{_MARKS[-1]}])")


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(_with_marks(template))


def _with_marks(text: str) -> str:
    return _SPECIAL.sub(lambda m: _MARKS[SPECIAL_TOKENS.index(m[0])], text)


def _without_marks(text: str) -> str:
    return _MARK.sub(lambda m: SPECIAL_TOKENS[_MARKS.index(m[0])], text)


def _scrubbed(value: Any) -> Any:
    """`value` with no lone surrogate in any of its strings."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_scrubbed(k): _scrubbed(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_scrubbed(v) for v in value]
    return value


class ByteTokenizer:
    """UTF-8 bytes are their own ids; ids 256 to 258 are `<|im_start|>`, `<|im_end|>` (the
    end of a turn) and `<|endoftext|>` (padding).

    It follows the calls of a Hugging Face tokenizer. `apply_chat_template` never turns
    message text into a special token; `encode` reads them unless `split_special_tokens`.
    """

    bos_token_id: int | None = None
    eos_token = "<|im_end|>"
    eos_token_id: int | None = 257
    pad_token_id: int | None = 258
    vocab_size = 259
    all_special_tokens = SPECIAL_TOKENS
    all_special_ids = (256, 257, 258)

    def __init__(self, chat_template: str | None = CHAT_TEMPLATE) -> None:
        self.chat_template = chat_template

    def __len__(self) -> int:
        return self.vocab_size

    def encode(
        self, text: str, *, add_special_tokens: bool = False, split_special_tokens: bool = False
    ) -> list[int]:
        """Ids of `text`. With `split_special_tokens`, `<|im_end|>` is ten plain bytes."""
        if split_special_tokens or "<|" not in text:
            return list(text.encode("utf-8", "replace"))
        return self._encode_marked(_with_marks(_scrubbed(text)))

    def _encode_marked(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in _MARK.split(text):
            ids += [256 + _MARKS.index(piece)] if piece in _MARKS else piece.encode()
        return ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of `token_ids`; bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        try:
            return bytes(token_ids).decode("utf-8", "replace")
        except ValueError:
            return self._decode_special(token_ids, skip_special_tokens)

    def _decode_special(self, token_ids: Sequence[int], skip: bool) -> str:
        pieces = b""
        for token in token_ids:
            if token < 256:
                pieces += bytes((token,))
            elif token >= self.vocab_size:
                raise ValueError(f"token ids go from 0 to {self.vocab_size - 1}, got {token}")
            elif not skip:
                pieces += SPECIAL_TOKENS[token - 256].encode()
        return pieces.decode("utf-8", "replace")

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """The id of a special token's text, None for any other text."""
        return 256 + SPECIAL_TOKENS.index(token) if token in SPECIAL_TOKENS else None

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Render a conversation to ids, in a dict unless `return_dict` is False, or to text.

        Raises:
            ValueError: there is no chat template.
        """
        template = chat_template or self.chat_template
        if template is None:
            raise ValueError("this ByteTokenizer has no chat template: pass `chat_template`")
        text = _compiled(template).render(
            messages=_scrubbed(list(conversation)),
            tools=_scrubbed(list(tools)) if tools else None,
            add_generation_prompt=add_generation_prompt,
            **kwargs,
        )
        if not tokenize:
            return _without_marks(text)
        ids = self._encode_marked(text)
        return {"input_ids": ids, "attention_mask": [1] * len(ids)} if return_dict else ids
