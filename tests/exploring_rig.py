"""Readings of swarms that there are not, for whoever only shows them."""

from typing import Any

from dht_rig import SWARM

from talkoot.dht.company import Company
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity
from talkoot.dht.network import Channel, Events, ProtocolSpec
from talkoot.dht.outside.reading import Followed, Reading
from talkoot.dht.outside.visits import Path, Visit
from talkoot.dht.records import PeerRecord

NOW = 2e9


def followed(number: int, path: Path | None = "direct", offset: float = 0.1, **changes: Any) -> Followed:
    """A peer as it is seen."""
    key = Identity.from_seed(number.to_bytes(32, "big")).key
    values: dict[str, Any] = {
        "swarm": SWARM, "key": key, "protocol": 1, "version": "0.1.0", "role": "full",
        "addresses": (f"/ip4/127.0.0.1/tcp/{4000 + number}",), "round": 7, "digest": bytes(32), "steps": 30,
        "tokens": 30_000, "speed": 2.5, "upload": 0.0, "download": 0.0, "corpus": b"",
        "loss": 2.25 + number / 100, "state": "training",
    }  # fmt: skip
    record = PeerRecord(**(values | changes))
    reached = path == "direct"
    visit = Visit(path, 1.0, 0.02 if reached else None, offset if reached else None) if path else None
    return Followed(key, record, NOW - 3, visit)


def reading(*peers: Followed, **changes: Any) -> Reading:
    """What was seen of them; `changes` to the rest."""
    values: dict[str, Any] = {"at_s": NOW, "peers": peers, "nodes": 3, "looks": 1}
    return Reading(**(values | changes))


class Source:
    """The newest reading, as a test says."""

    def __init__(self, newest: Reading) -> None:
        self.reading = newest


class NobodyAnswers:
    """Opens no channel."""

    def __init__(self) -> None:
        self.events = Events()
        self.company = Company()

    async def dial(self, peer: bytes, protocol: ProtocolSpec, *, timeout_s: float) -> Channel:
        raise RemoteError(peer, "unreachable")
