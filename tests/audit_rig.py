"""An open swarm whose trainers are audited, as far as its ledger goes: rounds without parameters."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from averaging_help import make_contribution, make_ledger, make_rules
from blake3 import blake3
from round_swarm import ToySigner

from talkoot.averaging.audits import Audits
from talkoot.averaging.ledger import Ledger, decode_ledger
from talkoot.averaging.reputation import by_lot, places_for_voters, promotable, subject_of
from talkoot.averaging.succession import next_ledger
from talkoot.averaging.verdicts import Verdict

AUDITS = Audits(trainers=True, probation_audits=2, vote_audits=5, epoch_rounds=10, ban_rounds=30)
Judge = Callable[[bytes, bytes], int | None]
"""(auditor, subject) -> its score, or None: it gives no verdict."""


class AuditedSwarm:
    """Peers by key; all contribute in each round, all voters audit."""

    def __init__(self, voters: Sequence[ToySigner], others: Sequence[ToySigner], **changes: Any) -> None:
        self.signers = {signer.key: signer for signer in (*voters, *others)}
        founders = tuple(sorted(signer.key for signer in voters))[:1]
        values = {"invited_vote": False, "audits": AUDITS, "founders": founders, "max_absent_rounds": 100}
        self.rules = make_rules(**(values | changes))
        self.ledger: Ledger = make_ledger([signer.key for signer in voters], round=0)
        self.prior = bytes(32)

    def verdicts(self, judge: Judge) -> tuple[Verdict, ...]:
        """What the voters say after the last round."""
        said = []
        for voter in self.ledger.voters:
            subject = subject_of(voter, self.ledger, self.prior, self.rules)
            score = judge(voter, subject) if subject is not None else None
            if subject is not None and score is not None:
                said.append(Verdict(voter, subject, score, bytes(64)))
        return tuple(said)

    def round(self, judge: Judge, cut: Collection[bytes] | None = None, *, promote: bool = True) -> Ledger:
        """One round; the ledger after it, which is a valid one."""
        keys = sorted(self.signers if cut is None else cut)
        contributions = [make_contribution(self.signers[key], round=self.ledger.round) for key in keys]
        able = promotable(keys, self.signers, self.ledger, self.rules) if promote else set[bytes]()
        promoted = sorted(by_lot(able, self.prior)[: places_for_voters(self.ledger)])
        verdicts = self.verdicts(judge)
        self.ledger = next_ledger(self.ledger, contributions, self.signers, self.rules, verdicts, promoted)
        assert decode_ledger(self.ledger.encode()) == self.ledger
        self.prior = blake3(self.prior + self.ledger.hash).digest()
        return self.ledger
