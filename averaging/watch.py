"""Follows everybody's contributions, round by round, and says who has become one to look at and who no more.

An opinion of whoever watches (`talkoot.averaging.history`): it depends on what that peer held of each round,
so nothing that others compute may depend on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import inf, sqrt

from talkoot.averaging.certificate import Contribution
from talkoot.averaging.gram import Matrix
from talkoot.averaging.history import History, copies, cosines, looks
from talkoot.averaging.reasons import Sign

MAX_WATCHED = 1024
"""Peers that are remembered; those that were seen longest ago are forgotten first."""

CLEARED = 0.25
"""Suspicion below which a suspected peer is one like others again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What the watching peer has of a round's contributions besides their signed headers."""

    rows: Sequence[int]
    """Numbers, in the cut, of the contributions that it has pieces of."""
    gram: Matrix
    """Inner products of the same pieces of all of them and, last, of the aggregate of the round before; its
    row is 0 where that is not known."""
    unsound: frozenset[int] = frozenset()
    """Numbers of those that are not what was signed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What is known of one peer."""

    history: History = field(default_factory=History)
    last: int = -1
    """Round of its last counted contribution."""
    rounds: int = 0
    """Contributions that were seen."""
    suspected: bool = False
    norm: float = 0.0
    """Spreads of the last one's norm from this peer's own past."""
    direction: float = 0.0
    """Spreads of its direction."""
    signs: tuple[Sign, ...] = ()
    """What was odd about it."""
    like: bytes = b""
    """Of whose contribution it is as good as a copy, or the other way round; empty: nobody's."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A peer has become suspected, or is no longer."""

    key: bytes
    record: Record


class Watch:
    """Records by key. Of two copies both are flagged: which one copied is not known here."""

    def __init__(self, records: Mapping[bytes, Record] | None = None) -> None:
        self.records: dict[bytes, Record] = dict(records or {})

    def see(
        self, round_: int, cut: Sequence[Contribution], *, counting: Sequence[bool], held: Held | None = None
    ) -> list[Turn]:
        """Take in a round's cut, of which `counting` have a weight; what follows."""
        if not cut:
            return []
        unsound = held.unsound if held is not None else frozenset()
        norms = [0.0 if i in unsound else sqrt(item.norm2) for i, item in enumerate(cut)]
        seen = looks(
            norms,
            self._cosines(len(cut), held),
            counting_N=counting,
            rounds_N=[self._rounds(round_, item) for item in cut],
        )
        like = _likes(cut, held)
        turns = []
        for i, (item, look) in enumerate(zip(cut, seen, strict=True)):
            before = self.records.pop(item.key, Record())
            norm, direction = before.history.scores(look)
            history = before.history.seen(look, copied=i in like)
            record = Record(
                history=history,
                last=round_,
                rounds=before.rounds + 1,
                suspected=history.suspect or (before.suspected and history.suspicion >= CLEARED),
                norm=norm,
                direction=direction,
                signs=(*before.history.signs(look), *(("copy",) if i in like else ())),
                like=cut[like[i]].key if i in like else b"",
            )
            self.records[item.key] = record  # last: they are in the order in which they were seen
            if record.suspected != before.suspected:
                turns.append(Turn(item.key, record))
        for key in list(self.records)[: max(0, len(self.records) - MAX_WATCHED)]:
            del self.records[key]
        return turns

    def _rounds(self, round_: int, item: Contribution) -> int:
        """Rounds whose work a contribution may be. Nobody carries what was counted already, so a claim
        excuses no more than the rounds since then."""
        before = self.records.get(item.key)
        away = item.carried if before is None else min(item.carried, max(0, round_ - before.last - 1))
        return 1 + away

    @staticmethod
    def _cosines(num: int, held: Held | None) -> list[float | None]:
        """To the aggregate before, where both are there; 0 for what has nothing but zeros there."""
        found: list[float | None] = [None] * num
        if held is None:
            return found
        before = held.gram[-1][-1]
        for i, number in enumerate(held.rows):
            own, product = held.gram[i][i], held.gram[i][-1]
            if 0 < before < inf:
                found[number] = product / sqrt(own) / sqrt(before) if own > 0 else 0.0
        return found


def _likes(cut: Sequence[Contribution], held: Held | None) -> dict[int, int]:
    """Who has a copy, and in whom: the same bytes, or more alike than these peers' contributions are."""
    pairs = [
        (i, j) for i, j in combinations(range(len(cut)), 2) if cut[i].root == cut[j].root and cut[i].norm2 > 0
    ]
    if held is not None:
        likeness = [row[:-1] for row in cosines(held.gram)[:-1]]
        pairs += [(held.rows[i], held.rows[j]) for i, j in copies(likeness)]
    return {i: j for a, b in pairs for i, j in ((a, b), (b, a))}
