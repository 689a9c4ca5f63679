"""What an exchange comes to: the outer step to take, and the value that its result is certified as."""

from collections.abc import Iterable

from talkoot.averaging.certificate import PartDigest, Value
from talkoot.averaging.context import Context
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.messages import Cut, Roster
from talkoot.averaging.outputs import Apply
from talkoot.averaging.succession import next_ledger


class Outcome:
    """Of one cut of one roster; every contributor of the cut has a contribution in the roster."""

    def __init__(self, context: Context, roster: Roster, cut: Cut) -> None:
        headers = {join.key: join.contribution for join in roster.members if join.contribution is not None}
        self._context = context
        self._attempt = roster.attempt
        self._counted = tuple(headers[key] for key in cut.contributors)
        self._present = tuple(join.key for join in roster.members)

    def step(self) -> Apply:
        """The outer step, once the aggregate is whole."""
        context = self._context
        ledger = next_ledger(context.ledger, self._counted, self._present, context.rules)
        return Apply(self._attempt, ledger)

    def value(self, digest: bytes, ledger: Ledger, parts: Iterable[PartDigest] = ()) -> Value:
        """What the round consists of, given the state that we computed."""
        return Value(
            swarm=self._context.rules.swarm,
            round=self._context.ledger.round,
            prior=self._context.prior,
            cut=self._counted,
            present=self._present,
            parts=tuple(parts),
            digest=digest,
            voters=ledger.voters,
        )
