"""A D-Bus daemon of our own with the services of a desktop on it, whose properties a test sets."""

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

dbus_fast = pytest.importorskip("dbus_fast", reason="NO DESKTOP WAS ASKED: dbus-fast is not installed")

needs_dbus = pytest.mark.skipif(
    shutil.which("dbus-daemon") is None,
    reason="NO DESKTOP WAS ASKED: there is no dbus-daemon (apt install dbus)",
)

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={socket}</listen><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy></busconfig>
"""


@contextmanager
def bus_daemon(folder: Path) -> Iterator[str]:
    """Its address, while it runs."""
    config = folder / "bus.conf"
    config.write_text(CONFIG.format(socket=folder / "bus"))
    command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        try:
            assert address, process.stderr and process.stderr.read().decode()
            yield address.partition(",guid")[0]
        finally:
            process.terminate()


class Service:
    """One service with one object, whose properties are those of a dictionary."""

    def __init__(self, bus: Any, name: str, path: str, interface: str) -> None:
        self._bus, self.name, self._path, self._interface = bus, name, path, interface
        self.properties: dict[str, tuple[str, object]] = {}
        """Signature and value by name."""
        self.silent = False

    def answer(self, message: Any) -> Any:
        """To `Properties.Get`."""
        if message.member != "Get" or message.path != self._path:
            return None
        if self.silent:
            return True  # it is dealt with: never
        interface, name = message.body
        if interface != self._interface or name not in self.properties:
            return dbus_fast.Message.new_error(message, "org.freedesktop.DBus.Error.UnknownProperty", name)
        signature, value = self.properties[name]
        return dbus_fast.Message.new_method_return(message, "v", [dbus_fast.Variant(signature, value)])

    async def leave(self) -> None:
        """It does not run any more."""
        self._bus.disconnect()
        await self._bus.wait_for_disconnect()


@asynccontextmanager
async def service(address: str, name: str, path: str, interface: str) -> AsyncIterator[Service]:
    """A service on the bus, in this process."""
    from dbus_fast.aio import MessageBus

    bus = await MessageBus(bus_address=address).connect()
    served = Service(bus, name, path, interface)
    bus.add_message_handler(served.answer)
    await bus.request_name(name)
    try:
        yield served
    finally:
        if bus.connected:
            await served.leave()
