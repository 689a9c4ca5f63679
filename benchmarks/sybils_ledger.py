"""What Sybils that do not train earn in an open swarm with audits, by the ledger's own arithmetic.

Nothing is trained. Every round all peers ask for a place, the rules give them out, voters that are honest
audit whom they drew, and err as often as was measured; what follows is the ledger's. A leader that lies
proposes its own for voters, a voter that lies praises its own and accuses all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from blake3 import blake3

from talkoot.averaging.audits import Audits
from talkoot.averaging.certificate import MAX_CLAIM, Contribution
from talkoot.averaging.context import Context
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.quorum import leader_of, quorum
from talkoot.averaging.reputation import banned, by_lot, places_for_voters, promotable, subject_of
from talkoot.averaging.rules import Rules, Timing
from talkoot.averaging.succession import next_ledger, weigh
from talkoot.averaging.verdicts import MAX_SCORE, Verdict
from talkoot.compression.arithmetic import ARITHMETIC_VERSION
from talkoot.dht.identity import Identity, verify

SWARM = bytes(32)
FOUNDERS = 5
NUMEL = 1000
TOKENS = 10_000
LIMIT = 0.05
"""Combined share of the weight that the Sybils may come to in any round."""


@dataclass(frozen=True)
class Rates:
    """How often an audit says that a contribution helped, and that it hurt."""

    helped: float
    harmful: float


HONEST = Rates(0.33, 0.004)
KINDS = {
    "zero": Rates(0.0, 0.0),
    "random": Rates(0.083, 0.05),
    "copied": Rates(0.0, 1.0),
    "blurred 0.1": Rates(0.025, 0.725),
    "blurred 0.3": Rates(0.2, 0.388),
    "blurred 0.5": Rates(0.2, 0.062),
}
"""What Sybils contribute. Copied: another's contribution to the round before, since the root of one's own is
fixed before others' are seen; blurred: with so many times its norm of noise. Shares of
`benchmarks/trainer_audits.py --model bigram --n 8 --windows 16` (none, zero, gaussian; `--copies`)."""

ENOUGH = 0.95
"""Share of the trials in which that has to hold, and no Sybil to vote."""


class Admission:
    """One trial."""

    def __init__(self, seed: int, kind: str, *, honest: int = 20, sybils: int = 80) -> None:
        self._random = Random(f"admission {seed}")
        self._rates = KINDS[kind]
        everybody = [Identity(self._random.randbytes(32)) for _ in range(honest + sybils)]
        self._signers = {identity.key: identity for identity in everybody}
        self.sybils = frozenset(identity.key for identity in everybody[honest:])
        founders = tuple(sorted(identity.key for identity in everybody[:FOUNDERS]))
        self.rules = Rules(
            swarm=SWARM, numel=NUMEL, founders=founders, invited_vote=False, admit=lambda _key, _proof: None,
            inner_steps=100, outer_learning_rate=0.7, outer_momentum=0.9, error_feedback=False,
            max_absent_rounds=10, audits=Audits(trainers=True),
        )  # fmt: skip
        self.ledger = Ledger(
            swarm=SWARM, arithmetic=ARITHMETIC_VERSION, round=0, voters=founders, absent=(0,) * FOUNDERS,
            global_step=0, tokens=0, reference_steps=100, codec="int8", aggregate_codec="int8",
        )  # fmt: skip
        self._prior = self._random.randbytes(32)
        self.weight = 0.0
        """The largest combined share of the Sybils."""
        self.voting = self.led = self.quorums = 0
        """Sybils that voted (and so may lead and reduce), attempts that they led, rounds in which they were
        a quorum; summed over the rounds."""
        self.earned: set[bytes] = set()
        """Sybils that weighed at some time."""

    def round(self) -> None:
        """One round."""
        leader = leader_of(self._context.order, 0)
        members = [key for key in self._signers if key not in banned(self.ledger)]
        present = self._context.places(members)
        cut = [self._contribution(key) for key in present]
        self._observe(cut, leader)
        verdicts = self._verdicts(present)
        following = next_ledger(
            self.ledger, cut, present, self.rules, verdicts, self._promoted(present, leader)
        )
        self._prior = blake3(self._prior + following.hash).digest()
        self.ledger = following

    @property
    def _context(self) -> Context:
        return Context(
            ledger=self.ledger, prior=self._prior, rules=self.rules,
            timing=Timing(form_s=1.0, exchange_s=1.0, certify_s=1.0),
            signer=self._signers[self.rules.founders[0]], verify=verify,
        )  # fmt: skip

    def _observe(self, cut: Sequence[Contribution], leader: bytes) -> None:
        weighing = [item for item in weigh(cut, self.ledger, self.rules) if item.weight > 0]
        theirs = [item for item in weighing if item.contribution.key in self.sybils]
        self.weight = max(self.weight, sum(item.weight for item in theirs))
        self.earned |= {item.contribution.key for item in theirs}
        voting = sum(voter in self.sybils for voter in self.ledger.voters)
        self.voting += voting
        self.quorums += voting >= quorum(len(self.ledger.voters))
        self.led += leader in self.sybils

    def _contribution(self, key: bytes) -> Contribution:
        lies = key in self.sybils
        return Contribution(
            swarm=SWARM, round=self.ledger.round, prior=self._prior, key=key, root=bytes(32), norm2=1.0,
            steps=100, tokens=MAX_CLAIM if lies else TOKENS, numel=NUMEL, codec="int8",
        )  # fmt: skip

    def _verdicts(self, present: Sequence[bytes]) -> list[Verdict]:
        said = []
        for voter in self.ledger.voters:
            subject = subject_of(voter, self.ledger, self._prior, self.rules)
            if subject is not None and voter in present:
                said.append(Verdict(voter, subject, self._score(voter, subject), bytes(64)))
        return said

    def _score(self, auditor: bytes, subject: bytes) -> int:
        if auditor in self.sybils:
            return MAX_SCORE if subject in self.sybils else -MAX_SCORE
        rates, lot = self._rates if subject in self.sybils else HONEST, self._random.random()
        strength = self._random.randint(1, MAX_SCORE)
        return strength if lot < rates.helped else -strength if lot > 1 - rates.harmful else 0

    def _promoted(self, present: Sequence[bytes], leader: bytes) -> list[bytes]:
        able = by_lot(promotable(present, present, self.ledger, self.rules), self._prior)
        if leader in self.sybils:
            able.sort(key=lambda key: key not in self.sybils)
        return sorted(able[: places_for_voters(self.ledger)])


def admission(kind: str, trials: int, rounds: int) -> dict[str, Any]:
    """So many trials with one kind of contribution."""
    good, worst, earned, voting, led, quorums = 0, 0.0, 0, 0, 0, 0
    for seed in range(trials):
        trial = Admission(seed, kind)
        for _ in range(rounds):
            trial.round()
        good += trial.weight < LIMIT and not trial.voting
        worst = max(worst, trial.weight)
        earned = max(earned, len(trial.earned))
        voting, led, quorums = voting + trial.voting, led + trial.led, quorums + trial.quorums
    return {
        "trial": f"admission, {kind}", "trials": trials, "rounds": rounds, "helped": KINDS[kind].helped,
        "held": good / trials, "worst_weight": round(worst, 4), "most_that_weighed": earned,
        "voting": voting, "led": led, "quorums": quorums, "ok": good >= ENOUGH * trials and not quorums,
    }  # fmt: skip
