"""A far end that says what it likes to a real `Process`: for the tests and `scripts/fuzz_frames`.

A play is a list of acts on the three sockets that a session and the fork server hold. After each
act the conversation with the process takes a step, as it would when its sockets become ready;
when the play is over the far end hangs up, and the conversation must come to its end.
"""

import socket
from contextlib import suppress
from pathlib import Path

from palestra.sandbox import Execution, Limits, SandboxError, Status
from palestra.sandbox.local import wire
from palestra.sandbox.local.process import Process
from palestra.sandbox.local.verdict import ending, judge
from palestra.sandbox.local.waiting import drive

LIMITS = Limits(output_bytes=200, output_kill_bytes=5000)
STEPS = 400  # far above what any play needs: each step reads hundreds of packets
CONTROL = 3  # the server's own socket, beside those of the session
# Which socket (0: packets, 1: stdout, 2: stderr), what, how many descriptors with it.
Act = tuple[int, bytes, int]


class FarEnd:
    """Holds what the server and the session would hold."""

    def __init__(self) -> None:
        self._control, self._server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = Process(1, LIMITS, self._control)
        drive(self.process.announce({"op": "open", "seed": 0}))
        _, handles, _, _ = socket.recv_fds(self._server, wire.CHUNK, 3)
        self._ends = [socket.socket(fileno=handle) for handle in handles]
        for end in self._ends:
            end.setblocking(False)

    def act(self, act: Act) -> None:
        """Send, as far as there is room; an empty text hangs that socket up."""
        which, data, descriptors = act
        with suppress(OSError):
            if which == CONTROL:
                self._server.close()
            elif not data:
                self._ends[which].close()
            elif descriptors and which == 0:
                socket.send_fds(self._ends[0], [data], [self._ends[1].fileno()] * descriptors)
            else:
                self._ends[which].send(data)

    def close(self) -> None:
        for end in (*self._ends, self._control, self._server):
            end.close()
        self.process.close()


def follow(far: FarEnd, conversation, acts: list[Act]):
    """What a conversation comes to during a play: its value, or a SandboxError."""
    rest = list(acts)
    try:
        for _ in range(STEPS):
            next(conversation)
            if rest:
                far.act(rest.pop(0))
            else:
                for which in (0, 1, 2):
                    far.act((which, b"", 0))
    except StopIteration as stop:
        return stop.value
    except SandboxError as error:
        str(error).encode("utf-8", "replace")
        return error
    finally:
        conversation.close()
    raise AssertionError("the conversation does not end")


def play(first: list[Act], calls: list[list[Act]]) -> list[Execution | SandboxError | None]:
    """Start a process with `first`, then call it with each play of `calls` while it lives.

    Raises:
        AssertionError: something other than an execution or a SandboxError came of it.
    """
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    far, found = FarEnd(), []
    try:
        found.append(follow(far, far.process.await_ready(60.0), first))
        for number, acts in enumerate(calls, 1):
            if isinstance(found[-1], SandboxError):
                break
            request = wire.packets({"id": number, "code": ""})
            reply = follow(far, far.process.exchange(request, number, 60.0), acts)
            if isinstance(reply, SandboxError):
                found.append(reply)
                break
            ended = ending(reply, far.process) if far.process.gone or reply.killed else None
            execution = judge(far.process, reply, ended, "")
            _check(execution, ended is None)
            found.append(execution)
            if ended is not None:
                break
    finally:
        far.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors
    return found


def _check(execution: Execution, lives: bool) -> None:
    for text in (execution.stdout, execution.stderr, execution.value or ""):
        text.encode()
    assert execution.value is None or len(execution.value) <= 2 * LIMITS.output_bytes
    assert len(execution.stdout + execution.stderr) <= 2 * LIMITS.output_bytes + 1000
    assert lives == (execution.status in (Status.OK, Status.ERROR)) or (
        execution.status is Status.MEMORY
    )
    assert 0 <= execution.cpu_s < 1e9
    assert 0 <= execution.duration_s < 60
