"""A hostile far end against the real host side: a defined outcome, soon, and nothing left open."""

import itertools
import json
import socket
import threading

import pytest
from far_end import CONTROL, LIMITS, play
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.sandbox import Execution, SandboxError, Status
from palestra.sandbox.local import wire
from palestra.sandbox.local.client import _Server

READY = [(0, wire.READY, 0), (0, wire.PROCESS, 1)]
DEEP = ["[" * 900 + "]" * 900, "[" * 20_000 + "]" * 20_000, '{"a":' * 990 + "1" + "}" * 990]
NUMBERS = [
    "0",
    "1",
    "2",
    "-1",
    "1.0",
    "1e400",
    "-1e999",
    "NaN",
    "-Infinity",
    "1" * 5000,
    "-40",
    "-9999",
]
TEXTS = ['"MemoryError"', '""', '"\\ud800"', '"\\u0000"', '"' + "x" * 3000 + '"', '"\\ud83d"']
ODD = ["null", "true", "[]", "{}", '{"id": 1}', "[[[1]]]", "", "nul", '{"a": 1, "a": 2}', "'"]
tokens = st.one_of(
    *map(st.sampled_from, (NUMBERS, TEXTS, ODD + DEEP)), st.text(max_size=9).map(json.dumps)
)
names = st.sampled_from(["id", "value", "error", "cpu", "status", "reason", "rss", "cpu", "id"])
objects = st.lists(st.tuples(names, tokens), max_size=6).map(
    lambda pairs: "{" + ",".join(f'"{name}":{token}' for name, token in pairs) + "}"
)
texts = (tokens | objects).map(lambda text: text.encode("utf-8", "surrogatepass"))


@st.composite
def frames(draw):
    """A text cut into packets, with or without an end, some of them exchanged for others."""
    data = draw(texts | st.binary(max_size=50))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
    bounds = [0, *cuts, len(data)]
    kinds = draw(st.sampled_from([b".", b"+", b"X", b"R"]))
    pieces = [data[a:b] for a, b in itertools.pairwise(bounds)]
    return [(0, b"+" + piece, 0) for piece in pieces[:-1]] + [(0, kinds + pieces[-1], 0)]


def fields(*known):
    """An object with some of the fields that the host reads, each with any text for a value."""
    pairs = st.lists(st.tuples(st.sampled_from(known), tokens), min_size=1, max_size=3)
    return pairs.map(lambda some: "".join(f',"{name}":{token}' for name, token in some))


def encoded(before, after):
    return lambda text: (0, (before + text + after).encode("utf-8", "surrogatepass"), 0)


# '@' stands for the number of the call.
good = fields("value", "error", "cpu").map(encoded('.{"id":@,"x":0', "}"))
exits = fields("status", "reason", "rss", "cpu").map(encoded('X{"x":0', "}"))
packets = st.builds(
    lambda kind, data, descriptors: (0, kind + data, descriptors),
    st.sampled_from([b"+", b".", b"R", b"P", b"F", b"X", b"<", b"\0", b""]),
    st.binary(max_size=20),
    st.integers(0, 3),
)
outputs = st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=6000), st.just(0))
hang_ups = st.sampled_from([(0, b"", 0), (1, b"", 0), (2, b"", 0), (CONTROL, b"", 0)])
acts = st.lists(frames() | st.lists(good | exits | packets | outputs | hang_ups, max_size=3)).map(
    lambda parts: [act for part in parts for act in part]
)
nearly = st.builds(lambda some, one: [*some, one], st.lists(outputs, max_size=2), good | exits)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([READY] * 4) | acts, st.lists(nearly | nearly | acts, min_size=1, max_size=4)
)
def test_whatever_comes_the_outcome_is_a_defined_one(first, calls):
    numbered = enumerate(calls, 1)
    play(first, [[(i, data.replace(b"@", b"%d" % n), d) for i, data, d in c] for n, c in numbered])


def test_the_honest_play_is_understood():
    answer = [(1, b"out", 0), (0, b'.{"id":1,"value":"42","error":null,"cpu":0.5}', 0)]
    end = [(0, b'X{"status":3,"reason":"","cpu":0.75,"rss":1}', 0)]
    _, first, last = play(READY, [answer, end])
    assert (first.stdout, first.value, first.status, first.cpu_s) == ("out", "42", Status.OK, 0.5)
    assert (last.status, last.cpu_s) == (Status.CRASHED, 0.25)
    assert "exited with code 3" not in last.stdout


PROTOCOL = [
    b".",
    b".[]",
    b'.{"id": 2}',
    b'.{"id": "1"}',
    b".{}",
    b"<x",
    b"F",
    b"?",
    b'.{"id": 1' + b"1" * 5000 + b"}",
    b".\xff",
    b"." + b"[" * 30_000,
]


@pytest.mark.parametrize("packet", PROTOCOL, ids=lambda packet: repr(packet[:12]))
def test_what_is_no_answer_is_the_end_of_the_process(packet):
    gone = [(0, packet, 0), (0, b'X{"status":-9,"reason":"host"}', 0)]
    _, execution = play(READY, [gone])
    assert execution.status is Status.CRASHED
    assert execution.value is None


def test_a_second_answer_is_one_too_many_whenever_it_comes():
    answer = (0, b'.{"id":1,"value":"1","error":null}', 0)
    for calls in ([[answer, answer]], [[answer], [answer]], [[answer], [(0, b"+x", 0)]]):
        end = (0, b'X{"status":-9}', 0)
        last = play(READY, [*calls[:-1], [*calls[-1], end]])[-1]
        assert isinstance(last, Execution)
        assert last.status is Status.CRASHED or last.value == "1"


def test_an_account_of_the_end_counts_only_while_the_server_lives():
    forged = (0, b'X{"status":0,"reason":"","cpu":1}', 0)
    assert isinstance(play(READY, [[forged]])[-1], Execution)
    assert isinstance(play(READY, [[forged, (CONTROL, b"", 0)]])[-1], SandboxError)
    assert isinstance(play(READY, [[(0, b"", 0)]])[-1], SandboxError)


def test_frames_without_end_are_cut_off():
    flood = [(0, b"+" + b"x" * wire.CHUNK, 0)] * 10
    assert play(READY, [[*flood, (0, b'X{"status":-9}', 0)]])[-1].status is Status.CRASHED


@pytest.mark.parametrize("code", [b"-40", b"-64", b"-9999", b"true", b"null", b'"x"', b"1e9"])
def test_any_account_of_the_end_has_a_phrase(code):
    execution = play(READY, [[(0, b'X{"status":%s,"rss":NaN,"cpu":-1}' % code, 0)]])[-1]
    assert execution.status is Status.CRASHED
    assert execution.cpu_s == 0


@settings(max_examples=100, deadline=None)
@given(texts | st.binary(max_size=100))
def test_a_greeting_may_be_anything(data):
    server = object.__new__(_Server)
    server.control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.control.setblocking(False)
    server._lock, server._hello = threading.Lock(), {}
    with far, server.control:
        far.send(data[: 1 << 16])
        far.close()
        assert isinstance(server.hello(1.0), dict)


@given(texts)
def test_numbers_and_depth_are_bounded_before_they_are_read(data):
    try:
        message = wire.parse(data)
    except wire.ProtocolError:
        return
    assert isinstance(message, dict)
    assert len(repr(message)) < 10 * len(data) + 100


def test_limits_are_small_here():
    assert LIMITS.output_kill_bytes < 6000
