"""The process that sessions are forked from: it forks on request and reports deaths.

It does nothing else, on purpose. Whatever it writes to after a fork has to be copied by the
kernel, and whatever it knows every session can read; so the bookkeeping is the server's, a
process of its own that was forked before the libraries were loaded. As process 1 of its
namespace it is the parent of every session and inherits every orphan.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections import deque
from typing import Any

from . import kernel, wire
from .lockin import LockIn
from .spawn import become_session


class Zygote:
    """Serves the server's `requests`; `reports` take deaths, `uplink` the listeners."""

    def __init__(
        self,
        lock_in: LockIn,
        requests: socket.socket,
        reports: socket.socket,
        uplink: socket.socket,
    ) -> None:
        self._lock_in = lock_in
        self._requests = requests
        self._reports = reports
        self._uplink = uplink
        self._dead: deque[bytes] = deque()
        self._wakeup, signals = socket.socketpair()
        for end in (self._wakeup, signals, reports):
            end.setblocking(False)
        self._signals = signals
        signal.set_wakeup_fd(signals.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        kernel.only_deaths()

    def run(self) -> None:
        """Serve until the server is gone."""
        poller = select.poll()
        poller.register(self._requests, select.POLLIN)
        poller.register(self._wakeup, select.POLLIN)
        while True:
            poller.register(self._reports, select.POLLOUT if self._dead else 0)
            for descriptor, _ in poller.poll():
                if descriptor == self._wakeup.fileno():
                    self._wakeup.recv(4096)
                    self._reap()
                elif descriptor == self._requests.fileno() and not self._fork():
                    return
            self._report()

    def _fork(self) -> bool:
        """Answer one request; False when the server has hung up."""
        data, handles, _, _ = socket.recv_fds(self._requests, wire.CHUNK, 3)
        if not data:
            return False
        limits = json.loads(data)  # here, and not once more in every session
        try:
            pid = self._lock_in.fork()
        except OSError as error:
            answer: dict[str, Any] = {"error": f"fork: {error}"}
        else:
            if pid == 0:
                become_session(self._lock_in, limits, self._uplink.fileno(), handles)
            answer = {"pid": pid}
        for handle in handles:
            os.close(handle)
        self._requests.send(json.dumps(answer).encode())
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            report = {
                "pid": pid,
                "status": os.waitstatus_to_exitcode(status),
                "cpu": usage.ru_utime + usage.ru_stime,
                "rss": usage.ru_maxrss << 10,
            }
            self._dead.append(json.dumps(report).encode())

    def _report(self) -> None:
        """Never waits: the server may be waiting for us at this moment."""
        while self._dead:
            try:
                self._reports.send(self._dead[0])
            except BlockingIOError:
                return
            self._dead.popleft()
