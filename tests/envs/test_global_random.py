"""Foreign code draws from generators of its own, also in several threads at once."""

import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np

from palestra.envs.global_random import GlobalRandom


def draws(generators, times, start=None):
    """Numbers drawn in `times` loans; other threads get their turns between any two of them."""
    seen = []
    if start:
        start.wait()
    for _ in range(times):
        with generators.lent():
            seen += [(random.random(), float(np.random.random())) for _ in range(20)]
    return seen


def test_threads_do_not_draw_from_each_others_generators():
    alone = [draws(GlobalRandom(seed), 200) for seed in range(4)]
    before = random.getstate(), np.random.get_state()[1].tolist()
    start = Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(draws, GlobalRandom(seed), 200, start) for seed in range(4)]
        assert [job.result() for job in jobs] == alone
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_a_loan_within_a_loan_is_another_state():
    outer, inner = GlobalRandom(1), GlobalRandom(2)
    with outer.lent():
        first = random.random()
        assert draws(inner, 1) == draws(GlobalRandom(2), 1)
        second = random.random()
    assert [first, second] == [r.random() for r in [random.Random(1)] for _ in range(2)]
    assert draws(pickle.loads(pickle.dumps(inner)), 1) == draws(inner, 1)
