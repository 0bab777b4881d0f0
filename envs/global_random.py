"""Foreign code that draws from the process's global generators, kept away from them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class GlobalRandom:
    """A state of Python's and NumPy's global generators that belongs to one episode.

    Inside `with generators.lent():` the global generators continue from this state;
    afterwards they are as they were. Copies and pickles with its state.
    """

    def __init__(self, seed: int) -> None:
        """The state after `random.seed(seed)` and `numpy.random.seed(seed modulo 2^32)`."""
        self._python: Any = random.Random(seed).getstate()
        self._numpy: Any = np.random.RandomState(seed % 2**32).get_state()

    @contextmanager
    def lent(self) -> Iterator[None]:
        python, numpy = random.getstate(), np.random.get_state()
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        try:
            yield
        finally:
            self._python, self._numpy = random.getstate(), np.random.get_state()
            random.setstate(python)
            np.random.set_state(numpy)
