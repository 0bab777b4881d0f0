"""Foreign code that draws from the process's global generators, kept away from them."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

# The generators are the process's, so is the lock; a thread that holds it may lend again.
_LENT = threading.RLock()


class GlobalRandom:
    """A state of Python's and NumPy's global generators that belongs to one episode.

    Inside `with generators.lent():` the global generators continue from this state;
    afterwards they are as they were. One thread at a time is inside; do not wait in there for
    another that wants to be. Copies and pickles with its state.
    """

    def __init__(self, seed: int) -> None:
        """The state after `random.seed(seed)` and `numpy.random.seed(seed modulo 2^32)`."""
        self._python: Any = random.Random(seed).getstate()
        self._numpy: Any = np.random.RandomState(seed % 2**32).get_state()

    @contextmanager
    def lent(self) -> Iterator[None]:
        with _LENT:
            python, numpy = random.getstate(), np.random.get_state()
            random.setstate(self._python)
            np.random.set_state(self._numpy)
            try:
                yield
            finally:
                self._python, self._numpy = random.getstate(), np.random.get_state()
                random.setstate(python)
                np.random.set_state(numpy)
