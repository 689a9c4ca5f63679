"""The bytes of this month against what the volunteer allows: counted, kept on disk, and a node that rests.

Counted is what the network carried (`talkoot.dht.measuring`), in rounds or not. The count is written once a
minute, when the quota is used up, and at the end, so that a kill loses a minute of it, and a node that rested
rests on.
"""

import asyncio
import logging
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from talkoot.dht.errors import ConfigError
from talkoot.dht.pacing import Carried
from talkoot.peer import clock
from talkoot.peer.guest.month import Month, month_of, next_month
from talkoot.peer.guest.settings import GuestSettings
from talkoot.peer.small_files import read_small, write_small

if TYPE_CHECKING:
    from talkoot.peer.node import Node

log = logging.getLogger("talkoot.node")

LOOK_S = 1.0
"""Pause between two looks at what was carried."""

WRITE_S = 50.0
"""Pause between two writes of the count."""


class Quota:
    """One node's. Call `run` as a service; it looks at once."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._path = node.paths.quota
        self._counted = Carried()
        self._written_at = clock.now()
        self._told = False
        self._used_up = False
        self.month = kept_month(self._path)
        """So far."""

    async def run(self) -> None:
        """Until cancelled; writes the count down at the end."""
        self._node.settings.follow(lambda _settings: self.look())
        written, rested = self.month, False
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                self.look()
                due = clock.now() - self._written_at >= WRITE_S or self._used_up != rested
                if self.month != written and due:
                    written, self._written_at, rested = self.month, clock.now(), self._used_up
                    await asyncio.to_thread(self._write, written)
        finally:
            self._count()
            self._write(self.month)

    def look(self) -> None:
        """Count what was carried, and rest or go on."""
        now = self._count()
        holds, most = self._node.holds, self._node.settings.now.quota_bytes
        self._used_up = 0 < most <= self.month.used
        if self._used_up and "quota" not in holds:
            log.warning("%s", words(most, self.month.used))
        if self._used_up:
            holds.put("quota", f"{_gb(most)} a month are used up", until=next_month(now))
        else:
            holds.lift("quota")
        self._node.network.rest(self._used_up)

    def _count(self) -> float:
        """Returns the time at which it did."""
        carried, now = self._node.network.pacing.carried, time.time()
        before, self._counted = self._counted, carried
        self.month = self.month.add(carried.sent - before.sent, carried.received - before.received, now)
        return now

    def _write(self, month: Month) -> None:
        try:
            write_small(self._path, month.encode())
        except ConfigError as error:
            if not self._told:
                log.warning("%s; after a restart this month's traffic counts as less", error)
            self._told = True
            return
        self._told = False


def kept_month(path: Path) -> Month:
    """What is known of this month; a file that is damaged is as good as none, and said so."""
    now = time.time()
    try:
        data = read_small(path)
        if data is not None:
            return Month.decode(data, now)
    except ConfigError as error:
        log.warning("%s: %s; this month's traffic is counted from 0", path, error)
    return Month(month_of(now))


def require_quota(path: Path, settings: GuestSettings) -> None:
    """For who has nothing to go on with: raises ConfigError where this month's bytes are used up."""
    used = kept_month(path).used
    if 0 < settings.quota_bytes <= used:
        raise ConfigError(words(settings.quota_bytes, used))


def words(most: int, used: int) -> str:
    """How the volunteer hears of it."""
    until = datetime.fromtimestamp(next_month(time.time())).strftime("%d %B")
    return (
        f"this month's {_gb(most)} of traffic are used up ({_gb(used)} were sent and received): "
        f"the node rests until {until}, or until the quota is raised"
    )


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
