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
        else:  # before 0.12 there were no packed copies to renew
            self.model_runner.get_model().load_weights(tensors)

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
