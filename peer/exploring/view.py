"""What an explorer shows: the figures and lists of its newest reading, in the words of a node's local API.

On the event loop, from one thread. What only a node can know of itself is null.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Protocol

from talkoot.dht.errors import RemoteError
from talkoot.dht.outside.reading import NOTHING, Followed, Reading
from talkoot.peer.exploring.exporter import Exporter
from talkoot.peer.exploring.rounds import KEPT, RoundsSeen
from talkoot.peer.exploring.summary import Summary, path_of, rows, summary
from talkoot.peer.exploring.title import ask_manifest
from talkoot.peer.observing.observer import Listed, Observer, targets
from talkoot.peer.observing.protocol import Dialler
from talkoot.peer.protocol import PROTOCOL_VERSION

log = logging.getLogger("talkoot.exploring")

LOOK_S = 0.5
"""Pause between two looks at whether there is a newer reading."""
STALE_S = 60.0
"""A reading that is older is none: nobody of the directory answers."""
MAX_ROWS = 1000
"""Peers in one answer; those that were reached come first."""
FRESH_S = 5.0
"""A peer's answer is given again for so long: everybody may ask, and none of them is the peer's own doing."""
NAME_TRIES = 20
"""Peers that are asked for the manifest before its name is given up."""


class Source(Protocol):
    """Where readings come from."""

    @property
    def reading(self) -> Reading:
        """The newest."""


class Explored:
    """One swarm. `follow` keeps it up to date."""

    def __init__(self, source: Source, calls: Dialler, swarm: bytes) -> None:
        """`calls` opens channels to peers that are reached."""
        self._source = source
        self._calls = calls
        self.swarm = swarm
        self.name: str | None = None
        """Of the swarm, as its manifest says; None: nobody gave it yet."""
        self.exporter = Exporter()
        self.rounds_seen = RoundsSeen()
        self.observer = Observer(
            calls,
            swarm,
            others=self._reached,
            voters=self._reached,
            run=lambda: self.name or "",
            fresh_s=FRESH_S,
        )
        self._reading = NOTHING
        self._picture = NOTHING, picture(NOTHING, swarm)
        self._summary = summary(NOTHING)
        self._began_s = time.monotonic()

    async def follow(self) -> None:
        """Take up each new reading, and find out the swarm's name; until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._find_name(), name="name")
            while True:
                self.refresh()
                await asyncio.sleep(LOOK_S)

    def refresh(self) -> None:
        """Take up the newest reading."""
        reading = self._source.reading
        if reading is not self._reading:
            self._reading, self._summary = reading, summary(reading)
            self.rounds_seen.take(self._summary, time.monotonic() - self._began_s)
            self.exporter.show(reading, self._summary)

    @property
    def summary(self) -> Summary:
        """Of the newest reading."""
        return self._summary

    @property
    def state(self) -> str:
        """`starting` until the first look is over, `failed` while nobody answers, else `observing`."""
        if not self._reading.looks:
            return "starting"
        fresh = self._reading.nodes and time.time() - self._reading.at_s < STALE_S
        return "observing" if fresh else "failed"

    def status(self) -> dict[str, Any]:
        """The swarm now, with the keys of a node's status that an outsider can have."""
        seen = self._summary
        return self._shown() | {
            "explorer": True,
            "version": version("talkoot"),
            "protocol": PROTOCOL_VERSION,
            "peer_id": None,
            "swarm_name": self.name,
            "role": "observer",
            "state": self.state,
            "reason": "nobody_answers" if self.state == "failed" else "",
            "uptime_s": round(time.monotonic() - self._began_s, 3),
            "round": seen.frontier,
            "frontier": seen.frontier,
            "loss": seen.loss,
            "steps_per_second": seen.steps_per_second,
            "peers": [row | {"connected": row["path"] == "direct"} for row in self.peers()],
        }

    def peers(self) -> list[dict[str, Any]]:
        """One row a peer."""
        found: list[dict[str, Any]] = self._shown()["peers"]
        return found

    def rounds(self, last: int = KEPT) -> list[dict[str, Any]]:
        """The rounds that were seen to pass, newest last."""
        return self.rounds_seen.last(last)

    def targets(self, address: str) -> list[dict[str, Any]]:
        """The explorer and all peers that can be asked, as Prometheus' http_sd reads them."""
        own = Listed("explorer", "explorer")
        return targets(self.observer.listed(), own, swarm=self.name or "", address=address)

    async def peer_metrics(self, peer_id: str) -> bytes:
        """What a peer says of itself, as text. Raises UnknownPeer, NoAnswer."""
        return await self.observer.metrics(peer_id)

    def _shown(self) -> dict[str, Any]:
        """Of the newest reading, made once however many ask."""
        if self._picture[0] is not self._reading:
            self._picture = self._reading, picture(self._reading, self.swarm)
        return self._picture[1]

    def _reached(self) -> Mapping[bytes, Followed]:
        """Those worth asking: who is not there is on no list, unless it was a while ago."""
        return {peer.key: peer for peer in self._reading.peers if path_of(peer) == "direct"}

    async def _find_name(self) -> None:
        asked: set[bytes] = set()
        while self.name is None and len(asked) < NAME_TRIES:
            peer = next((peer for peer in self._reached() if peer not in asked), None)
            if peer is None:
                await asyncio.sleep(LOOK_S)
                continue
            asked.add(peer)
            try:
                self.name = (await ask_manifest(self._calls, peer, self.swarm)).swarm.name
            except (RemoteError, TimeoutError) as error:
                log.debug("no manifest: %s", error)


def picture(reading: Reading, swarm: bytes) -> dict[str, Any]:
    """A reading as JSON: the swarm's figures, what the directory did, one row a peer."""
    return {
        "swarm_id": swarm.hex(),
        "at_s": reading.at_s,
        "swarm": figures(summary(reading)),
        "directory": {
            "nodes": reading.nodes,
            "looks": reading.looks,
            "rejected": dict(reading.rejected),
            "failures": dict(reading.failures),
            "restarts": reading.restarts,
        },
        "peers": rows(reading)[:MAX_ROWS],
    }


def figures(seen: Summary) -> dict[str, Any]:
    """The figures of a swarm as JSON."""
    return {
        "announced": seen.announced,
        "reached": seen.reached,
        "relays": seen.relays,
        "training": seen.training,
        "by_role": dict(seen.by_role),
        "by_state": dict(seen.by_state),
        "by_path": dict(seen.by_path),
        "by_version": dict(seen.by_version),
        "frontier": seen.frontier,
        "at_frontier": seen.at_frontier,
        "agreeing": seen.agreeing,
        "steps_per_second": seen.steps_per_second,
        "loss": seen.loss,
        "clock_offset_s": seen.clock_offset_s,
        "rtt_s": seen.rtt_s,
    }
