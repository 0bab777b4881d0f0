"""The host's end of one session process: sockets in, `Reply` out. Nothing it reads is trusted."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from ..types import Limits, SandboxError
from . import wire
from .descriptors import cpu_seconds, hung_up, pair, process_id
from .waiting import Conversation, Wait

START_S = 120.0  # a first session may have to wait for the server's imports
ANSWER_S = 3.0  # that a session has to say that it could not be copied
LINGER_S = 0.05  # a killed process may take longer to let go of its memory: nobody waits for it
BURST = 256  # reads before the clock is looked at again, however fast a program writes
LEAST_PACKET = 512  # bytes of a socket's buffer that the kernel counts for an empty packet
CPU_SLACK = 0.5  # seconds of CPU after which the limit is renewed with the server


@dataclass(slots=True)
class Reply:
    """What came back from one exchange.

    `answer` is the runner's frame, `killed` why the host killed the process, if it did.
    `out` and `err` are raw output, `until` is when waiting for it ends (monotonic seconds),
    `cpu` the CPU seconds that the process had used then, by its clock; 0 where unknown.
    """

    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    answer: dict[str, Any] | None = None
    killed: str = ""
    seconds: float = 0.0
    until: float = float("inf")
    cpu: float = 0.0


class Process:
    """One live interpreter. Made by `launch`; used by one call at a time."""

    def __init__(
        self, sid: int, limits: Limits, control: socket.socket, *, processes: bool = False
    ) -> None:
        self.sid = sid
        self.limits = limits
        self._processes = processes  # the session's programs may make some
        self.owner = os.getpid()
        self.cpu_used = 0.0
        self.cpu_limit = 0.0
        self.ready = False
        self.forking = False  # it was told to copy itself, and has not answered
        self._awaited = {wire.READY, wire.PROCESS}
        self._handle = -1  # a process descriptor, once the server has sent it
        self._pid = 0  # the same in numbers, where it has one in our namespace
        self._stopped = False
        self.gone = False
        self.exit: dict[str, Any] | None = None  # the server's last word on a dead process
        self._account = b""  # the last frame that may have been that
        self._server = control
        # A value of `output_bytes` characters, each at worst two escapes of six bytes.
        self._assembler = wire.Assembler(12 * limits.output_bytes + (64 << 10))
        pairs = [pair(socket.SOCK_SEQPACKET), pair(), pair()]
        self._ends = [own for own, _ in pairs]
        self._remote = [remote for _, remote in pairs]
        for end in self._ends:
            end.setblocking(False)

    def command(
        self, message: dict[str, Any], ends: Sequence[socket.socket] = ()
    ) -> Conversation[None]:
        """Send a command to the fork server, which gets `ends` for its own."""
        descriptors = [end.fileno() for end in ends]
        data = json.dumps(message).encode()
        while True:
            try:
                socket.send_fds(self._server, [data], descriptors)
                break
            except OSError as error:
                # A full queue, or too many descriptors in flight: the server is catching up.
                if error.errno not in (errno.EAGAIN, errno.ETOOMANYREFS):
                    raise SandboxError(f"the fork server is gone: {error}") from error
            yield Wait((), time.monotonic() + 0.005)
        for end in ends:
            end.close()

    def launch(self, seed: int) -> Conversation[None]:
        """Have the server make the process, and wait until it is ready."""
        yield from self.announce({"op": "open"})
        self._transmit(deque(wire.packets({"seed": seed})))
        yield from self.await_ready(START_S)

    def announce(self, op: dict[str, Any]) -> Conversation[None]:
        """Tell the server of this session, and hand over its ends of the sockets."""
        if self._processes and op["op"] == "fork":
            raise SandboxError("a session cannot be forked whose programs may make processes")
        self.cpu_limit = self.limits.cpu_s + self._slack()
        limits = asdict(self.limits) | {"cpu_s": self.cpu_limit}
        message = {**op, "sid": self.sid, "limits": limits}
        yield from self.command(message, self._remote)

    def await_ready(self, wait_s: float) -> Conversation[None]:
        """Wait for the process' first word; SandboxError if it does not come."""
        reply = Reply()
        until = time.monotonic() + wait_s
        while not self.ready:
            self._receive(reply)
            if self.gone or time.monotonic() > until:
                self._drain(reply)
                why = self.exit or "the fork server is gone"
                text = reply.err[-2000:].decode(errors="replace")
                raise SandboxError(f"a session could not be set up: {why} {text}".strip())
            if not self.ready:
                yield Wait([self._ends[0].fileno()], until)

    def renew_cpu(self) -> Conversation[None]:
        """Make sure that the next call has its CPU seconds, and not many more.

        The server adds the seconds to its own figure of what was used.
        """
        if self.cpu_limit - self.cpu_used < self.limits.cpu_s:
            seconds = self.limits.cpu_s + self._slack()
            self.cpu_limit = self.cpu_used + seconds
            message = {"op": "cpu", "sid": self.sid, "seconds": seconds}
            yield from self.command(message)

    def _slack(self) -> float:
        return min(CPU_SLACK, self.limits.cpu_s / 4)

    def exchange(
        self,
        packets: Iterable[bytes],
        expect: int,
        wall_s: float,
        twin: Process | None = None,
        answer_s: float = ANSWER_S,
    ) -> Conversation[Reply]:
        """Send one frame and gather what comes until its answer or the end of the process.

        The process runs meanwhile, with every thread it has, and is stopped after its answer.
        `twin` is what it shall copy itself into: when that is given up it has to answer within
        `answer_s`.

        Raises:
            SandboxError: the process ended and nobody could say how.
        """
        start = time.monotonic()
        reply, queue = Reply(until=start + wall_s), deque(packets)
        descriptors = [end.fileno() for end in self._ends]
        self._transmit(queue)
        if self._processes:
            seconds = self.limits.cpu_s + self._slack()
            yield from self.command({"op": "wake", "sid": self.sid, "seconds": seconds})
        self.go_on()
        while True:
            others = [twin._ends[0].fileno()] if twin is not None else []
            yield Wait([*descriptors, *others], reply.until, descriptors[:1] if queue else ())
            self._transmit(queue)
            self._receive(reply, expect)
            if self.gone or (reply.answer is not None and not reply.killed):
                break
            self._drain(reply)
            late = time.monotonic() >= reply.until
            if late and reply.killed:
                break
            if late:
                self._kill(reply, "timeout")
            elif not reply.killed and len(reply.out) + len(reply.err) > self._output_kill():
                self._kill(reply, "output")
            if twin is not None and twin.has_ended():
                reply.until = min(reply.until, time.monotonic() + answer_s)
                twin = None
        self.stop()
        if not reply.killed and not self.gone:
            reply.cpu = cpu_seconds(self._pid)
        if self._processes and not self.gone:
            yield from self.command({"op": "rest", "sid": self.sid})
        self._drain(reply)
        reply.seconds = time.monotonic() - start
        self._tell_loss("the fork server died during a call")
        return reply

    def open_file(self, do: str, parts: list[str], size: int, until: float) -> Conversation[int]:
        """A descriptor on a file of the working folder, or on a list of them; see `workfiles`.

        Raises:
            ProcessLookupError: there is no such process any more.
            OSError: it cannot be opened.
            SandboxError: the server does not answer by `until` (monotonic seconds).
        """
        own, far = pair(socket.SOCK_SEQPACKET)
        with own, far:
            own.setblocking(False)
            request = {"op": "files", "sid": self.sid, "do": do, "parts": parts, "size": size}
            yield from self.command(request, [far])
            while True:
                try:
                    data, handles, _, _ = socket.recv_fds(own, 4096, 1, socket.MSG_CMSG_CLOEXEC)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise SandboxError("the fork server does not answer") from None
                yield Wait([own.fileno()], until)
        if handles:
            return handles[0]
        if not data:
            raise SandboxError("the fork server is gone")
        refused = _parsed(data) or {}
        number = refused.get("errno")
        if not isinstance(number, int):
            raise SandboxError("the fork server does not answer as it should")
        if do == "read" and number in (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO):
            number = errno.ENOENT
        raise OSError(number, str(refused.get("why")), "/".join(parts))

    def stop(self) -> None:
        """Keep the process from running between calls. Does nothing where that is refused."""
        self._stopped = not self.gone
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Undo `stop`."""
        if self._stopped:
            self._stopped = False
            self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._handle >= 0 and not self.gone:
            with suppress(OSError):
                signal.pidfd_send_signal(self._handle, number)

    def _output_kill(self) -> int:
        return self.limits.output_kill_bytes

    def _transmit(self, queue: deque[bytes]) -> None:
        while queue:
            try:
                self._ends[0].send(queue[0], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:  # it died; the end will be read as such
                queue.clear()
                return
            queue.popleft()

    def _drain(self, reply: Reply) -> None:
        for end, kept in ((self._ends[1], reply.out), (self._ends[2], reply.err)):
            # After the kill threshold the rest is read and dropped, so that nothing blocks.
            for _ in range(BURST):
                try:
                    data = end.recv(1 << 18)
                except OSError:
                    break
                if not data:
                    break
                if len(kept) <= self._output_kill():
                    kept += data
                elif not reply.killed:
                    break

    def died(self) -> bool:
        """Whether the process ended between two calls.

        Raises:
            SandboxError: it did, and the server with it.
        """
        ended = self.has_ended()
        self._tell_loss("the fork server died")
        return ended

    def has_ended(self) -> bool:
        """Whether the process is known to have ended; nothing that it says is listened to."""
        self._receive(Reply(killed="unasked"))
        return self.gone

    def _tell_loss(self, why: str) -> None:
        """Raise SandboxError if the process ended and the server did not say how.

        An account is only the server's own while that lives: a program can write one too.
        """
        if self.gone and (self.exit is None or hung_up(self._server)):
            raise SandboxError(why)

    def lost(self) -> bool:
        """Whether there is no use in it any more: it is dead, or will be with its server."""
        return self.gone or hung_up(self._server)

    def _receive(self, reply: Reply, expect: int = 0) -> None:
        for _ in range(BURST):
            if self.gone:
                return
            try:
                packet = self._packet()
            except BlockingIOError:
                return
            except ConnectionResetError:  # it left something unread; its last words follow
                continue
            except OSError:
                packet = b""
            if not packet and hung_up(self._ends[0]):
                packet = self._behind_empty()
                if not packet:
                    self.gone, self.exit = True, _parsed(self._account)
                    return
            if packet[:1] == wire.EXIT:
                # Anyone could write this; only the last one before the end is the server's.
                self._account = packet[1:]
            elif packet[:1] in (wire.READY, wire.PROCESS):
                self._awaited.discard(packet[:1])
                self.ready = not self._awaited
            elif not reply.killed:
                self._take(packet, reply, expect)

    def _behind_empty(self) -> bytes:
        """After a hang-up, the next packet that is not empty; b"" where there is none.

        A program can write empty packets, which read like the end, before the server's account.
        Nobody writes any more, and the sender's buffer bounds how many of them can be waiting.
        """
        with suppress(OSError):  # closed by us
            size = self._ends[0].getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            for _ in range(size // LEAST_PACKET + 1):
                if packet := self._packet():
                    return packet
        return b""

    def _packet(self) -> bytes:
        if wire.PROCESS not in self._awaited:
            return self._ends[0].recv(wire.CHUNK + 1)
        # Only the server can send descriptors: the filter has no call for it.
        packet, extra, _, _ = self._ends[0].recvmsg(
            wire.CHUNK + 1, socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC
        )
        for _, kind, data in extra:
            if kind == socket.SCM_RIGHTS and len(data) == 4:
                if self._handle >= 0:
                    os.close(self._handle)
                self._handle = int.from_bytes(data, sys.byteorder)
                self._pid = process_id(self._handle)
        return packet

    def _take(self, packet: bytes, reply: Reply, expect: int) -> None:
        """One packet of an answer: the one expected, once, or the process is killed."""
        try:
            message = self._assembler.feed(packet)
        except wire.ProtocolError:
            self._kill(reply, "protocol")
            return
        if message is None:
            return
        if reply.answer is not None or message.get("id") != expect:
            self._kill(reply, "protocol")
        else:
            reply.answer = message

    def _kill(self, reply: Reply, why: str) -> None:
        """Kill the process, and half-close: the server sees it, kills what we may not, and
        reports on the other half."""
        reply.killed = reply.killed or why
        reply.until = time.monotonic() + LINGER_S
        reply.cpu = cpu_seconds(self._pid)
        self._signal(signal.SIGKILL)
        with suppress(OSError):
            self._ends[0].shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """Kill the process; the server will say that it ended."""
        self._kill(Reply(), "")

    def end(self) -> None:
        """Kill the process; whoever waits for it learns that it is gone, and may close it."""
        self._signal(signal.SIGKILL)
        with suppress(OSError):
            self._ends[0].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up; the server kills the process. Idempotent."""
        for end in (*self._ends, *self._remote):
            end.close()
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        return wire.parse(data)
    except wire.ProtocolError:
        return None
