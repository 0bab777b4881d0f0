"""Engines: token ids in, token ids and log-probabilities out (`base.py` is the contract).

This package imports nothing heavy; `make_engine` loads what the named engine needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .base import ContextOverflow, Engine, EngineError, SamplingParams, Tokenizer

__all__ = ["ContextOverflow", "Engine", "EngineError", "SamplingParams", "Tokenizer", "make_engine"]

ENGINES = {
    "local": ".local:LocalEngine",
    "scripted": ".scripted:ScriptedEngine",
    "vllm": ".vllm:VllmEngine",
}


def make_engine(spec: str, model: Any, **options: Any) -> Engine:
    """Make an engine by name, or by `module:Class` for one from elsewhere.

    Args:
        spec: "local", "vllm", "scripted" or "package.module:Class".
        model: the first argument of the class: for "local" a model name, a folder or a
            loaded model (then with `tokenizer=`); for "vllm" a name or folder; for
            "scripted" the replies.
        options: the other arguments of the class.

    Raises:
        ValueError: the spec is neither a known name nor `module:Class`, or the class does not
            take the options.
        ImportError: an optional package is missing; the message names the extra.
    """
    target = ENGINES.get(spec, spec)
    module_name, colon, class_name = target.partition(":")
    if not colon:
        raise ValueError(
            f"unknown engine {spec!r}: expected one of {', '.join(ENGINES)} or 'module:Class'"
        )
    engine_class = getattr(import_module(module_name, __name__), class_name, None)
    if engine_class is None:
        raise ValueError(f"{module_name} has no engine {class_name!r}")
    try:
        engine: Engine = engine_class(model, **options)
    except TypeError as error:
        raise ValueError(f"the engine {spec} does not take {options}: {error}") from error
    return engine
