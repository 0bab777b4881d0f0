"""Micro base models, built from scratch in about a minute: what `palestra quickstart` trains."""

from .pretrain import MicroRecipe, build_base_model
from .tokenizer import build_tokenizer

__all__ = ["MicroRecipe", "build_base_model", "build_tokenizer"]
