"""The frames that host, fork server and session exchange.

Every socket is a unix `SOCK_SEQPACKET` pair: the kernel keeps message boundaries, so a
process killed in the middle of an answer cannot shift the frames of whoever writes next.
A frame is JSON cut into packets of at most `CHUNK` bytes; the first byte of a packet is its
kind. Both sides treat what they read as hostile: sizes are bounded and nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_dumps = json.dumps  # bound here, since this also runs beside code that may replace it

CHUNK = 32 << 10
FORK_S = 30.0  # a copy takes milliseconds
MAX_INPUT = 32 << 20
MAX_FRAME = 64 << 20  # a cell of source, or an echoed value; far above any sane use
MAX_DIGITS = 400

MORE = b"+"  # a frame goes on in the next packet
LAST = b"."  # the last (or only) packet of a frame
INPUT = b"<"  # raw bytes of the standard input of the call that follows
READY = b"R"  # the session is set up and waits for its first call
PROCESS = b"P"  # from the server, with a process descriptor: the session is one of its own
FORK = b"F"  # the session shall copy itself
EXIT = b"X"  # written by the server once the session is dead: how it ended


class ProtocolError(ValueError):
    """The peer sent something that is no frame."""


def packets(message: dict[str, Any]) -> Iterator[bytes]:
    """Cut one JSON message into packets."""
    data = _dumps(message).encode()
    if len(data) > MAX_FRAME:
        raise ValueError(f"a message of {len(data)} bytes is over the limit of {MAX_FRAME}")
    for start in range(0, len(data), CHUNK):
        kind = LAST if start + CHUNK >= len(data) else MORE
        yield kind + data[start : start + CHUNK]


def input_packets(data: bytes) -> Iterator[bytes]:
    """Cut a call's standard input into packets; they go before the call's frame."""
    for start in range(0, len(data), CHUNK):
        yield INPUT + data[start : start + CHUNK]


def parse(data: bytes | bytearray) -> dict[str, Any]:
    """One JSON object from an untrusted peer.

    Raises:
        ProtocolError: not a JSON object.
    """
    try:
        message = _decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not a JSON frame: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"expected a JSON object, got {type(message).__name__}")
    return message


def _integer(text: str) -> int:
    """Reading digits takes time that grows with their square; the host may have lifted Python's
    own limit on that."""
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


_decode = json.JSONDecoder(parse_int=_integer).decode


class Assembler:
    """Joins packets to frames."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._data = bytearray()

    def feed(self, packet: bytes) -> dict[str, Any] | None:
        """Take one packet of kind `MORE` or `LAST`; a message once it is whole."""
        if packet[:1] not in (MORE, LAST):
            raise ProtocolError(f"unexpected packet kind {packet[:1]!r}")
        self._data += packet[1:]
        if len(self._data) > self._limit:
            raise ProtocolError(f"a frame over {self._limit} bytes")
        if packet[:1] == MORE:
            return None
        data, self._data = self._data, bytearray()
        return parse(data)
