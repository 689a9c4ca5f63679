"""Properties of services on D-Bus, asked for now and then. Needs the extra `desktop` (dbus-fast)."""

import asyncio
import importlib
import math
import os
from contextlib import suppress
from typing import Any, Literal

from talkoot.peer import clock
from talkoot.peer.guest.yielding import Unknown

ANSWER_S = 1.0
"""Longest wait for an answer."""

RETRY_S = 30.0
"""Between two tries to reach a bus."""

GONE = ("ServiceUnknown", "NameHasNoOwner")
"""Ends of the names of errors that say that nobody serves it."""


class Absent(Unknown):
    """The bus is there, the service does not run."""


class Bus:
    """The system's bus, or the session's. On the event loop."""

    def __init__(self, kind: Literal["system", "session"], address: str = "") -> None:
        """`address`: instead of the usual one."""
        self._kind: Literal["system", "session"] = kind
        self._address = address
        self._bus: Any = None
        self._dbus: Any = None
        """The package."""
        self._tried_s = -math.inf
        self._why = ""

    @property
    def connected(self) -> bool:
        """Whether it is reached, as far as is known."""
        return self._bus is not None and bool(self._bus.connected)

    async def get(self, service: str, path: str, interface: str, name: str) -> object:
        """Value of one property; Absent or Unknown where there is none. Starts no service."""
        if not await self._reached():
            return Unknown(self._why)
        dbus = self._dbus
        question = dbus.Message(
            destination=service,
            path=path,
            interface="org.freedesktop.DBus.Properties",
            member="Get",
            signature="ss",
            body=[interface, name],
            flags=dbus.MessageFlag.NO_AUTOSTART,
        )
        short = service.rpartition(".")[2]
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._bus.call(question)
        except (OSError, EOFError, TimeoutError, dbus.DBusFastError) as error:
            await self.close()
            return Unknown(f"{short} does not answer: {error or type(error).__name__}")
        if answer.message_type is dbus.MessageType.ERROR:
            if str(answer.error_name).endswith(GONE):
                return Absent(f"{short} does not run")
            return Unknown(f"{short} says: {answer.error_name}")
        return answer.body[0].value

    async def _reached(self) -> bool:
        if self.connected:
            return True
        await self.close()
        if clock.now() - self._tried_s < RETRY_S:
            return False
        self._tried_s = clock.now()
        try:
            self._dbus = dbus = await asyncio.to_thread(importlib.import_module, "dbus_fast")
            aio = await asyncio.to_thread(importlib.import_module, "dbus_fast.aio")
        except ImportError:
            self._why = "the package dbus-fast is not installed (pip install 'talkoot[desktop]')"
            return False
        try:
            async with asyncio.timeout(ANSWER_S):
                self._bus = await self._connect(dbus, aio)
        except (OSError, EOFError, TimeoutError, KeyError, dbus.DBusFastError):
            self._why = f"there is no {self._kind} bus"
            return False
        return True

    async def _connect(self, dbus: Any, aio: Any) -> Any:
        kind = dbus.BusType.SYSTEM if self._kind == "system" else dbus.BusType.SESSION
        try:
            bus = aio.MessageBus(bus_address=self._address or None, bus_type=kind)
        except dbus.InvalidAddressError:
            if self._kind == "system":
                raise
            # Where systemd has it, also for what was not started from the desktop.
            bus = aio.MessageBus(bus_address=f"unix:path=/run/user/{os.getuid()}/bus")
        return await bus.connect()

    async def close(self) -> None:
        """Hang up; the next question connects again."""
        if self._bus is not None:
            self._bus.disconnect()
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await self.lost()
            self._bus = None

    async def lost(self) -> None:
        """Wait until the connection is gone."""
        with suppress(OSError, EOFError):
            await self._bus.wait_for_disconnect()
