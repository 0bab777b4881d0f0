"""Format checks and the composition of reward parts."""

import pickle

import pytest

from palestra.envs.rewards import (
    ends_after,
    first_invalid,
    gated,
    has_one_box,
    has_one_tag,
    has_tags_in_order,
    weighted,
)
from palestra.envs.types import Invalid

LOST = Invalid("verifier", "gone")


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (r"so \boxed{1}", True),
        (r"\boxed{\boxed{1}}", True),
        (r"\boxed{1} or \boxed{2}", False),
        (r"\boxed{ }", False),
        (r"\boxed{1", False),
        ("1", False),
    ],
)
def test_one_box(text, good):
    assert has_one_box(text) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("<answer>1</answer>", True),
        ("x <answer>1</answer> y", True),
        ("<answer>1</answer><answer>2</answer>", False),
        ("</answer>1<answer>", False),
        ("<answer> </answer>", False),
        ("<answer>1", False),
    ],
)
def test_one_tag(text, good):
    assert has_one_tag(text) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("<think>a</think>\n<answer>1</answer>\n", True),
        ("<answer>1</answer><think>a</think>", False),
        ("<think>a</think> so <answer>1</answer>", False),
        ("<think>a <answer>1</answer></think>", False),
        ("<think>a</think>", False),
    ],
)
def test_tags_in_order(text, good):
    assert has_tags_in_order(text) is good


def test_ends_after():
    assert ends_after("<answer>1</answer> .", "</answer>")
    assert not ends_after("<answer>1</answer>" + " and on" * 9, "</answer>")
    assert not ends_after("1", "</answer>")


def test_weights():
    total = weighted({"answer": 1.0, "format": 0.1})
    assert total({"answer": 1.0, "format": 1.0, "length": 30.0}) == pytest.approx(1.1)
    with pytest.raises(ValueError, match=r"needs a part 'format', but got \['answer'\]"):
        total({"answer": 1.0})
    with pytest.raises(ValueError, match="at least one weight"):
        weighted({})


def test_gates():
    total = pickle.loads(pickle.dumps(gated("format", weighted({"answer": 1.0}), otherwise=-0.5)))
    assert total({"format": 1.0, "answer": 0.25}) == 0.25
    assert total({"format": 0.9, "answer": 1.0}) == -0.5
    assert (
        gated("format", weighted({"answer": 1}), threshold=0.5)({"format": 0.6, "answer": 1}) == 1
    )


def test_an_invalid_part_makes_the_whole_invalid():
    parts = {"format": 0.0, "answer": LOST}
    assert first_invalid(parts) == LOST
    assert first_invalid({"format": 0.0}) is None
    assert weighted({"format": 1.0})(parts) == LOST
    assert gated("format", weighted({"answer": 1.0}))(parts) == LOST
