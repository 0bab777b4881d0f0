"""The fork server's loop: sessions are forked, watched, and reported on when they end.

One thread, one epoll. It forks sessions on the host's command, kills those whose host hung up
or whose CPU clock ran out, and is the only one to say how a session ended.
"""

# Paths here are plain strings: most go straight into system calls.

from __future__ import annotations

import errno
import fcntl
import gc
import itertools
import json
import os
import select
import signal
import socket
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from . import child, kernel, wire, workfiles
from .copies import Copies, Copy, Family
from .isolation import Walls
from .notify import receive

BATCH = 4  # commands between two looks at everything else


@dataclass
class Live:
    """One session as the server sees it."""

    sid: int
    pid: int
    socket: socket.socket  # the session's own end: writes reach the host
    cpu_limit: float  # absolute, in seconds of the process' CPU clock
    tasks: int
    reason: str = ""
    family: Family | None = None


class Server:
    """One epoll loop over the control socket, hang-ups, deaths and CPU clocks."""

    def __init__(self, control: socket.socket, walls: Walls) -> None:
        self._control = control
        control.setblocking(False)
        self._walls = walls
        self._by_pid: dict[int, Live] = {}
        self._by_fd: dict[int, Live] = {}
        self._families: dict[int, Family] = {}
        self._copies: Copies | None = None
        if "fork" not in walls.missing:
            self._copies = Copies(self._adopt, self._abandon, self._by_pid)
        self._half_made: dict[int, int] = {}
        self._farewells: dict[int, tuple[socket.socket, bytes]] = {}
        self._epoll = select.epoll()
        self._wakeup, deaths = socket.socketpair()
        for end in (self._wakeup, deaths):
            end.setblocking(False)
        self._deaths = deaths
        signal.set_wakeup_fd(deaths.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        kernel.only_deaths()
        self._uplink, self._downlink = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._uplink.setblocking(False)
        for source in (control, self._wakeup, self._uplink):
            self._epoll.register(source, select.EPOLLIN)

    def run(self) -> None:
        """Serve until the host hangs up."""
        while True:
            try:
                events = self._epoll.poll(self._check_clocks())
            except InterruptedError:
                continue
            # A few at a time: a queue of opens must not keep deaths and hang-ups waiting.
            if not self._commands(BATCH):
                return
            self._listeners()
            for descriptor, event in events:
                if descriptor == self._wakeup.fileno():
                    self._wakeup.recv(4096)
                elif descriptor in self._families and event & select.EPOLLIN:
                    asked = receive(descriptor)
                    if asked is not None and self._copies is not None:
                        if asked.name == "clone":  # the host's wish is queued before it
                            self._commands(None)
                        self._copies.decide(asked, self._families[descriptor])
                elif descriptor in self._by_fd:
                    self._kill(self._by_fd[descriptor], "host")
                elif descriptor in self._half_made:
                    self._abandon(self._half_made[descriptor], "the host gave up")
                elif descriptor in self._farewells:
                    self._farewell(*self._farewells.pop(descriptor))
            self._reap()

    def _commands(self, at_most: int | None) -> bool:
        """Read waiting commands; False when the host has gone."""
        for _ in itertools.count() if at_most is None else range(at_most):
            try:
                data, handles, _, _ = socket.recv_fds(self._control, wire.CHUNK, 8)
            except BlockingIOError:
                break
            except ConnectionResetError:
                return False
            if not data:
                return False
            message = wire.parse(data)
            if message["op"] == "open":
                self._open(message, handles)
            elif message["op"] == "fork":
                self._fork(message, handles)
            elif message["op"] == "files":
                self._files(message, socket.socket(fileno=handles[0]))
            elif message["op"] == "cpu":
                for live in self._by_pid.values():
                    if live.sid == message["sid"]:
                        self._renew(live, message["seconds"])
        return True

    def _open(self, message: dict[str, Any], handles: list[int]) -> None:
        session = socket.socket(fileno=handles[0])
        try:
            pid = os.fork()
        except OSError as error:
            self._farewell(session, _exit_frame(error=f"fork: {error}"))
            for handle in handles[1:]:
                os.close(handle)
            return
        if pid == 0:
            self._become_session(message, handles)
        for handle in handles[1:]:
            os.close(handle)
        limits = message["limits"]
        self._watch(Live(message["sid"], pid, session, limits["cpu_s"], limits["tasks"]))

    def _become_session(self, message: dict[str, Any], handles: list[int]) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            null = os.open("/dev/null", os.O_RDONLY)
            # Move everything out of the way of 0..3 before putting it there.
            wanted = (null, *handles[1:], handles[0], self._downlink.fileno())
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 16) for fd in wanted]
            for target, source in enumerate(high):
                os.dup2(source, target)
            kernel.close_from(5)
            limits = message["limits"]
            self._walls.confine(limits, socket.socket(fileno=4))
            child.seed_everything(message["seed"])
            gc.enable()
        except BaseException:  # noqa: BLE001 - reported through the exit code and stderr
            os.write(2, traceback.format_exc().encode())
            os._exit(child.EXIT_SETUP)
        child.serve(limits["output_bytes"])

    def _listeners(self) -> None:
        """Take in the listeners of new sessions: from then on their calls are decided."""
        while True:
            try:
                data, handles, _, _ = socket.recv_fds(self._uplink, 64, 1)
            except BlockingIOError:
                return
            live = self._by_pid.get(int(data))
            if live is None:
                os.close(handles[0])
                continue
            live.family = self._families[handles[0]] = Family(handles[0], live.tasks, {live.pid})
            self._epoll.register(handles[0], select.EPOLLIN)

    def _files(self, message: dict[str, Any], reply: socket.socket) -> None:
        """The host wants to read, write or list a session's files."""
        live = next((one for one in self._by_pid.values() if one.sid == message["sid"]), None)
        if live is None:
            workfiles.refuse(reply, errno.ESRCH, "the session is gone")
        else:
            workfiles.answer(message, live.pid, self._walls.scratch, reply)

    def _leave_family(self, live: Live) -> None:
        self._abandon(live.pid, "the session ended while it was being copied")
        if self._copies is not None:
            self._copies.buried(live.pid)
        family = live.family
        if family is not None:
            family.members.discard(live.pid)
            if not family.members:
                del self._families[family.listener]
                self._epoll.unregister(family.listener)
                os.close(family.listener)

    def _fork(self, message: dict[str, Any], handles: list[int]) -> None:
        """The host is about to ask a session to copy itself."""
        self._listeners()
        parent = next((p for p in self._by_pid.values() if p.sid == message["of"]), None)
        if self._copies is None or parent is None or parent.family is None:
            why = self._walls.missing.get("fork", "the session is gone")
            self._farewell(socket.socket(fileno=handles[0]), _exit_frame(error=why))
            for handle in handles[1:]:
                os.close(handle)
            return
        self._abandon(parent.pid, "another copy was asked for")
        self._copies.begin(Copy(message, parent.pid, parent.family, handles))
        self._half_made[handles[0]] = parent.pid
        self._epoll.register(handles[0], select.EPOLLRDHUP | select.EPOLLHUP)

    def _abandon(self, parent: int, why: str) -> None:
        """Give up a copy under way, if there is one."""
        if self._copies is None:
            return
        handle = self._copies.abandon(parent)
        if handle is not None:
            del self._half_made[handle]
            self._farewell(socket.socket(fileno=handle), _exit_frame(error=why))

    def _adopt(self, copy: Copy) -> None:
        """A copy is complete: from here on it is a session like any other."""
        limits = copy.message["limits"]
        for handle in copy.handles[1:]:
            os.close(handle)
        session = socket.socket(fileno=copy.handles[0])
        del self._half_made[session.fileno()]
        self._unwatch(session)
        copy.family.members.add(copy.pid)
        self._watch(
            Live(
                sid=copy.message["sid"],
                pid=copy.pid,
                socket=session,
                cpu_limit=limits["cpu_s"],
                tasks=limits["tasks"],
                family=copy.family,
            )
        )

    def _watch(self, live: Live) -> None:
        self._by_pid[live.pid] = self._by_fd[live.socket.fileno()] = live
        self._epoll.register(live.socket, select.EPOLLRDHUP | select.EPOLLHUP)
        handles = []
        try:
            handles.append(os.pidfd_open(live.pid))
            socket.send_fds(live.socket, [wire.PROCESS], handles, socket.MSG_DONTWAIT)
        except OSError:  # out of descriptors: the host cannot stop this one between calls
            with suppress(OSError):
                live.socket.send(wire.PROCESS, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        for handle in handles:
            os.close(handle)

    @staticmethod
    def _renew(live: Live, seconds: float) -> None:
        """From now on `seconds` of CPU, on top of what our own clock says was used."""
        with suppress(OSError):
            live.cpu_limit = kernel.cpu_seconds(live.pid) + seconds

    def _kill(self, live: Live, reason: str) -> None:
        live.reason = live.reason or reason
        self._unwatch(live.socket)
        with suppress(ProcessLookupError):
            os.kill(live.pid, signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            live = self._by_pid.pop(pid, None)
            if live is None:  # no session: what a spoilt copy left behind
                continue
            del self._by_fd[live.socket.fileno()]
            self._leave_family(live)
            self._walls.clean_up(pid)
            self._farewell(
                live.socket,
                _exit_frame(
                    status=os.waitstatus_to_exitcode(status),
                    reason=live.reason,
                    cpu=usage.ru_utime + usage.ru_stime,
                    rss=usage.ru_maxrss << 10,
                ),
            )

    def _farewell(self, end: socket.socket, frame: bytes) -> None:
        """Tell the host how the session ended; last word on that socket, then close it.

        The process is dead, so nothing it wrote can come after this frame.
        """
        self._unwatch(end)
        try:
            end.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:  # the dead session filled the queue; wait until it is read
            self._farewells[end.fileno()] = (end, frame)
            self._epoll.register(end, select.EPOLLOUT)
            return
        except OSError:
            pass
        end.close()

    def _unwatch(self, end: socket.socket) -> None:
        with suppress(FileNotFoundError):
            self._epoll.unregister(end)

    def _check_clocks(self) -> float | None:
        """Kill who is over; the time in which nobody else can get there."""
        soonest = self._copies.check() if self._copies is not None else float("inf")
        for live in self._by_pid.values():
            if live.reason:
                continue
            try:
                left = live.cpu_limit - kernel.cpu_seconds(live.pid)
            except OSError:
                continue
            if left <= 0:
                self._kill(live, "cpu")
            else:
                soonest = min(soonest, left / min(live.tasks, os.cpu_count() or 1))
        return None if soonest == float("inf") else max(0.02, soonest)


def _exit_frame(**fields: Any) -> bytes:
    return wire.EXIT + json.dumps(fields).encode()
