"""What certificates say that each contributor did, in numbers that the same certificates give everywhere.

Tokens and steps are claims, signed by who makes them. A round's *credit* bounds the claim as the weight in
the aggregate does (`talkoot.averaging.succession.weigh`): by twice the median of the round, and by twice that
for a contribution that carries the work of earlier rounds, which were not counted. It is a whole number of
tokens and depends on the cut alone, not on where somebody's log begins.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median_low

import msgspec

from talkoot.averaging.certificate import Certificate, Contribution
from talkoot.averaging.digest import content_hash


def credits_of(cut: Iterable[Contribution]) -> dict[bytes, int]:
    """Tokens that count for each contributor of a cut."""
    items = list(cut)
    if not items:
        return {}
    claim = max(1, median_low([item.tokens for item in items]))
    return {
        item.key: min(item.tokens + item.carried_tokens, (4 if item.carried else 2) * claim) for item in items
    }


@dataclass(slots=True)
class Total:
    """One peer's sums over the rounds that were added."""

    rounds: int = 0
    """In which it was counted."""
    weak: int = 0
    """Of these, rounds without a quorum of all voters, which may be rolled back."""
    steps: int = 0
    tokens: int = 0
    """Claimed, with those that were carried."""
    credit: int = 0
    last_round: int = -1


class Row(msgspec.Struct, frozen=True):
    """A line of the leaderboard."""

    rank: int
    key: bytes
    rounds: int
    weak: int
    steps: int
    tokens: int
    credit: int
    last_round: int


class Board:
    """Sums up certificates, each of which is to be added once."""

    def __init__(self) -> None:
        self.totals: dict[bytes, Total] = {}
        self.num_rounds = 0
        self.first: int | None = None
        self.last: int | None = None
        self.head = b""
        """Digest after the last round."""

    def add(self, certificate: Certificate) -> None:
        """Count a committed round; the first certificate of a swarm counts nobody."""
        value = certificate.value
        if certificate.kind == "genesis":
            return
        self.num_rounds += 1
        self.first = value.round if self.first is None else self.first
        self.last, self.head = value.round, value.digest
        credit = credits_of(value.cut)
        for item in value.cut:
            total = self.totals.setdefault(item.key, Total())
            total.rounds += 1
            total.weak += certificate.kind == "weak"
            total.steps += item.steps
            total.tokens += item.tokens + item.carried_tokens
            total.credit += credit[item.key]
            total.last_round = value.round

    def rows(self) -> list[Row]:
        """By credit, then by rounds, then by key: the same order everywhere."""
        order = sorted(self.totals, key=lambda key: (-self.totals[key].credit, -self.totals[key].rounds, key))
        return [
            Row(
                rank,
                key,
                (total := self.totals[key]).rounds,
                total.weak,
                total.steps,
                total.tokens,
                total.credit,
                total.last_round,
            )
            for rank, key in enumerate(order, 1)
        ]

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that are the same exactly where the rounds and the rows are."""
        rows = [msgspec.structs.astuple(row) for row in self.rows()]
        return content_hash(msgspec.msgpack.encode((self.num_rounds, self.first, self.last, self.head, rows)))
