"""Whether trainers are audited, and what they earn by it: section [audits] of the manifest, and part of the
rules of a round. What follows from verdicts: `talkoot.averaging.trust`."""

from dataclasses import dataclass

MAX_SHARE = 0.5
MAX_AUDITS = 100
MAX_ROUNDS = 10**6


@dataclass(frozen=True, kw_only=True, slots=True)
class Audits:
    """Section [audits]: whether voters measure what the others' contributions do, and what that earns."""

    trainers: bool = False
    """After each round each voter that trains scores one contribution, drawn by lot, by what it does to the
    loss on held-out windows. Verdicts enter the certificates. A contributor that hurts is left out, then
    banned; in an open swarm newcomers earn weight and vote by audits. Off: newcomers of an open swarm weigh
    after 3 counted rounds and never vote."""
    share: float = 0.03
    """Part of the time of its inner steps that a voter spends on audits at most. Too little for a verdict: it
    gives none."""
    probation_audits: int = 3
    """Passed audits after which a newcomer of an open swarm weighs."""
    vote_audits: int = 12
    """Passed audits after which it may become a voter."""
    epoch_rounds: int = 100
    """In so many rounds the voters take in at most a tenth as many as they are, but one."""
    ban_rounds: int = 500
    """Who kept hurting takes part in none of so many rounds."""

    def __post_init__(self) -> None:
        _require(0 < self.share <= MAX_SHARE, "share", f"above 0, at most {MAX_SHARE}")
        _require(1 <= self.probation_audits <= MAX_AUDITS, "probation_audits", f"1 to {MAX_AUDITS}")
        most = f"audits.probation_audits to {MAX_AUDITS}"
        _require(self.probation_audits <= self.vote_audits <= MAX_AUDITS, "vote_audits", most)
        _require(1 <= self.epoch_rounds <= MAX_ROUNDS, "epoch_rounds", f"1 to {MAX_ROUNDS}")
        _require(1 <= self.ban_rounds <= MAX_ROUNDS, "ban_rounds", f"1 to {MAX_ROUNDS}")


def _require(condition: bool, field: str, bound: str) -> None:
    if not condition:
        raise ValueError(f"audits.{field} must be {bound}")
