"""What an exchange comes to: the outer step to take, and the value that its result is certified as."""

from collections.abc import Iterable

from msgspec import UNSET

from talkoot.averaging.certificate import PartDigest, Value
from talkoot.averaging.context import Context
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.messages import Cut, MessageError, Roster
from talkoot.averaging.outputs import Apply
from talkoot.averaging.revocations import Revocation
from talkoot.averaging.succession import next_ledger, promotion_problem


class Outcome:
    """Of one cut of one roster; every contributor of the cut has a contribution in the roster."""

    def __init__(self, context: Context, roster: Roster, cut: Cut) -> None:
        headers = {join.key: join.contribution for join in roster.members if join.contribution is not None}
        self._context = context
        self._attempt = roster.attempt
        self._counted = tuple(headers[key] for key in cut.contributors)
        self._present = tuple(join.key for join in roster.members)
        self._verdicts = tuple(join.verdict for join in roster.members if join.verdict is not UNSET)
        self._revoked = revoked_in(roster)
        self._promoted = cut.promoted if cut.promoted is not UNSET else ()

    def step(self) -> Apply:
        """The outer step, once the aggregate is whole."""
        context = self._context
        ledger = next_ledger(
            context.ledger,
            self._counted,
            self._present,
            context.rules,
            self._verdicts,
            self._promoted,
            self._revoked,
        )
        return Apply(self._attempt, ledger)

    def value(self, digest: bytes, ledger: Ledger, parts: Iterable[PartDigest] = ()) -> Value:
        """What the round consists of, given the state that we computed."""
        audited = self._context.rules.audits is not None
        return Value(
            swarm=self._context.rules.swarm,
            round=self._context.ledger.round,
            prior=self._context.prior,
            cut=self._counted,
            present=self._present,
            parts=tuple(parts),
            digest=digest,
            voters=ledger.voters,
            verdicts=self._verdicts if audited else UNSET,
            promoted=self._promoted if audited else UNSET,
            revoked=self._revoked or UNSET,
        )


def revoked_in(roster: Roster) -> tuple[Revocation, ...]:
    """What its founders take back: each issued its own keys, so none is there twice."""
    lists = (join.revoked for join in roster.members if join.revoked is not UNSET)
    return tuple(sorted((item for items in lists for item in items), key=lambda item: item.token))


def check_promoted(context: Context, roster: Roster, cut: Cut) -> None:
    """Raise MessageError unless those whom a leader's cut makes voters have earned it."""
    if (cut.promoted is UNSET) != (context.rules.audits is None):
        raise MessageError("malformed", "new voters in a swarm without audits, or none named with them")
    promoted = cut.promoted if cut.promoted is not UNSET else ()
    present = [join.key for join in roster.members]
    problem = promotion_problem(promoted, cut.contributors, present, context.ledger, context.rules)
    if problem is not None:
        raise MessageError("ineligible", problem)
