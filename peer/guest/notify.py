"""What systemd hears of a service with Type=notify: datagrams to the socket that it names (sd_notify(3)).

Without such a socket everything here does nothing.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

MAX_STATUS = 200
"""Characters of the line that `systemctl status` shows."""


class Notifier:
    """The supervisor of this process, if it has one. For any thread; never waits."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self.present = name.startswith(("/", "@")) and hasattr(socket, "AF_UNIX")
        """Whether there is somebody who listens, and starts us again."""
        self._status = ""

    def ready(self) -> None:
        """The start is over."""
        self._tell("READY=1")

    def alive(self) -> None:
        """A sign of life."""
        self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """It has begun to end."""
        self._tell("STOPPING=1")

    def status(self, words: str) -> None:
        """What it does, in one line; the same words again are not sent."""
        line = " ".join(words.split())[:MAX_STATUS]
        if line != self._status:
            self._status = line
            self._tell(f"STATUS={line}")

    def _tell(self, message: str) -> None:
        if not self.present:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
            ours.setblocking(False)
            ours.sendto(message.encode(), self._address)
