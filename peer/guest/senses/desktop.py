"""What the desktop tells over D-Bus: games (GameMode), whether somebody is there (logind), who pays by volume
(NetworkManager). A computer without these does not tell."""

import time

from talkoot.peer.guest.senses.bus import Absent, Bus
from talkoot.peer.guest.settings import GuestSettings
from talkoot.peer.guest.words import Reason
from talkoot.peer.guest.yielding import Found, Sight, Unknown

METERED = {1: "metered", 3: "probably metered"}
"""Of NetworkManager's `NMMetered`."""


class GameMode:
    """Whether a game has registered itself."""

    title = "gamemode"
    reason: Reason = "exclusive_app"

    def __init__(self, session: Bus) -> None:
        self._session = session

    async def look(self) -> Sight:
        """How many have. It runs only when a game has called it."""
        service = "com.feralinteractive.GameMode"
        clients = await self._session.get(service, "/com/feralinteractive/GameMode", service, "ClientCount")
        if isinstance(clients, Absent):
            return None
        if not isinstance(clients, int):
            return clients if isinstance(clients, Unknown) else Unknown("GameMode gives no number")
        return Found("game", f"a game runs (GameMode has {clients})") if clients > 0 else None


class UserActive:
    """Whether somebody uses the computer, or did a moment ago."""

    title = "user_active"
    reason: Reason = "user_active"

    def __init__(self, system: Bus) -> None:
        self._system = system

    async def look(self, settings: GuestSettings) -> Sight:
        """As the login manager has it: desktops tell it after some minutes, terminals are looked at."""
        idle = await self._ask("IdleHint")
        since_us = await self._ask("IdleSinceHint")
        if not isinstance(idle, bool) or not isinstance(since_us, int):
            why = next((one for one in (idle, since_us) if isinstance(one, Unknown)), None)
            return why or Unknown("the login manager gives no usual answer")
        if not idle:
            return Found("user", "somebody uses the computer")
        if time.time() - since_us / 1e6 < settings.idle_s:
            return Found("user", "somebody used the computer a moment ago")
        return None

    async def _ask(self, name: str) -> object:
        manager = "org.freedesktop.login1.Manager"
        return await self._system.get("org.freedesktop.login1", "/org/freedesktop/login1", manager, name)


class Metered:
    """Whether the network costs by volume."""

    title = "metered"
    reason: Reason = "metered"

    def __init__(self, system: Bus) -> None:
        self._system = system

    async def look(self) -> Sight:
        """What the network manager knows or guesses."""
        service = "org.freedesktop.NetworkManager"
        metered = await self._system.get(service, "/org/freedesktop/NetworkManager", service, "Metered")
        if not isinstance(metered, int):
            return metered if isinstance(metered, Unknown) else Unknown("NetworkManager gives no number")
        return Found("network", f"the network is {METERED[metered]}") if metered in METERED else None
