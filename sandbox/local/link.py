"""The server's line to the zygote."""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import wire

_CREDENTIALS = struct.Struct("=iII")  # process, user, group


class ZygoteGone(Exception):
    """It has ended, and with it every session."""


@dataclass
class Link:
    """The server's ends of three sockets."""

    requests: socket.socket  # one at a time, answered at once
    reports: socket.socket  # of deaths
    uplink: socket.socket  # from new sessions: the listeners of their filters

    @classmethod
    def pair(cls) -> tuple[Link, list[socket.socket]]:
        """A link and the far ends of its sockets."""
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
        link = cls(*(own for own, _ in pairs))
        link.uplink.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # who sends a listener
        for end in (link.reports, link.uplink):
            end.setblocking(False)
        return link, [far for _, far in pairs]

    def close(self) -> None:
        """Let go of it, in a process that is not the server."""
        for end in (self.requests, self.reports, self.uplink):
            end.close()

    def fork(self, limits: dict[str, Any], handles: Sequence[int] = ()) -> int:
        """Have a session's process forked, without `handles` a spare; its process id.

        Raises:
            OSError: it cannot be.
        """
        socket.send_fds(self.requests, [json.dumps(limits).encode()], handles)
        answer = json.loads(self.requests.recv(wire.CHUNK) or b'{"error": "the zygote is gone"}')
        if "error" in answer:
            raise OSError(answer["error"])
        return int(answer["pid"])

    def listeners(self) -> Iterator[tuple[int, int]]:
        """Those that have come: process ids, as the kernel says, with descriptors."""
        space = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(_CREDENTIALS.size)
        while True:
            try:
                _, extra, _, _ = self.uplink.recvmsg(64, space, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            found = {kind: data for _, kind, data in extra}
            pid, _, _ = _CREDENTIALS.unpack(found[socket.SCM_CREDENTIALS])
            yield pid, int.from_bytes(found[socket.SCM_RIGHTS][:4], sys.byteorder)

    def deaths(self) -> Iterator[dict[str, Any]]:
        """Reports of processes that are dead: pid, status, cpu, rss.

        Raises:
            ZygoteGone: there will be no more.
        """
        while True:
            try:
                data = self.reports.recv(wire.CHUNK)
            except BlockingIOError:
                return
            if not data:
                raise ZygoteGone
            yield json.loads(data)
