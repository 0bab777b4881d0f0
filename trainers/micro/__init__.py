"""The micro base model behind `palestra quickstart`, built from scratch in about a minute."""

from .pretrain import MicroRecipe, build_base_model
from .tokenizer import build_tokenizer

__all__ = ["MicroRecipe", "build_base_model", "build_tokenizer"]
