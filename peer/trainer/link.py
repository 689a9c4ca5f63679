"""The trainer's end of the socketpair: messages are taken between steps or micro-batches."""

import select
import socket
from collections import deque

from talkoot.peer.trainer import protocol


class DaemonGone(Exception):  # noqa: N818 - reads well where it is caught
    """The daemon closed its end: there is nobody left to train for."""


class Link:
    """Blocking socket to the daemon. Not safe for threads."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setblocking(True)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._buffer = bytearray()
        self._inbox: deque[protocol.Command] = deque()

    def receive(self, *, timeout_s: float) -> protocol.Command | None:
        """The next command, or None when none came within `timeout_s` (0: look and go on).

        Raises DaemonGone at the end of the stream, ValueError on a malformed message.
        """
        waiting = self._look(timeout_s)
        if waiting is not None:
            self._inbox.popleft()
        return waiting

    def peek(self, *, timeout_s: float = 0) -> protocol.Command | None:
        """The command that `receive` gives next, if it is here by then. Raises as `receive` does."""
        return self._look(timeout_s)

    def _look(self, timeout_s: float) -> protocol.Command | None:
        if not self._inbox and self._poll.poll(timeout_s * 1000):
            self._read()
        return self._inbox[0] if self._inbox else None

    def send(self, message: protocol.Answer) -> None:
        """Send one message; waits while the daemon is behind. Raises DaemonGone."""
        try:
            self._sock.sendall(protocol.encode(message))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise DaemonGone from error

    def _read(self) -> None:
        try:
            data = self._sock.recv(protocol.MAX_MESSAGE_BYTES)
        except ConnectionResetError as error:
            raise DaemonGone from error
        if not data:
            raise DaemonGone
        self._buffer += data
        head = protocol.PREFIX.size
        while len(self._buffer) >= head:
            length = protocol.body_length(bytes(self._buffer[:head]))
            if len(self._buffer) < head + length:
                return
            self._inbox.append(protocol.decode_command(bytes(self._buffer[head : head + length])))
            del self._buffer[: head + length]
