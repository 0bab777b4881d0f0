"""The host's end of a container's stream: requests out, answers in. Nothing it reads is trusted.

One thread for each container reads and hands over; whoever asks waits on a descriptor of its
own, in a thread or on an event loop. A frame that nobody asked for, or that is larger than
what was asked for can be, ends the container.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ..local.waiting import Conversation, Wait
from ..local.wire import ProtocolError
from ..types import SandboxError
from .frames import PLAIN, Frame, Reader, Room, pack

BURST = 64  # reads before what came is handed over
MAX_WORDS, WORDS = 1 << 20, 4000  # bytes that a container may say on stderr, and those kept


class Exchange:
    """A request under way. `event` is readable from when the answer is there or never comes."""

    __slots__ = ("answer", "event", "room")

    def __init__(self, room: Room) -> None:
        self.room = room
        self.answer: Frame | None = None
        self.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


class Link:
    """The stream of one container. `lost` says why it is no more, once it is."""

    def __init__(self) -> None:
        self.lost = ""
        self.words = bytearray()
        self._heard = 0
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._queue: deque[memoryview] = deque()
        self._numbers = itertools.count(1)
        self._exchanges: dict[int, Exchange] = {}
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._reader = Reader()
        self._streams = _Streams()
        self.greeting = self._exchanges[0] = Exchange(PLAIN)
        weakref.finalize(self, _close, self._wake, self.greeting.event).atexit = False
        _links.add(self)

    def ask(
        self, fields: dict[str, Any], body: bytes = b"", *, wait_s: float, room: Room = PLAIN
    ) -> Conversation[Frame]:
        """Send one request; its answer.

        Raises:
            SandboxError: the container is lost, or lost now for not answering in `wait_s` seconds.
        """
        number, exchange = next(self._numbers), Exchange(room)
        until = time.monotonic() + wait_s
        try:
            self._send(pack(number, fields, body), number, exchange)
            while exchange.answer is None and not self.lost:
                if time.monotonic() >= until:
                    self.fail(f"it did not answer {fields['op']!r} within {wait_s:g} s")
                    break
                yield Wait([exchange.event], until)
        except GeneratorExit:
            self.tell({"op": "cancel", "of": number})
            raise
        finally:
            with self._lock:
                os.close(exchange.event)
                exchange.event = -1
        if exchange.answer is None:
            raise SandboxError(f"the container was lost: {self.lost}")
        return exchange.answer

    def tell(self, fields: dict[str, Any]) -> None:
        """Send what has no answer; nothing happens when the container is lost."""
        with suppress(SandboxError):
            self._send(pack(next(self._numbers), fields))

    def fail(self, why: str) -> None:
        """From now on the container is lost; the first reason stays."""
        with self._lock:
            if self.lost:
                return
            self.lost = why
            for exchange in self._exchanges.values():
                _raise_flag(exchange.event)
            os.eventfd_write(self._wake, 1)

    def attach(self, end: socket.socket) -> None:
        """Have the stream; nothing is read or written yet."""
        end.setblocking(False)
        self._socket = end

    def serve(self) -> None:
        """Read, and write what could not be written at once, until the container is lost."""
        end = self._socket
        if end is None:
            raise RuntimeError("nothing to serve before `attach`")
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        while not self.lost:
            poller.register(end, select.POLLIN | (select.POLLOUT if self._queue else 0))
            poller.poll()
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            with self._lock:
                self._flush()
            try:
                self._receive(end)
            except ProtocolError as error:
                self.fail(f"it broke the protocol: {error}")
        with self._lock:
            end.close()

    def disown(self) -> None:
        """In a process forked from the host: let go of the stream, without ending it."""
        if self._socket is not None and self._socket.fileno() >= 0:
            os.close(self._socket.detach())  # whatever else refers to it

    def _send(self, data: bytes, number: int = 0, exchange: Exchange | None = None) -> None:
        with self._lock:
            if self.lost:
                raise SandboxError(f"the container was lost: {self.lost}")
            if exchange is not None:
                self._exchanges[number] = exchange
            self._queue.append(memoryview(data))
            self._flush()
            if self._queue:
                os.eventfd_write(self._wake, 1)

    def _flush(self) -> None:
        while self._queue and self._socket is not None:
            try:
                sent = self._socket.send(self._queue[0])
            except OSError:  # full, or at its end, which reading will tell
                return
            if sent < len(self._queue[0]):
                self._queue[0] = self._queue[0][sent:]
                return
            self._queue.popleft()

    def _receive(self, end: socket.socket) -> None:
        for _ in range(BURST):
            try:
                data = end.recv(1 << 18)
            except BlockingIOError:
                return
            except OSError as error:
                self.fail(f"the stream broke: {error}")
                return
            if not data:
                self.fail(f"it ended. {self.words.decode(errors='replace')}".strip())
                return
            for kind, payload in self._streams.feed(data):
                if kind == _STDERR:
                    self._hear(payload)
                    continue
                for frame in self._reader.feed(payload, self._room):
                    self._hand_over(frame)

    def _hear(self, words: bytes) -> None:
        self._heard += len(words)
        if self._heard > MAX_WORDS:
            raise ProtocolError(f"over {MAX_WORDS} bytes on standard error")
        self.words = (self.words + words)[-WORDS:]

    def _room(self, number: int) -> Room:
        exchange = self._exchanges.get(number)
        if exchange is None:
            raise ProtocolError(f"an answer to {number}, which nobody waits for")
        return exchange.room

    def _hand_over(self, frame: Frame) -> None:
        with self._lock:
            exchange = self._exchanges.pop(frame.number)
            exchange.answer = frame
            _raise_flag(exchange.event)


_STDERR = 2


class _Streams:
    """Takes Docker's own framing off: standard output and error, interleaved.

    See "Attach to a container" of the Docker Engine API: one byte of kind, three of nothing,
    four of length. It is the daemon that writes this, not the container.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._kind = self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Pieces of output with their kind, 1 or 2."""
        at = 0
        while at < len(data):
            if self._left == 0:
                take = 8 - len(self._head)
                self._head += data[at : at + take]
                at += take
                if len(self._head) == 8:
                    self._kind, self._left = struct.unpack(">B3xI", self._head)
                    self._head.clear()
                continue
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            yield self._kind, piece


def _raise_flag(event: int) -> None:
    if event >= 0:
        os.eventfd_write(event, 1)


def _close(*events: int) -> None:
    for event in events:
        os.close(event)


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _disown_all() -> None:
    # A forked process that kept the stream open would keep the container after the host's end.
    for link in list(_links):
        link.disown()


os.register_at_fork(after_in_child=_disown_all)
