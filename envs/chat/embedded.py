"""The embedded reward model: small enough to train in seconds, so that `Chat-v0` needs none.

A linear score s(x, y) = w . f(x, y) over plain features, fitted to the shipped preferences by
the Bradley-Terry likelihood, log sigmoid(s(x, chosen) - s(x, rejected)), with an L2 penalty.
It is a stand-in to learn and to test with, and as easy to exploit as it is small: watch the
parts that `Chat` logs beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..rewards.protocol import Messages
from ..rewards.thinking import NULL_ANSWER
from ..tasks.base import HELDOUT, TRAIN
from ..types import Task
from .features import Floats, features
from .preferences import Pair, preference_pairs
from .prompts import SHIPPED

Look = Callable[[str, str], Floats]  # (prompt, answer) -> [D]

VERSION = 3  # of the features, the pairs and the fit: raise it with any change of these
PENALTY = 0.001
ROUNDING = 1e-9  # a product of matrices and one of vectors differ in their last bits
STEPS = 1500


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained scorer.

    Attributes:
        weights: [D] of the features.
        low, high: the scores that stand for the rewards 0 and 1.
        accuracy: share of held-out pairs whose chosen reply scores higher, by kind of fault,
            and "all".
        pairs: how many pairs it was fitted to, and how many were held out.
    """

    weights: tuple[float, ...]
    low: float
    high: float
    accuracy: Mapping[str, float]
    pairs: tuple[int, int]


class EmbeddedReward:
    """A reward in [0, 1]: the mean over the assistant's turns of the scaled score.

    The model is fitted on first use and kept in `folder`. Replies without an answer are 0.
    Assistant turns must be answers already (thoughts left out), as `Chat` hands them over.

    Args:
        folder: where the fitted model is kept (default: `palestra/chat-reward` in the user's
            cache folder).
        half: 0 or 1 to fit it to one half of the preferences, so that a second model, of the
            other half, can judge what the first was optimised for. None takes all.
    """

    def __init__(self, folder: str | Path | None = None, half: int | None = None) -> None:
        if half not in (None, 0, 1):
            raise ValueError(f"half must be 0, 1 or None, got {half!r}")
        self.folder, self.half = Path(folder) if folder else _cache_folder(), half
        self._fitted: Fitted | None = None
        self._weights: Floats | None = None

    @property
    def fitted(self) -> Fitted:
        """The model with its held-out accuracy; fitted now if it is not there."""
        if self._fitted is None:
            self._fitted = self.load()
        return self._fitted

    def load(self) -> Fitted:
        """What `fitted` keeps."""
        return load_or_fit(self.folder, self.half)

    def look(self, prompt: str, answer: str) -> Floats:
        """[D] of one reply."""
        return features(prompt, answer)

    def __call__(self, task: Task, messages: Messages) -> float:
        """The reward of a conversation; 0 where the assistant has said nothing."""
        scores, asked = [], ""
        for message in messages:
            if message.role == "user":
                asked = message.content
            elif message.role == "assistant":
                scores.append(self.score(asked, message.content))
        return sum(scores) / len(scores) if scores else 0.0

    def score(self, prompt: str, answer: str) -> float:
        """The reward of one reply, in [0, 1]."""
        if not answer.strip() or answer == NULL_ANSWER:
            return 0.0
        model = self.fitted
        if self._weights is None:
            self._weights = np.asarray(model.weights)
        raw = float(self._weights @ self.look(prompt, answer))
        return min(1.0, max(0.0, (raw - model.low) / (model.high - model.low)))


def load_or_fit(
    folder: Path, half: int | None = None, *, look: Look = features, tag: str = ""
) -> Fitted:
    """The model kept in `folder` for this version of data and code, fitted if there is none.

    `look` says what is seen of a reply, and `tag` tells its files from others.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / f"reward-{_key()}{tag}{'' if half is None else f'-half-{half}'}.json"
    try:
        return _read(path)
    except (OSError, ValueError, KeyError, TypeError):  # absent, or not whole: make it anew
        pass
    fitted = fit(half, look)
    folder.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed: whoever reads meanwhile sees all of it or nothing.
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as aside:
        json.dump(asdict(fitted), aside)
    Path(aside.name).replace(path)
    return fitted


def fit(half: int | None = None, look: Look = features) -> Fitted:
    """Fit the model to the shipped preferences, or to one half of them. Deterministic; takes a
    few seconds."""
    train, held = preference_pairs(TRAIN, half), preference_pairs(HELDOUT)
    chosen, rejected = _features(train, look)
    weights = _bradley_terry(chosen - rejected)
    good, bad = chosen @ weights, rejected @ weights
    return Fitted(
        weights=tuple(float(w) for w in weights),
        low=float(np.quantile(bad, 0.15)),
        high=float(good.min()) - ROUNDING,
        accuracy=_accuracy(weights, held, look),
        pairs=(len(train), len(held)),
    )


def _bradley_terry(differences: Floats) -> Floats:
    """argmin_w mean_i log(1 + exp(-w . d_i)) + PENALTY / 2 |w|^2, by accelerated descent.

    Nesterov's method with step 1 / L, where L = |D|^2 / (4 n) + PENALTY bounds the curvature.
    """
    n, size = differences.shape
    step = 1 / (float(np.linalg.norm(differences, 2)) ** 2 / (4 * n) + PENALTY)
    w, ahead = np.zeros(size), np.zeros(size)
    for k in range(STEPS):
        wrong = 1 / (1 + np.exp(differences @ ahead))
        gradient = PENALTY * ahead - differences.T @ wrong / n
        before, w = w, ahead - step * gradient
        ahead = w + k / (k + 3) * (w - before)
    return w


def _features(pairs: Sequence[Pair], look: Look) -> tuple[Floats, Floats]:
    """[N, D] of the chosen and of the rejected replies."""
    chosen = np.array([look(p.prompt, p.chosen) for p in pairs])
    return chosen, np.array([look(p.prompt, p.rejected) for p in pairs])


def _accuracy(weights: Floats, pairs: Sequence[Pair], look: Look) -> dict[str, float]:
    chosen, rejected = _features(pairs, look)
    right = (chosen - rejected) @ weights > 0
    kinds = sorted({p.kind for p in pairs})
    by_kind = {k: float(np.mean(right[[p.kind == k for p in pairs]])) for k in kinds}
    return {"all": float(np.mean(right))} | by_kind


def _read(path: Path) -> Fitted:
    kept = json.loads(path.read_text(encoding="utf-8"))
    return Fitted(
        weights=tuple(kept["weights"]),
        low=float(kept["low"]),
        high=float(kept["high"]),
        accuracy=dict(kept["accuracy"]),
        pairs=tuple(kept["pairs"]),
    )


def _key() -> str:
    return hashlib.sha256(f"{VERSION}".encode() + SHIPPED.read_bytes()).hexdigest()[:12]


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "palestra" / "chat-reward"
