"""Curricula give harder goals to stronger agents: the acceptance test of each controller."""

import json
from functools import partial

import numpy as np
import pytest

from palestra.envs.curriculum import (
    CONTROLLERS,
    TARGETS,
    AdaRFT,
    Bandit,
    Bands,
    Feedback,
    Replay,
    Window,
    accept,
    make_controller,
)

# By design: a window's easy levels are solved more often than its frontier, and it never
# moves down; rank-based replay prefers what is merely uncertain.
FAILS = {"window": {"on_target", "recovers"}, "replay": {"on_target"}}


@pytest.mark.parametrize("name", CONTROLLERS)
def test_acceptance(name):
    found = accept(partial(make_controller, name), TARGETS[name])
    failed = {point for point, holds in found.points().items() if not holds}
    assert failed == FAILS.get(name, set()), found


def test_the_step_of_adarfts_paper_oscillates():
    found = accept(lambda levels: AdaRFT(levels, eta=50.0), TARGETS["adarft"])
    assert {point for point, holds in found.points().items() if not holds} == {"steady"}


def test_bands_move_after_last_k_scores_at_their_level():
    bands = Bands(5, last_k=4, level=2)
    bands.update([Feedback(2, (1.0, 1.0, 1.0)), Feedback(1, (1.0,) * 9)])
    assert bands.level == 2  # three scores at its own level
    bands.update([Feedback(2, (1.0,))])
    assert bands.level == 3
    bands.update([Feedback(3, (0.0,) * 4)])
    assert bands.level == 2
    bands.update([Feedback(2, (1.0, 0.0, 1.0, 0.0))])
    assert bands.level == 2


def test_window_counts_its_frontier_only_and_never_falls():
    window = Window(9, prompts=2)
    for _ in range(2):
        window.update([Feedback(0, (1.0,) * 16)])
    assert window.frontier == 1
    window.update([Feedback(0, (1.0,))] * 5 + [Feedback(1, (0.0,))] * 8)
    assert window.frontier == 1
    window.frontier = 6
    drawn = {window.sample(np.random.default_rng(seed)) for seed in range(60)}
    assert drawn == {3, 4, 5, 6}


def test_adarft_is_the_papers_update():
    ada = AdaRFT(11, eta=50.0)
    ada.update([Feedback(0, (1.0, 1.0)), Feedback(0, (0.5, 1.0))])
    assert ada.target == pytest.approx(50 * np.tanh(2 * (0.875 - 0.5)))
    ada.update([Feedback(0, (1.0,))] * 9)
    ada.update([Feedback(0, (1.0,))] * 9)
    assert ada.target == 100 and ada.sample(np.random.default_rng(0)) == 10
    ada.target = 33.0  # level 3.3: three times in ten the one above
    draws = [ada.sample(np.random.default_rng(seed)) for seed in range(2000)]
    assert set(draws) == {3, 4} and np.mean(draws) == pytest.approx(3.3, abs=0.04)


def test_bandit_learns_the_mean_absolute_normalised_advantage():
    bandit = Bandit(3, learning_rate=0.25, temperature=0.5)
    bandit.update([Feedback(1, (1.0, 0.0, 0.0, 0.0)), Feedback(1, (1.0, 1.0))])
    # |A| / std of one success in four is 2 sqrt(p (1 - p)) = 0.866; of a sure thing 0
    assert bandit.values == pytest.approx([1, 0.75 + 0.25 * 0.8660254 / 2, 1])
    shares = np.exp(np.array(bandit.values) / 0.5)
    drawn = [bandit.sample(np.random.default_rng(seed)) for seed in range(4000)]
    assert np.bincount(drawn) / 4000 == pytest.approx(shares / shares.sum(), abs=0.03)


def test_replay_ranks_by_value_loss_and_looks_at_the_unseen():
    replay = Replay(4, temperature=1.0, staleness=0.0)
    rng = np.random.default_rng(0)
    assert {replay.sample(rng) for _ in range(50)} == {0, 1, 2, 3}  # nothing seen yet
    replay.update([Feedback(2, (1.0, 0.0)), Feedback(1, (1.0, 1.0, 1.0, 0.0))])
    drawn = [replay.sample(rng) for _ in range(4000)]
    # half the draws go to the unseen 0 and 3; the others to 2 and 1 as 1/1 to 1/2
    expected = [0.25, 0.5 / 3, 1 / 3, 0.25]
    assert np.bincount(drawn) / 4000 == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_kept_state_stays_as_it_was(name):
    controller = make_controller(name, 4, **({"last_k": 99} if name == "bands" else {}))
    rng = np.random.default_rng(0)
    level = controller.sample(rng)
    kept = controller.state_dict()
    as_text = json.dumps(kept)
    controller.update([Feedback(level, (1.0, 0.0, 1.0))])
    controller.sample(rng)
    assert json.dumps(kept) == as_text != json.dumps(controller.state_dict())


@pytest.mark.parametrize(
    ("name", "options", "need"),
    [
        ("bands", {"low": 0.8, "high": 0.2}, "low <= high"),
        ("bands", {"low": float("nan")}, "low <= high"),
        ("bands", {"last_k": 0}, "last_k >= 1"),
        ("bands", {"level": 99}, "a level below levels"),
        ("window", {"width": 0}, "width >= 1"),
        ("window", {"prompts": 0}, "prompts >= 1"),
        ("window", {"frontier": 5}, "a frontier below levels"),
        ("adarft", {"eta": -1.0}, "alpha > 0 and eta > 0"),
        ("adarft", {"target": 101.0}, "a target in"),
        ("bandit", {"temperature": 0.0}, "temperature > 0"),
        ("bandit", {"learning_rate": 0.0}, "a learning_rate in"),
        ("bandit", {"values": [1.0]}, "one value per level"),
        ("replay", {"temperature": 0.0}, "temperature > 0"),
        ("replay", {"replay": 2.0}, "replay in"),
        ("replay", {"staleness": -0.1}, "staleness in"),
        ("replay", {"played": [0]}, "one score per level"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, options, need):
    with pytest.raises(ValueError, match=f"needs {need}"):
        make_controller(name, 5, **options)


def test_bad_feedback_and_bad_states_are_refused():
    with pytest.raises(ValueError, match="at least one reward"):
        Feedback(0, ())
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        Feedback(0, (2.0,))
    with pytest.raises(ValueError, match="at least one level"):
        Bands(0)
    with pytest.raises(ValueError, match="no state of a Bands with 5 levels"):
        Bands(5).load_state_dict(Bands(6).state_dict())
    with pytest.raises(ValueError, match="no state of a Window"):
        Window(5).load_state_dict(Bands(5).state_dict())
