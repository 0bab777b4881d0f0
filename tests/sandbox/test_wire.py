"""Frames: what comes back from a session may be anything."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.sandbox import Limits
from palestra.sandbox.local import wire

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
VALUES = SCALARS | st.lists(SCALARS, max_size=5)


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=5))
def test_round_trip(message):
    assembler = wire.Assembler()
    *early, last = [assembler.feed(packet) for packet in wire.packets(message)]
    assert early == [None] * len(early)
    assert last == json.loads(json.dumps(message))


def test_long_messages_are_cut_into_bounded_packets():
    packets = list(wire.packets({"code": "x" * 100_000}))
    assert len(packets) == 4
    assert max(map(len, packets)) <= wire.CHUNK + 1
    assert wire.Assembler().feed(packets[0]) is None


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else_happens(data):
    try:
        message = wire.Assembler().feed(data)
    except wire.ProtocolError:
        return
    assert message is None or isinstance(message, dict)


@pytest.mark.parametrize("data", [b"[1]", b"1", b"\xff", b"", b'{"a":', b"[" * 100_000])
def test_only_objects_are_messages(data):
    with pytest.raises(wire.ProtocolError):
        wire.parse(data)


def test_endless_frames_are_cut_off():
    assembler = wire.Assembler(limit=1000)
    with pytest.raises(wire.ProtocolError, match="over 1000 bytes"):
        for _ in range(10):
            assembler.feed(b"+" + b"x" * 500)


def test_limits_must_be_positive():
    with pytest.raises(ValueError, match="wall_s must be positive"):
        Limits(wall_s=0)
