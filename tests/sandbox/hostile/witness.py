"""The host that attacks reach for: what it guards, and what it saw happen."""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

KEY = "PALESTRA_TEST_KEY"


class Witness:
    """A secret in a file, in the environment and in memory; a folder; two listeners.

    Made in the process that uses a back end, before the back end starts.
    """

    def __init__(self) -> None:
        self.token = f"a-SECRET-VALUE-{secrets.token_hex(16)}"
        self._parent = tempfile.TemporaryDirectory(prefix="palestra-test-")
        parent = Path(self._parent.name)
        self.secret, self.folder = parent / "secret", parent / "folder"
        self.folder.mkdir()
        self.secret.write_text(self.token)
        os.utime(self.secret, (1e9, 1e9))
        self.memory = ctypes.create_string_buffer(self.token.encode(), 64)
        os.environ[KEY] = self.token
        os.environ["HOME"] = str(self.folder)
        self.abstract = f"palestra-{secrets.token_hex(8)}"
        self._events: list[str] = []
        self._marks = set(_marks())
        self._state = _state()
        self._listeners = [self._listen(("127.0.0.1", 0)), self._listen(f"\0{self.abstract}")]
        self.port = self._listeners[0].getsockname()[1]
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1):
                signal.signal(number, self._signalled)

    def fill(self, code: str) -> str:
        """The program with what it is after filled in."""
        words = {
            "SECRET": str(self.secret),
            "FOLDER": str(self.folder),
            "HOST": str(os.getpid()),
            "PORT": str(self.port),
            "ABSTRACT": self.abstract,
            "NODE": os.uname().nodename,
            "ADDRESS": str(ctypes.addressof(self.memory)),
        }
        for name, value in words.items():
            code = code.replace(f"@{name}@", value)
        return code

    def harm(self, *outputs: str) -> tuple[str, ...]:
        """What happened since the last time, and whether the secret is in an output."""
        found, self._events = list(dict.fromkeys(self._events)), []
        if any(self.token in output for output in outputs):
            found.append("the secret was read")
        if any(mark in output for output in outputs for mark in self._marks):
            found.append("files of the host were read")
        if _state() != self._state:
            found.append(f"limits, priority or queues of the host: {_state()}, were {self._state}")
            self._state = _state()
        if self.memory.value != self.token.encode():
            found.append("the memory of the host was written to")
            self.memory.value = self.token.encode()
        found += [f"{path.name} was left on the host" for path in self.folder.iterdir()]
        for path in self.folder.iterdir():
            path.rmdir() if path.is_dir() else path.unlink()
        found += self._changed(self.secret, 0o644, self.token)
        return tuple(found)

    def _changed(self, path: Path, mode: int, text: str) -> list[str]:
        found = []
        if not path.is_file() or path.read_text() != text:
            found.append("a file of the host was changed")
            path.write_text(text)
        info = path.stat()
        if info.st_mode & 0o777 != mode & ~_umask() or info.st_nlink != 1 or info.st_mtime != 1e9:
            found.append("mode, times or links of a host file were changed")
            path.chmod(mode & ~_umask())
            os.utime(path, (1e9, 1e9))
        if self.folder.stat().st_mode & 0o777 != 0o777 & ~_umask():
            found.append("the mode of a host folder was changed")
            self.folder.chmod(0o777 & ~_umask())
        return found

    def _listen(self, address: Any) -> socket.socket:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        listener = socket.socket(family)
        listener.bind(address)
        listener.listen()
        kind = "socket" if isinstance(address, str) else "port"
        threading.Thread(target=self._accept, args=(listener, kind), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket, kind: str) -> None:
        while True:
            try:
                listener.accept()[0].close()
            except OSError:
                return
            self._events.append(f"a {kind} of the host was reached")

    def _signalled(self, number: int, _: object) -> None:
        self._events.append(f"the host got {signal.Signals(number).name}")

    def close(self) -> None:
        """Remove what it guards."""
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._parent.cleanup()
        os.environ.pop(KEY, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _marks() -> Iterator[str]:
    """How attacks show that they have read what belongs to the host alone."""
    for name in ("passwd", "shadow", "machine-id"):
        with suppress(OSError):
            yield hashlib.sha256(Path(f"/etc/{name}").read_bytes()).hexdigest()
    names = sorted(path.name for path in Path("/etc").iterdir())
    yield hashlib.sha256(repr(names).encode()).hexdigest()


def _state() -> tuple[object, ...]:
    """What can be changed from outside, or left for others to find."""
    queues = []
    for kind in ("msg", "sem", "shm"):
        with suppress(OSError):
            lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
            queues += [kind for line in lines if line.split()[0] == str(0x70616C65)]
    opened = ctypes.CDLL(None).mq_open(b"/palestra-attack", os.O_RDONLY)
    if opened >= 0:
        os.close(opened)
        queues.append("mq")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return limit, os.getpriority(os.PRIO_PROCESS, 0), tuple(queues)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
