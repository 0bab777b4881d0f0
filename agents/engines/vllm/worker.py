"""What runs inside vLLM's worker processes."""

from __future__ import annotations

import inspect
from typing import Any


class WorkerExtension:
    """What vLLM's workers learn from us: mixed into their class by name."""

    model_runner: Any

    def load_policy(self, path: str) -> None:
        """Put the tensors of a safetensors file in place, kernels' packed copies included."""
        from safetensors.torch import load_file

        tensors = iter(load_file(path).items())
        reload = self.model_runner.reload_weights
        if "weights_iterator" in inspect.signature(reload).parameters:
            worker: Any = self
            worker.reload_weights(weights_iterator=tensors)
        else:  # older versions have no packed copies to renew
            self.model_runner.get_model().load_weights(tensors)
        _renew_tied_head(self.model_runner.get_model(), self.model_runner.model_config)

    def set_temperature(self, temperature: float) -> None:
        """Divide all logits by `temperature`, in float32, until the next call."""
        model = self.model_runner.get_model()
        vars(model).pop("compute_logits", None)
        if temperature == 1.0:
            return
        compute = model.compute_logits

        def tempered(*args: Any, **kwargs: Any) -> Any:
            logits = compute(*args, **kwargs)
            return None if logits is None else logits.float() / temperature

        vars(model)["compute_logits"] = tempered


def _renew_tied_head(model: Any, config: Any) -> None:
    """Bring a tied output head up to date with the embedding.

    vLLM's reload passes over it ("Tied parameters will only reflect processing from one of
    the parent layers"), so that a CPU goes on sampling from its packed copy of the old one.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        ParallelLMHead,
        VocabParallelEmbedding,
    )

    if not getattr(config.hf_text_config, "tie_word_embeddings", False):
        return
    layers = [m for m in model.modules() if isinstance(m, VocabParallelEmbedding)]
    heads = [m for m in layers if isinstance(m, ParallelLMHead)]
    embeddings = [m for m in layers if not isinstance(m, ParallelLMHead)]
    for head in heads:
        if head.weight.shape != embeddings[0].weight.shape:
            raise RuntimeError("the tied head and the embedding differ in shape")
        head.weight.data.copy_(embeddings[0].weight.data)
        head.quant_method.process_weights_after_loading(head)
