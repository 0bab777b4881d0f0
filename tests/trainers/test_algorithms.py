"""The table of algorithms."""

import dataclasses

import pytest

from palestra.trainers.algorithms import ALGORITHMS, get_algorithm


def test_presets_carry_the_papers_defaults():
    grpo, dr_grpo, dapo = (get_algorithm(n) for n in ("grpo", "dr_grpo", "dapo"))
    assert (grpo.clip_low, grpo.clip_high, grpo.aggregation) == (0.2, 0.2, "sequence_mean")
    assert grpo.scale_by_std and not grpo.dynamic_sampling
    assert not dr_grpo.scale_by_std and dr_grpo.aggregation == "constant"
    assert (dapo.clip_low, dapo.clip_high, dapo.aggregation) == (0.2, 0.28, "token_mean")
    assert dapo.dynamic_sampling and (dapo.overlong_length, dapo.overlong_cache) == (20480, 4096)
    assert {a.kl for a in ALGORITHMS.values()} == {0.0}


def test_names_in_the_table_match_their_keys():
    assert all(key == row.name for key, row in ALGORITHMS.items())


def test_overrides_leave_the_table_alone():
    changed = get_algorithm("grpo", kl=0.04)
    assert changed.kl == 0.04
    assert get_algorithm("grpo").kl == 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        changed.kl = 1.0


@pytest.mark.parametrize(("name", "near"), [("gropo", "'grpo'"), ("drgrpo", "'dr_grpo'")])
def test_unknown_name_names_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"did you mean {near}"):
        get_algorithm(name)


def test_unknown_field_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'clip_high'"):
        get_algorithm("dapo", clip_hi=0.3)


@pytest.mark.parametrize(
    "bad",
    [
        {"clip_low": 1.5},
        {"clip_high": -0.1},
        {"kl": -1.0},
        {"std_eps": -1e-6},
        {"aggregation": "constant"},
        {"overlong_length": 100},
        {"overlong_length": 100, "overlong_cache": 101},
    ],
)
def test_nonsense_is_refused(bad):
    with pytest.raises(ValueError, match="got"):
        get_algorithm("grpo", **bad)
