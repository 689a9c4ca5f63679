"""What this peer knows of the others: their announcements, and whether the round is to close by them.

Relays announce themselves in the same directory and are no peers of the swarm: they are kept apart here, once
for all that reads `others`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from talkoot.averaging.deadlines import slower_than_most
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.progress import Decision, Report, time_to_close
from talkoot.averaging.reputation import left_out, on_probation
from talkoot.averaging.rules import Rules
from talkoot.dht.records import PeerRecord
from talkoot.peer import clock
from talkoot.peer.manifest import Round as RoundConfig

ALMOST = 0.8
"""Share of a round's steps from which another peer's wish to close it is followed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An announcement and when it first came, on our clock."""

    record: PeerRecord
    at_s: float


class SwarmView:
    """Announcements of the swarm's peers, by key. Never raises for what others say."""

    def __init__(self, key: bytes, config: RoundConfig) -> None:
        self._key = key
        self._config = config
        self._seen: dict[bytes, Seen] = {}
        self.relays: dict[bytes, PeerRecord] = {}
        """Announced relays by key; nothing but who they say they are and where."""
        self._known_trainers: tuple[bytes, list[tuple[Seen, bool]]] | None = None

    def update(self, records: dict[bytes, PeerRecord]) -> None:
        """Take what the directory holds now."""
        now = clock.now()
        fresh = {}
        self.relays = {key: record for key, record in records.items() if record.role == "relay"}
        for key, record in records.items():
            if key in self.relays:
                continue
            before = self._seen.get(key)
            fresh[key] = before if before and before.record == record else Seen(record, now)
        self._seen = fresh
        self._known_trainers = None

    @property
    def others(self) -> dict[bytes, Seen]:
        """Everyone but ourselves."""
        return {key: seen for key, seen in self._seen.items() if key != self._key}

    @property
    def known(self) -> set[bytes]:
        """Everyone who announces anything, relays too, but ourselves."""
        return (self._seen.keys() | self.relays.keys()) - {self._key}

    def frontier(self, own_round: int) -> int:
        """The highest round that anybody claims, ourselves included; good for showing and for asking."""
        return max([own_round, *(seen.record.round for seen in self.others.values())])

    def ahead_of(self, own_round: int) -> list[bytes]:
        """Peers that claim a later round, the furthest first."""
        ahead = [key for key, seen in self.others.items() if seen.record.round > own_round]
        return sorted(ahead, key=lambda key: -self._seen[key].record.round)

    def standing(self, peers: Iterable[bytes], number: int) -> frozenset[bytes]:
        """Those of `peers` who do not announce more rounds than so many."""
        return frozenset(
            key for key in peers if key not in self._seen or self._seen[key].record.round <= number
        )

    def elsewhere(self, digest_at: Callable[[int], bytes | None]) -> list[bytes]:
        """Peers that announce another state than ours after the same number of rounds.

        `digest_at` gives our digest after a number of rounds, None where it cannot differ any more.
        """
        found = []
        for key, seen in sorted(self.others.items()):
            ours = digest_at(seen.record.round)
            if ours is not None and ours != seen.record.digest:
                found.append(key)
        return found

    def is_slow(self, upload: float) -> bool:
        """Whether a link of so many bytes/s, of our own, is much slower than those of most others."""
        return slower_than_most(upload, [seen.record.upload for seen in self.others.values()])

    def ready(self, digest: bytes) -> int:
        """Other peers that train from the same outer state, or wait to begin."""
        states = ("training", "exchanging", "paused")
        return sum(
            1 for seen in self.others.values() if seen.record.digest == digest and seen.record.state in states
        )

    @staticmethod
    def _trains(seen: Seen, digest: bytes) -> bool:
        record = seen.record
        return (
            record.digest == digest
            and record.role != "observer"
            and record.state in ("training", "exchanging")
        )

    def decide(
        self, ledger: Ledger, digest: bytes, rules: Rules, own: Report | None, elapsed_s: float
    ) -> Decision:
        """Whether the round is to close by what everybody announced and by our own steps."""
        now = clock.now()
        reports = [own] if own is not None else []
        for seen, counts in self._trainers(ledger, digest, rules):
            record = seen.record
            reports.append(Report(record.steps, record.speed, now - seen.at_s, counts))
        return time_to_close(
            reports,
            inner_steps=rules.inner_steps,
            elapsed_s=elapsed_s,
            min_interval_s=self._config.min_interval_s,
            max_interval_s=self._config.max_interval_s,
            horizon_s=3 * self._config.announce_s,
        )

    def _trainers(self, ledger: Ledger, digest: bytes, rules: Rules) -> list[tuple[Seen, bool]]:
        """Others that train from the state with this digest and ledger, and whether their steps count.

        Asked for several times a second, and the same until the next announcement or round.
        """
        if self._known_trainers is None or self._known_trainers[0] != digest:
            found = [
                (seen, steps_count(key, ledger, rules))
                for key, seen in self.others.items()
                if self._trains(seen, digest)
            ]
            self._known_trainers = (digest, found)
        return self._known_trainers[1]


def steps_count(key: bytes, ledger: Ledger, rules: Rules) -> bool:
    """Whether a peer's steps bring a round to its end: those of peers on probation, or left out, do not."""
    return not on_probation([key], ledger, rules) and not left_out([key], ledger)
