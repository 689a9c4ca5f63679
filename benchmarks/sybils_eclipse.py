"""Whom a restarted node is connected to when four of five announcements are one attacker's."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from random import Random

from talkoot.dht import limits
from talkoot.dht.company import Company
from talkoot.dht.guard import Connection, ConnectionGuard
from talkoot.dht.identity import Identity, multihash_of
from talkoot.dht.multiaddr import parse_address, prefix_of
from talkoot.dht.network import Events
from talkoot.dht.records import PeerRecord, seal
from talkoot.dht.table import RecordTable
from talkoot.peer.outbound import choose

SWARM = bytes(32)
VOTERS = 5
"""Of the honest peers: the ledger on the victim's disk names them."""

LOOK_S = 30.0
"""Pause between two looks at the directory, as `announce_s` of the preset `public`."""

LOOKS = 20
MAX_PEERS = 64

TRICKS = ("none", "false address first", "local address first", "honest prefixes, unreachable", "names")
"""What Sybils announce: with all but the first, other prefixes than the one that they are dialled at."""


@dataclass
class Place:
    """Where a peer is, and what it says about that."""

    address: str
    announced: tuple[str, ...]
    reachable: bool = True

    @property
    def prefix(self) -> str:
        """What the other end of a connection shows."""
        found = prefix_of(parse_address(self.address).to_bytes())
        assert found is not None
        return found


@dataclass
class Eclipse:
    """One trial. Table, choice, memory of places and guard are the node's own."""

    seed: int
    honest: int = 20
    sybils: int = 80
    prefixes: int = 8
    shares: list[float] = field(default_factory=list)
    """By look: honest ones among those that the victim chose and is connected to."""

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self.trick = TRICKS[self.seed % len(TRICKS)]
        identities = [Identity(self._random.randbytes(32)) for _ in range(self.honest + self.sybils)]
        self._honest = {identity.key for identity in identities[: self.honest]}
        self._voters = frozenset(identity.key for identity in identities[:VOTERS])
        self._salt = self._random.randbytes(32)
        self.places = self._settle([identity.key for identity in identities])
        self._table = RecordTable(SWARM, Events())
        self._random.shuffle(identities)
        for number, identity in enumerate(identities):
            record = _record(identity.key, self.places[identity.key].announced)
            envelope = seal(identity, record, issued=1.0, expires=500.0)
            assert self._table.accept(identity.key, envelope, 1.0 + number)

    def _address(self, network: int, host: int) -> str:
        return f"/ip4/{IPv4Address((20 << 24) + network * 256 + host)}/tcp/4001"

    def _settle(self, keys: list[bytes]) -> dict[bytes, Place]:
        networks = self._random.sample(range(1 << 16), self.honest + self.prefixes)
        places = {}
        for key, network in zip(keys[: self.honest], networks, strict=False):
            address = self._address(network, self._random.randrange(1, 255))
            places[key] = Place(address, (address,))
        for number, key in enumerate(keys[self.honest :]):
            address = self._address(networks[self.honest + number % self.prefixes], 1 + number)
            places[key] = self._lie(number, address, networks[: self.honest])
        return places

    def _lie(self, number: int, address: str, honest: list[int]) -> Place:
        elsewhere = self._address(self._random.randrange(1 << 16), 7)
        victims = self._address(honest[number % len(honest)], 9)
        match self.trick:
            case "false address first":
                return Place(address, (elsewhere, address))
            case "local address first":
                return Place(address, ("/ip4/192.168.1.7/tcp/4001", address))
            case "honest prefixes, unreachable":
                reachable = number % 2 == 0
                return Place(address, (victims, address) if reachable else (victims,), reachable)
            case "names":
                return Place(address, (f"/dns/n{number}.example.org/tcp/4001", elsewhere, address))
            case _:
                return Place(address, (address,))

    def play(self) -> None:
        """The victim comes back with an empty memory of places. Sybils are at its door at once; honest peers
        that chose it come, too, but that is not relied on."""
        company, guard = Company(), ConnectionGuard()
        inbound = [key for key in self.places if key not in self._honest and self.places[key].reachable]
        for look in range(LOOKS):
            now = look * LOOK_S
            there = {key: record.addresses for key, record in self._table.peers(1.0 + now / 100).items()}
            turn = int(now // limits.FEELER_S)
            company.wanted = choose(
                there, voters=self._voters, most=MAX_PEERS, salt=self._salt, seen=company.places, turn=turn
            )
            connected = {key for key in company.wanted if self.places[key].reachable}
            live = [*connected, *(key for key in inbound for _ in range(limits.CONNECTIONS_PER_PEER))]
            shown = [Connection(multihash_of(key), key, self.places[key].prefix) for key in live]
            cut = guard.too_many(shown, chosen=company.is_chosen, banned=())
            connected -= {key for key in connected if multihash_of(key) in cut}
            for key in connected:
                company.seen(key, self.places[key].prefix)
                company.dialled(key)
            self.shares.append(len(connected & self._honest) / len(connected))


def _record(key: bytes, addresses: tuple[str, ...]) -> PeerRecord:
    return PeerRecord(
        swarm=SWARM, key=key, protocol=1, version="1", addresses=addresses, role="full", round=3,
        digest=bytes(32), steps=1, tokens=1, speed=1.0, upload=0.0, download=0.0, corpus=b"", loss=1.0,
        state="training",
    )  # fmt: skip
