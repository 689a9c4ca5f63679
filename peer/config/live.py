"""A running node takes what changed in its file, and says what waits for its next start."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from talkoot.peer.config.table import BY_KEY
from talkoot.peer.guest.settings import Current
from talkoot.peer.logs import get
from talkoot.peer.options import RunOptions

_log = get("talkoot.config")


class Live:
    """The settings of a running daemon."""

    def __init__(self, options: RunOptions, current: Callable[[], Current]) -> None:
        """`current` gives those that the present node follows."""
        self._options = options
        self._current = current
        self._began = options.configuration
        """As at the start: what needs a restart is still like this."""
        self._now = options.configuration

    @property
    def options(self) -> RunOptions:
        """For a node that begins now."""
        if self._now is None or self._began is None:
            return self._options
        return replace(self._options, guest=self._now.guest())

    def as_json(self) -> dict[str, dict[str, Any]]:
        """What holds, key by key: of what needs a restart, the values of the start."""
        if self._now is None or self._began is None:
            return {}
        began, now = self._began.as_json(), self._now.as_json()
        return {
            key: now[key] if setting.live else began[key] | {"pending": _pending(began[key], now[key])}
            for key, setting in BY_KEY.items()
        }

    async def apply(self) -> dict[str, list[str]]:
        """Take the file as it is now.

        Returns the keys that changed (`applied`), those that wait for a restart (`restart`), and those whose
        value in the file is under one of the environment or a flag (`overridden`). Raises ConfigError; then
        nothing has changed.
        """
        if self._now is None or self._began is None:
            raise ValueError("this node was started without a configuration")
        before, new = self._now, await asyncio.to_thread(self._now.again)
        guest = new.guest()
        self._now = new
        changed = before.differing(new)
        for key in changed:
            _log.info(
                "setting changed", key=key, value=BY_KEY[key].kind.words(new[key]), live=BY_KEY[key].live
            )
        self._current().change(guest)
        return {
            "applied": [key for key in changed if BY_KEY[key].live],
            "restart": [key for key in self._began.differing(new) if not BY_KEY[key].live],
            "overridden": [*new.environment, *new.flags],
        }


def _pending(began: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What holds after a restart, where it is something else."""
    return now["words"] if now["value"] != began["value"] else None
