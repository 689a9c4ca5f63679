"""What the demo has seen of its peers so far. Takes their answers, holds totals; no processes, no screen."""

from typing import Any

Json = dict[str, Any]

Key = tuple[int, str]
"""Round, and what tells its certificate from others: nothing for a final one, since there is one at most."""

COUNTERS = (
    "bytes_sent",
    "bytes_received",
    "state_bytes_sent",
    "state_bytes_received",
    "steps_total",
    "tokens_total",
    "rounds_aborted",
)


def _key(entry: Json) -> Key:
    weak = [entry.get("attempt"), entry.get("leader"), *entry.get("counted", ())]
    return entry["round"], "" if entry["kind"] == "final" else " ".join(map(str, weak))


class PeerRecord:
    """Totals of one peer over all its processes: a restarted daemon counts some of them from 0 again."""

    def __init__(self) -> None:
        self.last: Json = {}
        self._base = dict.fromkeys(COUNTERS, 0.0)
        self._seen = dict.fromkeys(COUNTERS, 0.0)
        self._restarted: set[str] = set()

    def see(self, status: Json) -> None:
        """Take in a status of the present process."""
        self.last = status
        for name in COUNTERS:
            value = float(status.get(name) or 0)
            if name in self._restarted:
                # saved counters go on near where they were, the others start again at 0
                if value < self._seen[name] / 2:
                    self._base[name] += self._seen[name]
                self._restarted.discard(name)
            self._seen[name] = value

    def restarted(self) -> None:
        """The next status is of a new process."""
        self._restarted = set(COUNTERS)

    def total(self, name: str) -> float:
        """Sum over all processes of this peer."""
        return self._base[name] + self._seen[name]


class Watch:
    """All peers of one demo, and every round that any of them reported."""

    def __init__(self, num_peers: int) -> None:
        self.peers = [PeerRecord() for _ in range(num_peers)]
        self.rounds: dict[int, Json] = {}
        """round -> what the peer that told most about it said"""
        self.digests: dict[Key, dict[int, str]] = {}
        """certificate -> {peer: digest}"""

    def see_rounds(self, peer: int, rounds: list[Json]) -> None:
        """Take in the rounds that a peer remembers."""
        for entry in rounds:
            number = entry.get("round")
            if not isinstance(number, int) or entry.get("kind") not in ("final", "weak"):
                continue
            self.digests.setdefault(_key(entry), {})[peer] = str(entry.get("digest"))
            known = self.rounds.get(number)
            if known is None or (known.get("eval_loss") is None and entry.get("eval_loss") is not None):
                self.rounds[number] = entry

    @property
    def different_rounds(self) -> list[int]:
        """Rounds of which two peers have different digests under one certificate, or under two final ones.

        Weak certificates of sides that cannot reach each other differ rightly.
        """
        return sorted({key[0] for key, by_peer in self.digests.items() if len(set(by_peer.values())) > 1})

    @property
    def digests_equal(self) -> bool:
        """Whether there was a round and no two peers ever differed in one."""
        return bool(self.digests) and not self.different_rounds

    @property
    def rounds_committed(self) -> int:
        """Distinct rounds that were committed by anybody."""
        return len({number for number, _ in self.digests})

    @property
    def next_round(self) -> int:
        """The round after the last that anybody committed."""
        return max((number for number, _ in self.digests), default=-1) + 1

    def counting(self, peer: int, *, since: int) -> int | None:
        """First round from `since` on in which `peer` was counted."""
        peer_id = self.peers[peer].last.get("peer_id")
        return min(
            (r for r, entry in self.rounds.items() if r >= since and peer_id in entry.get("counted", ())),
            default=None,
        )

    @property
    def rounds_aborted(self) -> int:
        """Attempts given up, by the peer that gave up most (each peer counts the same attempt)."""
        return int(max(record.total("rounds_aborted") for record in self.peers))

    def mean(self, counter: str) -> float:
        """Mean over the peers of a counter's total."""
        return sum(record.total(counter) for record in self.peers) / len(self.peers)

    def steps_after(self, rounds: int) -> int:
        """Global step after so many rounds: the certified mean of the inner steps behind the model.

        The newest known one where that round was not seen.
        """
        if rounds - 1 in self.rounds:
            return int(self.rounds[rounds - 1].get("global_step") or 0)
        return max((int(entry.get("global_step") or 0) for entry in self.rounds.values()), default=0)

    @property
    def inner_share(self) -> float | None:
        """Mean share of time that the peers' trainers spent in inner steps."""
        shares = [share for record in self.peers if (share := record.last.get("inner_share")) is not None]
        return sum(shares) / len(shares) if shares else None

    @property
    def curve(self) -> list[Json]:
        """One point a round with a held-out loss, oldest first."""
        return [
            {
                "round": number,
                "step": entry.get("global_step"),
                "tokens": entry.get("tokens"),
                "loss": entry["eval_loss"],
            }
            for number, entry in sorted(self.rounds.items())
            if entry.get("eval_loss") is not None
        ]
