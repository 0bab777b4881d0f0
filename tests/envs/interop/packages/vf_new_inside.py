"""Tasks that only verifiers itself can run."""

import verifiers.v1 as vf
from vf_new_words import InsideTask, WordsConfig, WordsTaskset

__all__ = ["InsideTaskset"]


class InsideTaskset(WordsTaskset, vf.Taskset[InsideTask, WordsConfig]):
    pass
