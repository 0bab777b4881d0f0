"""What the host reads from a container is hostile: sizes, kinds, numbers, silence."""

import os
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.sandbox import SandboxError
from palestra.sandbox.docker.frames import HEADER, Frame, Reader, Room, pack
from palestra.sandbox.docker.stream import Link
from palestra.sandbox.local.waiting import drive
from palestra.sandbox.local.wire import ProtocolError

SMALL = Room(fields=1000, body=1000)


def feed(reader, data):
    return list(reader.feed(data, lambda number: SMALL))


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=200)), max_size=8),
    st.integers(1, 50),
)
def test_frames_come_through_however_they_are_cut(sent, piece):
    stream = b"".join(pack(number, {"n": number, "s": "\ud800"}, body) for number, body in sent)
    reader, got = Reader(), []
    for start in range(0, len(stream), piece):
        got += feed(reader, stream[start : start + piece])
    assert got == [Frame(number, {"n": number, "s": "\ud800"}, body) for number, body in sent]


@given(st.lists(st.binary(max_size=64), max_size=20))
def test_any_bytes_are_frames_or_a_protocol_error(pieces):
    reader = Reader()
    try:
        for piece in pieces:
            for frame in feed(reader, piece):
                assert isinstance(frame.fields, dict)
    except ProtocolError:
        pass


@pytest.mark.parametrize("sizes", [(1001, 0), (0, 1001), (2**32 - 1, 2**32 - 1)])
def test_a_frame_too_large_is_refused_before_it_is_read(sizes):
    with pytest.raises(ProtocolError, match="where 1000 and 1000 are taken"):
        feed(Reader(), HEADER.pack(7, *sizes))


@pytest.mark.parametrize("text", [b"", b"[1]", b"{", b'{"a": ' + b"9" * 900 + b"}", b"[" * 999])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(ProtocolError):
        feed(Reader(), HEADER.pack(1, len(text), 0) + text)


class Gateway:
    """The other end: speaks Docker's framing, and says what the test wants."""

    def __init__(self, end):
        self.end = end
        self.reader = Reader()

    def take(self):
        """The next request."""
        data = b""
        while True:
            for frame in self.reader.feed(data, lambda number: Room(1 << 30, 1 << 30)):
                return frame
            data = self.end.recv(1 << 16)
            if not data:
                raise EOFError

    def say(self, data, kind=1):
        self.end.sendall(struct.pack(">B3xI", kind, len(data)) + data)


@contextmanager
def linked(answer=None):
    """A link that is served, and its other end; `answer` is run there in a thread."""
    ours, theirs = socket.socketpair()
    link, gateway = Link(), Gateway(theirs)
    link.attach(ours)
    threads = [threading.Thread(target=link.serve)]
    if answer is not None:
        threads.append(threading.Thread(target=answer, args=(gateway,)))
    for thread in threads:
        thread.start()
    try:
        yield link, gateway
    finally:
        link.fail("the test is over")
        theirs.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


def ask(link, wait_s=10.0, **room):
    return drive(link.ask({"op": "test"}, wait_s=wait_s, room=Room(**room)))


def test_an_answer_finds_its_request():
    def answer(gateway):
        request = gateway.take()
        whole = pack(request.number, {"ok": 1}, b"body")
        for at in range(len(whole)):
            gateway.say(whole[at : at + 1])

    with linked(answer) as (link, _):
        assert ask(link, body=10).body == b"body"
        assert link.lost == ""


@pytest.mark.parametrize(
    ("say", "why"),
    [
        (lambda n: pack(n, {}, b"x" * 11), "where 100 and 10 are taken"),
        (lambda n: pack(n, {"x": "y" * 100}), "where 100 and 10 are taken"),
        (lambda n: pack(n + 1, {}), "nobody waits for"),
        (lambda n: HEADER.pack(n, 4, 0) + b"[[[[", "not a JSON"),
        (lambda n: b"\xff" * 64, "nobody waits for"),
    ],
)
def test_what_was_not_asked_for_ends_the_container(say, why):
    with linked(lambda gateway: gateway.say(say(gateway.take().number))) as (link, _):
        with pytest.raises(SandboxError, match=why):
            ask(link, fields=100, body=10)
        assert "broke the protocol" in link.lost
        with pytest.raises(SandboxError, match="lost"):
            ask(link)


def test_a_second_answer_and_endless_words_end_the_container():
    def twice(gateway):
        number = gateway.take().number
        gateway.say(pack(number, {}) + pack(number, {}))

    def talk(gateway):
        gateway.take()
        with suppress(OSError):
            while True:
                gateway.say(b"y" * 60_000, kind=2)

    for answer, why in ((twice, "nobody waits for"), (talk, "bytes on standard error")):
        with linked(answer) as (link, _):
            with suppress(SandboxError):
                ask(link)
            with pytest.raises(SandboxError, match=why):
                ask(link)
            assert len(link.words) <= 4000


def test_silence_ends_the_container_and_all_who_wait():
    with linked() as (link, _):
        lost = []

        def other():
            with pytest.raises(SandboxError, match="did not answer"):
                ask(link, 60.0)
            lost.append(True)

        waiting = threading.Thread(target=other)
        waiting.start()
        with pytest.raises(SandboxError, match=r"did not answer 'test' within 0\.2 s"):
            ask(link, 0.2)
        waiting.join(10)
        assert lost == [True]


def test_the_end_of_the_stream_tells_what_was_said_last():
    def answer(gateway):
        gateway.take()
        gateway.say(b"z" * 9000 + b"python3: not found", kind=2)
        gateway.end.shutdown(socket.SHUT_RDWR)

    with linked(answer) as (link, _):
        with pytest.raises(SandboxError, match=r"it ended.*python3: not found"):
            ask(link)
        assert len(link.lost) < 5000


def test_a_gateway_that_reads_nothing_does_not_block_who_sends():
    with linked() as (link, _):
        start = time.monotonic()
        conversation = link.ask({"op": "test"}, b"x" * (64 << 20), wait_s=60)
        next(conversation)
        assert time.monotonic() - start < 10
        conversation.close()


def test_what_could_not_be_sent_at_once_is_sent_later():
    data = os.urandom(8 << 20)

    def answer(gateway):
        time.sleep(0.2)
        request = gateway.take()
        gateway.say(pack(request.number, {"same": request.body == data}))

    with linked(answer) as (link, _):
        frame = drive(link.ask({"op": "test"}, data, wait_s=30))
        assert frame.fields == {"same": True}


def test_a_cancelled_request_is_told_and_its_late_answer_is_taken():
    def answer(gateway):
        first = gateway.take()
        cancelled = gateway.take()
        gateway.say(pack(first.number, {"late": 1}, b"x" * 50))
        second = gateway.take()
        gateway.say(pack(second.number, cancelled.fields | {"was": first.number}))

    with linked(answer) as (link, _):
        conversation = link.ask({"op": "test"}, wait_s=10, room=Room(body=100))
        next(conversation)
        conversation.close()
        said = ask(link).fields
        assert said == {"op": "cancel", "of": said["was"], "was": said["was"]}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=100), max_size=5), st.booleans())
def test_garbage_never_hangs_who_asks(pieces, framed):
    def answer(gateway):
        gateway.take()
        with suppress(OSError):  # the host may have hung up by then
            for piece in pieces:
                gateway.say(piece) if framed else gateway.end.sendall(piece)
            gateway.end.shutdown(socket.SHUT_WR)

    with linked(answer) as (link, _), pytest.raises(SandboxError):
        ask(link)
