"""The frames on the one stream between the host and a container.

A frame is a header (number of the request, length of the JSON, length of the raw bytes, each
four bytes, big-endian), a JSON object, and raw bytes. Whoever reads says for each number how
much it takes; nothing is unpickled. An answer has the number of its request; 0 is the
gateway's first word.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..local.wire import ProtocolError, parse

HEADER = struct.Struct(">III")
SMALL = 64 << 10  # JSON of requests and answers that carry no program and no output


@dataclass(frozen=True, slots=True)
class Room:
    """How many bytes of JSON and how many raw bytes a frame may have."""

    fields: int = SMALL
    body: int = 0


PLAIN = Room()


@dataclass(frozen=True, slots=True)
class Frame:
    """One request or answer."""

    number: int
    fields: dict[str, Any]
    body: bytes


def pack(number: int, fields: dict[str, Any], body: bytes = b"") -> bytes:
    """One frame as bytes.

    Raises:
        ValueError: over 4 GiB of one or the other.
    """
    data = json.dumps(fields).encode()
    try:
        return HEADER.pack(number, len(data), len(body)) + data + body
    except struct.error as error:
        raise ValueError(f"a frame of {len(data)} and {len(body)} bytes is too large") from error


class Reader:
    """Cuts a stream into frames."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._wanted: tuple[int, int, int] | None = None  # the header, once it is there

    def feed(self, data: bytes, room: Callable[[int], Room]) -> Iterator[Frame]:
        """Take what came; the frames that are whole.

        `room` says how much a frame of that number may have, before its bytes are taken.

        Raises:
            ProtocolError: a frame that is too large, or no JSON object.
        """
        self._data += data
        while True:
            if self._wanted is None and len(self._data) >= HEADER.size:
                self._wanted = _checked(HEADER.unpack_from(self._data), room)
                del self._data[: HEADER.size]
            if self._wanted is None:
                return
            number, text, raw = self._wanted
            if len(self._data) < text + raw:
                return
            fields = parse(self._data[:text])
            body = bytes(self._data[text : text + raw])
            del self._data[: text + raw]
            self._wanted = None
            yield Frame(number, fields, body)


def _checked(header: tuple[int, int, int], room: Callable[[int], Room]) -> tuple[int, int, int]:
    number, text, raw = header
    taken = room(number)
    if text > taken.fields or raw > taken.body:
        allowed = f"{taken.fields} and {taken.body}"
        raise ProtocolError(f"a frame of {text} and {raw} bytes where {allowed} are taken")
    return header
