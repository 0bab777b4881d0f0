"""Seccomp user notification: reading a suspended system call and answering it."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass

from .kernel import libc
from .seccomp import machine

_RECV, _SEND, _VALID, _ADDFD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
_NOTIF = struct.Struct("=QIIiIQ6Q")
_CONTINUE, _SETFD = 1, 1
_NAMES = {number: name for name, number in machine().calls.items()} if machine() else {}  # type: ignore[union-attr]


def _ioctl(listener: int, request: int, data: bytes | bytearray) -> None:
    """ioctl(2) that goes on after signals: an interrupted request had no effect."""
    buffer = (ctypes.c_char * len(data)).from_buffer(bytearray(data))
    while libc.ioctl(listener, ctypes.c_ulong(request), buffer) < 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    if isinstance(data, bytearray):
        data[:] = buffer.raw


@dataclass(frozen=True)
class Asked:
    """One suspended call: the thread (in the server's process namespace), name, arguments."""

    listener: int
    id: int
    tid: int
    name: str
    args: tuple[int, ...]

    def valid(self) -> bool:
        """Whether the caller still waits, so that its thread id was not reused meanwhile."""
        try:
            _ioctl(self.listener, _VALID, struct.pack("=Q", self.id))
        except OSError:
            return False
        return True

    def inject(self, source: int, target: int) -> None:
        """Put a copy of our descriptor into the caller, in place of its `target`."""
        request = struct.pack("=QIIII", self.id, _SETFD, source, target, 0)
        _ioctl(self.listener, _ADDFD, request)

    def allow(self) -> None:
        """Let the kernel carry the call out."""
        self._answer(0, _CONTINUE)

    def refuse(self, number: int = errno.EPERM) -> None:
        """Answer with an error."""
        self._answer(-number, 0)

    def pretend(self) -> None:
        """Answer 0 without doing anything."""
        self._answer(0, 0)

    def _answer(self, error: int, flags: int) -> None:
        try:
            _ioctl(self.listener, _SEND, struct.pack("=QqiI", self.id, 0, error, flags))
        except OSError:  # the caller was killed meanwhile
            pass


def receive(listener: int) -> Asked | None:
    """The next suspended call, or None when its caller died before we looked."""
    buffer = bytearray(_NOTIF.size)
    try:
        _ioctl(listener, _RECV, buffer)
    except OSError:
        return None
    number, tid, _, call, _, _, *args = _NOTIF.unpack(buffer)
    return Asked(listener, number, tid, _NAMES.get(call, ""), tuple(args))
