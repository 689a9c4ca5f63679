"""Programs that want the computer for themselves: those that the volunteer lists, and games."""

from collections.abc import Iterable

from talkoot.peer.guest.program_names import plain
from talkoot.peer.guest.senses.processes import Process, Processes
from talkoot.peer.guest.settings import GuestSettings
from talkoot.peer.guest.words import Reason
from talkoot.peer.guest.yielding import Found, Sight, Unknown

GAMES = frozenset({"steamlaunch", "gamescope", "gamescope-wl", "lutris-wrapper", "heroic-run"})
"""What runs around a game, whoever made it. Steam starts each as `reaper SteamLaunch AppId=...`."""


class Programs:
    """Whether one of the listed programs runs, or a game."""

    title = "programs"
    reason: Reason = "exclusive_app"

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def wanted(self, settings: GuestSettings) -> bool:
        """Whether there is something to look for."""
        return bool(settings.programs) or settings.games

    def look(self, settings: GuestSettings, running: Iterable[Process], own: frozenset[int]) -> Sight:
        """What runs, the first of the list first."""
        others = [process for process in running if process.pid not in own]
        for program in settings.programs:
            if found := _first(others, {plain(program)}):
                return Found(f"program {plain(program)}", f"{program} runs (process {found.pid})")
        if settings.games and (found := _first(others, GAMES)):
            return Found("game", f"a game runs ({found.name}, process {found.pid})")
        if self._processes.hidden:
            return Unknown("the programs of other users are hidden from this process")
        return None


def _first(processes: Iterable[Process], names: Iterable[str]) -> Process | None:
    wanted = frozenset(names)
    return min(
        (process for process in processes if not wanted.isdisjoint(process.names)),
        key=lambda process: process.pid,
        default=None,
    )
