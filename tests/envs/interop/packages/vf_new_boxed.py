"""Tasks that only verifiers itself can run."""

import verifiers.v1 as vf
from vf_new_words import BoxedTask, WordsConfig, WordsTaskset

__all__ = ["BoxedTaskset"]


class BoxedTaskset(WordsTaskset, vf.Taskset[BoxedTask, WordsConfig]):
    pass
