"""Simulated swarms that strangers join: who hurts, what auditors say of it, and what must not come of it."""

from collections.abc import Sequence
from random import Random

from talkoot.averaging.audits import Audits
from talkoot.averaging.context import Context
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.quorum import max_faulty
from talkoot.averaging.reputation import banned, proven, subject_of
from talkoot.averaging.round import Round
from talkoot.averaging.rules import Rules
from talkoot.averaging.verdicts import MAX_SCORE, Verdict, sign_verdict
from talkoot.peer.node import Node

OPEN = 0.04
"""Part of the seeds with four peers or more that have strangers."""

STRANGERS = 2
"""Of these one hurts."""

ROUNDS = 8
"""Such a seed has so many rounds at least."""

AUDITS = Audits(trainers=True, probation_audits=2, vote_audits=4, epoch_rounds=4, ban_rounds=40)

SILENT = 0.2
"""Part of the audits that come to nothing."""

WRONG = 0.1
"""Part of an honest auditor's verdicts that are wrong, by little: it measures on few windows."""


def strangers_of(seed: int, num_peers: int) -> int:
    """How many of a seed's peers are strangers; mostly none."""
    random = Random(f"newcomers {seed}")  # noqa: S311 - a simulation is to be repeatable
    return STRANGERS if num_peers >= 4 and random.random() < OPEN else 0


class Strangers:
    """See the module. The last stranger hurts; as many founders lie in their verdicts as may lie at all."""

    def __init__(self, founders: Sequence[bytes], strangers: Sequence[bytes], seed: int) -> None:
        self._random = Random(f"auditors {seed}")  # noqa: S311 - a simulation is to be repeatable
        self.keys = frozenset(strangers)
        self.harmful = strangers[-1]
        self.liars = frozenset(founders[len(founders) - max_faulty(len(founders)) :])

    def attach(self, node: Node) -> None:
        """Let this node audit, as soon as it has a round."""
        set_round = node.runner.set_round

        def set_audited(machine: Round | None) -> None:
            if machine is not None:
                context = machine.context
                said = self._verdict(node, context)
                object.__setattr__(context, "verdict", lambda: said)
            set_round(machine)

        node.runner.set_round = set_audited  # type: ignore[method-assign]

    def _verdict(self, node: Node, context: Context) -> Verdict | None:
        subject = subject_of(node.identity.key, context.ledger, context.prior, context.rules)
        if subject is None or self._random.random() < SILENT:
            return None
        return sign_verdict(
            node.identity,
            swarm=context.rules.swarm,
            round_number=context.ledger.round,
            prior=context.prior,
            subject=subject,
            score=self._score(node.identity.key, subject),
        )

    def _score(self, auditor: bytes, subject: bytes) -> int:
        truth = -1 if subject == self.harmful else 1
        if auditor in self.liars:
            return -truth * MAX_SCORE
        if self._random.random() < WRONG:
            return -truth * self._random.randint(0, 100)
        return truth * self._random.randint(500, MAX_SCORE)

    def problem(self, ledger: Ledger, rules: Rules) -> str | None:
        """What has come of it that must not, or None."""
        if banned(ledger) - {self.harmful}:
            return "an honest trainer is banned"
        if self.harmful in ledger.voters or self.harmful in proven(ledger, rules):
            return "a trainer that hurts has earned something"
        return None
