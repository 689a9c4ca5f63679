"""What desktops tell over D-Bus, asked of a real bus with services of ours on it."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dbus_rig import bus_daemon, needs_dbus, service

from talkoot.peer.guest.senses import bus as bus_module
from talkoot.peer.guest.senses.bus import Absent, Bus
from talkoot.peer.guest.senses.desktop import GameMode, Metered, UserActive
from talkoot.peer.guest.settings import GuestSettings
from talkoot.peer.guest.yielding import Found, Unknown

LOGIN = "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"
NETWORK = (
    "org.freedesktop.NetworkManager",
    "/org/freedesktop/NetworkManager",
    "org.freedesktop.NetworkManager",
)
GAMES = "com.feralinteractive.GameMode", "/com/feralinteractive/GameMode", "com.feralinteractive.GameMode"

pytestmark = needs_dbus


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with bus_daemon(tmp_path) as address:
        yield address


def test_a_network_that_costs_by_volume(address: str) -> None:
    async def scenario() -> None:
        bus = Bus("system", address)
        metered = Metered(bus)
        assert await metered.look() == Absent("NetworkManager does not run")
        async with service(address, *NETWORK) as network:
            assert isinstance(await metered.look(), Unknown), "it has no such property"
            seen = []
            for value in (0, 1, 2, 3, 4):
                network.properties["Metered"] = "u", value
                seen.append(await metered.look())
            network.properties["Metered"] = "s", "no"
            assert await metered.look() == Unknown("NetworkManager gives no number")
        assert seen == [
            None,
            Found("network", "the network is metered"),
            None,
            Found("network", "the network is probably metered"),
            None,
        ]
        assert isinstance(await metered.look(), Absent)
        await bus.close()

    asyncio.run(scenario())


def test_games_that_registered_themselves_and_none_where_nobody_asked_for_gamemode(address: str) -> None:
    async def scenario() -> None:
        bus = Bus("session", address)
        games = GameMode(bus)
        assert await games.look() is None
        async with service(address, *GAMES) as mode:
            mode.properties["ClientCount"] = "i", 0
            assert await games.look() is None
            mode.properties["ClientCount"] = "i", 2
            assert await games.look() == Found("game", "a game runs (GameMode has 2)")
        await bus.close()

    asyncio.run(scenario())


def test_somebody_is_there_until_the_login_manager_says_idle_for_long(address: str) -> None:
    async def scenario() -> None:
        bus = Bus("system", address)
        active = UserActive(bus)
        settings = GuestSettings(user_active=True, idle_s=300)
        async with service(address, *LOGIN) as login:
            login.properties["IdleSinceHint"] = "t", 0
            login.properties["IdleHint"] = "b", False
            assert await active.look(settings) == Found("user", "somebody uses the computer")
            login.properties["IdleHint"] = "b", True
            assert await active.look(settings) is None
            login.properties["IdleSinceHint"] = "t", int((time.time() - 290) * 1e6)
            assert isinstance(await active.look(settings), Found)
            login.properties["IdleSinceHint"] = "t", int((time.time() - 310) * 1e6)
            assert await active.look(settings) is None
        assert await active.look(settings) == Absent("login1 does not run")
        await bus.close()

    asyncio.run(scenario())


def test_a_service_that_does_not_answer_and_a_bus_that_goes_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "ANSWER_S", 0.2)
    monkeypatch.setattr(bus_module, "RETRY_S", 0.0)

    async def scenario() -> None:
        with bus_daemon(tmp_path) as address:
            bus = Bus("system", address)
            metered = Metered(bus)
            async with service(address, *NETWORK) as network:
                network.properties["Metered"] = "u", 1
                network.silent = True
                silent = await metered.look()
                assert isinstance(silent, Unknown)
                assert "does not answer" in silent.why
                network.silent = False
                monkeypatch.setattr(bus_module, "ANSWER_S", 30.0)
                assert isinstance(await metered.look(), Found)
        await bus.lost()
        assert await metered.look() == Unknown("there is no system bus")
        with bus_daemon(tmp_path) as address:
            async with service(address, *NETWORK) as network:
                network.properties["Metered"] = "u", 2
                assert await metered.look() is None
            await bus.close()

    asyncio.run(scenario())


def test_a_bus_that_is_not_there_is_tried_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bus = Bus("session", f"unix:path={tmp_path}/none")
        assert await GameMode(bus).look() == Unknown("there is no session bus")
        tried = bus._tried_s
        assert await GameMode(bus).look() == Unknown("there is no session bus")
        assert bus._tried_s == tried
        monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.setattr("os.getuid", lambda: 4_000_000)
        assert await GameMode(Bus("session")).look() == Unknown("there is no session bus")

    asyncio.run(scenario())
