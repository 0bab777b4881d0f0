"""Unit tests as a reward: the plain data that travel to a session and back."""

import enum
import math
from collections import Counter, OrderedDict, defaultdict, namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.envs.rewards.unit_tests import Call, NotPlainError, decode, encode

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
)
KEYS = SCALARS | st.tuples(SCALARS, SCALARS) | st.frozensets(SCALARS, max_size=3)
PLAIN = st.recursive(
    KEYS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


def typed(value):
    """A value with the types of all its parts, so that 1, 1.0 and True differ."""
    if isinstance(value, list | tuple):
        return type(value), [typed(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), {repr(typed(item)) for item in value if not isinstance(item, frozenset)}
    if isinstance(value, dict):
        return dict, [(typed(key), typed(item)) for key, item in value.items()]
    return type(value), value


@settings(max_examples=150, deadline=None)
@given(PLAIN)
def test_plain_data_come_back_as_they_were(value):
    again = decode(encode(value))
    assert again == value and typed(again) == typed(value)


class Colour(enum.IntEnum):
    RED = 3


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Colour.RED, 3),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (namedtuple("P", "x y")(1, 2), (1, 2)),
        (np.float64(1.5), 1.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        ([Colour.RED], [3]),
        (-math.inf, -math.inf),
        ("\ud800\x00", "\ud800\x00"),
    ],
)
def test_subclasses_travel_as_their_base(value, base):
    again = decode(encode(value))
    assert again == base and type(again) is type(base)


def test_numbers_of_any_size_come_back():
    assert decode(encode([10**5000, -(10**5000)])) == [10**5000, -(10**5000)]
    assert not Call("", "2.5", "close", 0.1).accepts(10**400)


def test_nan_comes_back():
    assert math.isnan(decode(encode(math.nan)))


@pytest.mark.parametrize(
    "value",
    [object(), lambda: 1, iter([]), range(3), (x for x in []), np.zeros(2), [object()], {1: int}],
)
def test_anything_else_is_refused(value):
    with pytest.raises(NotPlainError):
        encode(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nope",
        "[" * 100_000,
        "[" * 200 + "]" * 200,
        '{"a": 1, "b": 2}',
        '{"pickle": "x"}',
        '{"int": "zz"}',
        '{"int": 5}',
        '{"bytes": "0g"}',
        '{"set": [[1]]}',
        '{"dict": [[[], 1]]}',
        '{"dict": 3}',
        '{"tuple": 3}',
        '{"float": "x"}',
        "9" * 5000,
    ],
)
def test_text_that_is_no_value_is_refused(text):
    with pytest.raises(NotPlainError):
        decode(text)
