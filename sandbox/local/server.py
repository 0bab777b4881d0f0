"""The server's loop: sessions are made, watched, and reported on when they end.

One thread, one epoll. It has sessions forked on the host's command, kills those whose host
hung up or whose CPU clock ran out, and is the only one to say how a session ended.
"""

# Paths here are plain strings: most go straight into system calls.

from __future__ import annotations

import errno
import itertools
import json
import os
import select
import signal
import socket
from collections import ChainMap
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from . import kernel, tasks, wire, workfiles
from .cgroup import Kills, make_first_victim
from .copies import Copies, Copy, Family
from .isolation import Walls
from .link import Link
from .live import Clocks, Live
from .notify import receive
from .ready import Spare, Spares

BATCH = 4  # commands between two looks at everything else


class Server:
    """One epoll loop over the control socket, hang-ups, deaths and CPU clocks."""

    def __init__(
        self, control: socket.socket, walls: Walls, zygote: Link, kills: Kills, ready: int
    ) -> None:
        self._control = control
        self._kills = kills
        self._zygote = zygote
        control.setblocking(False)
        self._walls = walls
        self._by_pid: dict[int, Live] = {}
        self._by_sid: dict[int, Live] = {}
        self._by_fd: dict[int, Live] = {}
        self._processes = walls.profile.processes
        self._clocks = Clocks(
            self._by_pid, tasks.cpu_seconds if self._processes else kernel.cpu_seconds
        )
        self._rest = tasks.Rest(self._restless)
        self._families: dict[int, Family] = {}
        self._spares = Spares(ready if walls.supervised else 0, self._fork_session)
        self._copies: Copies | None = None
        if "fork" not in walls.missing:
            known = ChainMap[int, Any](self._by_pid, self._spares.by_pid)
            self._copies = Copies(self._adopt, self._abandon, known)
        self._half_made: dict[int, int] = {}
        self._farewells: dict[int, tuple[socket.socket, bytes]] = {}
        self._epoll = select.epoll()
        for source in (control, zygote.reports, zygote.uplink):
            self._epoll.register(source, select.EPOLLIN)

    def run(self) -> None:
        """Serve until the host hangs up; ZygoteGone when the zygote does."""
        while True:
            pause = self._check_clocks()
            lacking = self._spares.lacking()
            events = self._epoll.poll(0 if lacking else pause)
            ready = {descriptor for descriptor, _ in events}
            # A few at a time: a queue of opens must not keep deaths and hang-ups waiting.
            if self._control.fileno() in ready and not self._commands(BATCH):
                return
            if self._zygote.uplink.fileno() in ready:
                self._listeners()
            for descriptor in ready:
                self._attend(descriptor)
            if self._zygote.reports.fileno() in ready:
                for report in self._zygote.deaths():
                    self._bury(report)
            if lacking and not events:  # nobody waits for anything
                self._spares.make()

    def _attend(self, descriptor: int) -> None:
        if descriptor in self._families:
            if _polled(descriptor) & select.POLLIN:  # else to read it would be to wait
                self._decide(descriptor)
            elif _hung_up(descriptor):  # the last process' death will be reported soon
                self._epoll.unregister(descriptor)
        elif descriptor in self._farewells:
            self._farewell(*self._farewells.pop(descriptor))
        elif not _hung_up(descriptor):
            pass  # the event was of another socket that had this number until a moment ago
        elif descriptor in self._by_fd:
            self._kill(self._by_fd[descriptor], "host")
        elif descriptor in self._half_made:
            self._abandon(self._half_made[descriptor], "the host gave up")

    def _decide(self, listener: int) -> None:
        """A suspended call: a spare reports, or a session asks for something."""
        asked = receive(listener)
        if asked is None:
            return
        spare = self._spares.reports(asked)
        if spare is not None:
            self._hand_over(spare)
            return
        if self._copies is None:
            asked.refuse()
            return
        if asked.name == "clone":  # the host's wish is queued before it
            self._commands(None)
        self._copies.decide(asked, self._families[listener])

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
            elif message["op"] in ("rest", "wake"):
                self._halt(message)
            elif message["op"] == "files":
                self._files(message, socket.socket(fileno=handles[0]))
            elif message["op"] == "cpu" and message["sid"] in self._by_sid:
                self._clocks.renew(self._by_sid[message["sid"]], message["seconds"])
        return True

    def _open(self, message: dict[str, Any], handles: list[int]) -> None:
        """Use a spare, or one that is being made, or have a process forked."""
        spare = self._spares.find(message["limits"])
        if spare is None:
            self._open_new(message, handles)
            return
        spare.promised = message, handles
        if spare.asked is not None:
            self._hand_over(spare)

    def _open_new(self, message: dict[str, Any], handles: list[int]) -> None:
        try:
            pid = self._fork_session(message["limits"], handles)
        except OSError as error:
            self._farewell(socket.socket(fileno=handles[0]), _exit_frame(error=str(error)))
            for handle in handles[1:]:
                os.close(handle)
        else:
            self._settle(message, handles, pid)

    def _hand_over(self, spare: Spare) -> None:
        """Make the session that a waiting spare was promised to."""
        if spare.promised is None or spare.asked is None:
            return
        message, handles = spare.promised
        try:
            for source, target in zip(handles, (3, 1, 2), strict=True):
                spare.asked.inject(source, target)
        except OSError:  # it was killed in its sleep; its burial sees to the promise
            self._spares.retire(spare)
            return
        del self._spares.by_pid[spare.pid]
        spare.asked.pretend()
        self._settle(message, handles, spare.pid, spare.family)

    def _settle(
        self, message: dict[str, Any], handles: list[int], pid: int, family: Family | None = None
    ) -> None:
        """From here on the process is a session."""
        for handle in handles[1:]:
            os.close(handle)
        limits, session = message["limits"], socket.socket(fileno=handles[0])
        live = Live(message["sid"], pid, session, limits["cpu_s"], limits["tasks"], family=family)
        self._watch(live)

    def _fork_session(self, limits: dict[str, Any], handles: Sequence[int] = ()) -> int:
        pid = self._zygote.fork(limits, handles)
        if self._walls.supervised:  # the proc file system in view is of our own namespace
            make_first_victim(pid)
        return pid

    def _listeners(self) -> None:
        """Take in the listeners of new sessions: from then on their calls are decided."""
        for pid, listener in self._zygote.listeners():
            owner = self._by_pid.get(pid) or self._spares.by_pid.get(pid)
            if owner is None:
                os.close(listener)
                continue
            owner.family = self._families[listener] = Family(listener, owner.tasks, {pid})
            self._epoll.register(listener, select.EPOLLIN)

    def _halt(self, message: dict[str, Any]) -> None:
        """A call has ended, or is about to begin: the session's processes stop, or go on."""
        live = self._by_sid.get(message["sid"])
        if live is None or not self._processes:
            return
        if message["op"] == "rest":
            self._rest.begin(live.pid)
        else:
            self._clocks.renew(live, message["seconds"])
            self._rest.end(live.pid)

    def _restless(self, pid: int) -> None:
        if pid in self._by_pid:
            self._kill(self._by_pid[pid], "restless")

    def _files(self, message: dict[str, Any], reply: socket.socket) -> None:
        """The host wants to read, write or list a session's files."""
        live = self._by_sid.get(message["sid"])
        if live is None:
            workfiles.refuse(reply, errno.ESRCH, "the session is gone")
        else:
            workfiles.answer(message, live.pid, self._walls.scratch, reply)

    def _leave_family(self, dead: Live | Spare) -> None:
        family = dead.family
        if family is not None:
            family.members.discard(dead.pid)
            if not family.members:
                del self._families[family.listener]
                with suppress(FileNotFoundError):
                    self._epoll.unregister(family.listener)
                os.close(family.listener)

    def _fork(self, message: dict[str, Any], handles: list[int]) -> None:
        """The host is about to ask a session to copy itself."""
        self._listeners()
        parent = self._by_sid.get(message["of"])
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

    def _abandon(self, parent: int, why: str, shortage: bool = False) -> None:
        """Give up a copy under way, if there is one."""
        if self._copies is None:
            return
        handle = self._copies.abandon(parent)
        if handle is not None:
            del self._half_made[handle]
            frame = _exit_frame(error=why, shortage=shortage)
            self._farewell(socket.socket(fileno=handle), frame)

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
        self._by_pid[live.pid] = self._by_sid[live.sid] = live
        self._by_fd[live.socket.fileno()] = live
        self._clocks.watch(live)
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

    def _kill(self, live: Live, reason: str) -> None:
        live.reason = live.reason or reason
        self._unwatch(live.socket)
        with suppress(ProcessLookupError):
            os.kill(live.pid, signal.SIGKILL)

    def _bury(self, report: dict[str, Any]) -> None:
        """What a dead process leaves behind; the host is told if it was a session."""
        pid = report.pop("pid")
        killed = report["status"] == -signal.SIGKILL
        live, spare = self._by_pid.pop(pid, None), self._spares.buried(pid)
        by_us = live.reason if live is not None else spare is None or spare.retired
        out_of_memory = killed and not by_us and self._kills.claim()
        if spare is not None:
            self._leave_family(spare)
            if spare.promised is not None:
                self._open_new(*spare.promised)
        if live is None:  # a spare, or what a spoilt copy left behind
            if self._copies is not None:
                self._copies.lost(pid, report["status"])
            return
        del self._by_fd[live.socket.fileno()], self._by_sid[live.sid]
        self._rest.forget(pid)
        self._abandon(pid, "the session ended while it was being copied")
        if self._copies is not None:
            self._copies.buried(pid)
        self._leave_family(live)
        self._walls.clean_up(pid)
        self._farewell(
            live.socket,
            _exit_frame(reason="memory" if out_of_memory else live.reason, **report),
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
        for live in self._clocks.run_out():
            self._kill(live, "cpu")
        copies = self._copies.check() if self._copies else float("inf")
        pause = min(self._clocks.pause(), copies, self._rest.check())
        return None if pause == float("inf") else pause


def _polled(descriptor: int) -> int:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN | select.POLLRDHUP)
    return sum(event for _, event in poller.poll(0))


def _hung_up(descriptor: int) -> bool:
    return bool(_polled(descriptor) & ~select.POLLIN)


def _exit_frame(**fields: Any) -> bytes:
    return wire.EXIT + json.dumps(fields).encode()
