"""Standard input of a cell, inside its session: an unnamed file of the working folder.

A file and not a pipe: nobody has to feed it while the program runs, it can be sought in, and a
copy of the session gets its own. Like `child` this runs beside code that may replace a module's
functions, hence the names bound at import.
"""

# Paths here are plain strings: most go straight into system calls.

from __future__ import annotations

import errno
import io
import os
import sys

_open, _close, _dup2, _write = os.open, os.close, os.dup2, os.write
_lseek, _unlink, _fstat = os.lseek, os.unlink, os.fstat
_FileIO, _BufferedReader, _TextIOWrapper = io.FileIO, io.BufferedReader, io.TextIOWrapper


_Empty = tuple[io.TextIOWrapper, tuple[int, int]]  # a stream, and which file it reads


class Input:
    """Collects the bytes of the next cell's input and puts them in place of descriptor 0."""

    _before: _Empty | None = None  # what a session begins with

    @classmethod
    def expect_none(cls) -> None:
        """Make the standard input of sessions to come, whose first cells may have none."""
        cls._before = _put_stream_in_place(), _identity(0)

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._file = -1
        self._failed: OSError | None = None
        self._empty = self._before  # of the last cell, where it had no input

    def take(self, data: bytes) -> None:
        """More bytes; the first failure is kept for `put_in_place`."""
        try:
            if self._file < 0 and self._failed is None:
                self._file = _unnamed_file(self._folder)
            while data and self._failed is None:
                data = data[_write(self._file, data) :]
        except OSError as error:  # no space, or no descriptor left
            self._failed = error

    def put_in_place(self) -> None:
        """Make what was taken, or nothing, the standard input, under a new `sys.stdin`.

        Raises:
            OSError: the session has no space, or no descriptor, for its input.
        """
        taken, failed = self._file, self._failed
        if taken < 0 and failed is None and self._still_empty():
            return
        self._file, self._failed, self._empty = -1, None, None
        without = taken < 0
        if without:
            taken = _null()
        else:
            _lseek(taken, 0, os.SEEK_SET)
        if taken:
            _dup2(taken, 0)
            _close(taken)
        stream = _put_stream_in_place()
        if without:
            self._empty = stream, _identity(0)
        if failed is not None:
            raise OSError(failed.errno, f"no room for the standard input: {failed.strerror}")

    def _still_empty(self) -> bool:
        """Whether nothing has to be done for a cell without input after another one."""
        if self._empty is None:
            return False
        stream, null = self._empty
        if any(getattr(sys, name, None) is not stream for name in ("stdin", "__stdin__")):
            return False
        try:
            return not stream.closed and _identity(0) == null
        except (OSError, ValueError):  # closed, or detached
            return False


def _put_stream_in_place() -> io.TextIOWrapper:
    raw = _FileIO(0, closefd=False)
    stream = _TextIOWrapper(_BufferedReader(raw), "utf-8", errors="surrogateescape")
    sys.stdin = sys.__stdin__ = stream  # type: ignore[misc]
    return stream


def _identity(handle: int) -> tuple[int, int]:
    found = _fstat(handle)
    return found.st_dev, found.st_ino


def _null() -> int:
    return _make("/dev/null", os.O_RDONLY)


def _unnamed_file(folder: str) -> int:
    try:
        return _make(folder, os.O_RDWR | os.O_TMPFILE)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
    path = f"{folder}/.stdin"  # a file system that has no unnamed files
    handle = _make(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
    _unlink(path)
    return handle


def _make(path: str, how: int) -> int:
    try:
        return _open(path, how | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    _close(0)  # an earlier cell took every descriptor: what is left of its input makes room
    return _open(path, how, 0o600)
