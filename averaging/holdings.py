"""What voters hold of a sparse exchange, and the cut that follows from it.

A voter signs which contributions of the roster it holds whole. The cut consists of the contributions that
every one of a quorum of voters holds: so a quorum can certify without another transfer, and of those that
hold a counted blob more are honest than lie. The statements travel in the cut.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import median_low

from talkoot.averaging.context import Context
from talkoot.averaging.contribution import encoded_bytes
from talkoot.averaging.deadlines import Limit, Phase, link_seconds
from talkoot.averaging.leader import Leader, steps_seconds
from talkoot.averaging.messages import Holding, Join, MessageError, Roster, sign, signed_by
from talkoot.averaging.parts import Part
from talkoot.averaging.quorum import quorum


def contributors_of(roster: Roster) -> tuple[bytes, ...]:
    """Members with a contribution, in the roster's order: by their places here blobs are numbered."""
    return tuple(join.key for join in roster.members if join.contribution is not None)


def state_holding(context: Context, roster: Roster, held: Iterable[int]) -> Holding:
    """Our signed statement that we hold these contributions."""
    mask = sum(1 << number for number in set(held))
    size = -(-len(contributors_of(roster)) // 8)
    statement = Holding(
        round=roster.round,
        attempt=roster.attempt,
        roster=roster.hash,
        voter=context.key,
        blobs=mask.to_bytes(size, "little"),
    )
    return sign(statement, context.signer)


class Electorate:
    """Whose statements about one roster count, and how many make a cut."""

    def __init__(self, context: Context, roster: Roster) -> None:
        members = {join.key for join in roster.members}
        self._context = context
        self._roster = roster
        self._hash = roster.hash
        self.contributors = contributors_of(roster)
        self.voters = tuple(voter for voter in context.ledger.voters if voter in members)
        self.needed = quorum(len(self.voters) if roster.weak else len(context.ledger.voters))
        """Statements in a cut: as many as votes in a certificate."""

    def check(self, holding: Holding) -> None:
        """Raise MessageError unless this is a voter's statement about this roster."""
        here = (self._roster.round, self._roster.attempt, self._hash)
        if (holding.round, holding.attempt, holding.roster) != here:
            raise MessageError("wrong_round", "a holding for another roster")
        if holding.voter not in self.voters:
            raise MessageError("not_a_voter")
        size, mask = len(holding.blobs), int.from_bytes(holding.blobs, "little")
        if size != -(-len(self.contributors) // 8) or mask >> len(self.contributors):
            raise MessageError("malformed", "a holding of contributions that there are not")
        if not signed_by(holding, holding.voter, self._context.verify):
            raise MessageError("signature", "a holding not signed by its voter")

    def cut_of(self, holdings: Sequence[Holding]) -> tuple[bytes, ...]:
        """The cut: contributions that all of these statements name."""
        common = (1 << len(self.contributors)) - 1
        for holding in holdings:
            common &= int.from_bytes(holding.blobs, "little")
        return tuple(key for number, key in enumerate(self.contributors) if common >> number & 1)

    def check_cut(self, holdings: Sequence[Holding], contributors: tuple[bytes, ...]) -> None:
        """Raise MessageError unless the statements are a quorum's and this is the cut of them."""
        voters = [holding.voter for holding in holdings]
        if voters != sorted(set(voters)) or len(voters) != self.needed:
            raise MessageError("no_quorum", f"a cut from {len(voters)} statements, not {self.needed}")
        for holding in holdings:
            self.check(holding)
        if self.cut_of(holdings) != contributors:
            raise MessageError("wrong_cut", "a cut that does not follow from its statements")


class SparseLeader(Leader):
    """Leads an attempt with a sparse exchange: collects statements instead of receipts."""

    _electorate: Electorate | None = None

    def _parts(self, members: tuple[Join, ...]) -> tuple[Part, ...]:
        """Nobody reduces."""
        return ()

    def _limits(self, senders: Sequence[Join]) -> dict[Phase, Limit]:
        """The slowest sends its blob once; all n together send at most n (n - 1) blobs."""
        uploads = [join.upload if join.upload >= 1.0 else math.inf for join in senders] or [math.inf]
        size = encoded_bytes(self._context.rules, self._context.ledger.codec)
        once_s = link_seconds(size, [join.upload for join in senders], steps_seconds(senders))
        return self._within(max(once_s, (len(self._joins) - 1) * size / median_low(uploads)), once_s)

    def holding(self, holding: Holding) -> None:
        """Take a voter's statement; later ones may only say more. Raises MessageError."""
        if self.roster is None:
            raise MessageError("out_of_order", "a holding before the roster")
        if self._electorate is None:
            self._electorate = Electorate(self._context, self.roster)
        self._electorate.check(holding)
        before = self._holdings.get(holding.voter)
        if before is not None and _mask(before) & ~_mask(holding):
            raise MessageError("equivocation", "a holding that takes back what was said before")
        self._holdings[holding.voter] = holding

    def _chosen(self) -> tuple[Holding, ...]:
        """The statements that say most, one for each vote that a certificate needs; none if too few came."""
        electorate = self._electorate
        if electorate is None or len(self._holdings) < electorate.needed:
            return ()
        fullest = sorted(self._holdings.values(), key=lambda item: (-_mask(item).bit_count(), item.voter))
        return tuple(sorted(fullest[: electorate.needed], key=lambda item: item.voter))

    def _evidence(self) -> tuple[Holding, ...]:
        return self._chosen()

    def held_by_all(self) -> set[bytes]:
        """Contributions that a quorum holds."""
        chosen = self._chosen()
        return set(self._electorate.cut_of(chosen)) if self._electorate is not None and chosen else set()

    @property
    def exchange_done(self) -> bool:
        """Whether a quorum holds the contributions of all that can be reached."""
        return bool(self._chosen()) and super().exchange_done

    def late(self) -> set[bytes]:
        """Who keeps us waiting: what a quorum does not hold, while it holds the rest."""
        return self.awaited() if self._chosen() else set()

    def stuck(self) -> tuple[str, set[bytes]]:
        """Why there is no cut at the deadline."""
        return "voters_silent", set()


def _mask(holding: Holding) -> int:
    return int.from_bytes(holding.blobs, "little")
