"""The host's part in moving files: bounded reads and writes on descriptors from the server."""

from __future__ import annotations

import errno
import os
import stat

_PIECE = 1 << 20


def read(handle: int, max_bytes: int, path: str) -> bytes:
    """All of a regular file, however it changes meanwhile; closes `handle`.

    Raises:
        ValueError: it has more than `max_bytes`.
        FileNotFoundError: it is not a regular file.
    """
    pieces: list[bytes] = []
    with open(handle, "rb", buffering=0) as file:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file", path)
        size, expected, length = info.st_size, info.st_size, 0
        while size <= max_bytes and (piece := file.read(max(expected, _PIECE))):
            pieces.append(piece)
            length += len(piece)
            size = max(size, length)
            expected = 0
    if size > max_bytes:
        raise ValueError(f"{path!r} has {size} bytes or more; at most {max_bytes} are read")
    return b"".join(pieces)


def names(handle: int) -> list[str]:
    """The names that the server listed, each ended by a NUL; closes `handle`."""
    with open(handle, "rb") as file:
        return sorted(os.fsdecode(name) for name in file.read().split(b"\0") if name)


def write(handle: int, data: bytes, path: str) -> None:
    """Make `data` all of a regular file; closes `handle`.

    Raises:
        OSError: no space, in which case what the file held before is still there.
    """
    with open(handle, "wb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EEXIST, "not a regular file", path)
        try:
            _reserve(handle, len(data))
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            file.truncate(len(data))
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error


def _reserve(handle: int, size: int) -> None:
    """Have the space before anything is overwritten, where the file system can."""
    try:
        if size:
            os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
