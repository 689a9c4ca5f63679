"""What this peer remembers of its rounds, for people: one record a round, newest last."""

from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from talkoot.averaging.attempt import Attempt
from talkoot.averaging.certificate import Certificate, Kind
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.quorum import leader_of, leader_order
from talkoot.dht.identity import peer_id_of
from talkoot.peer import clock
from talkoot.peer.choice import Choice

KEPT = 2000
"""Rounds that are remembered."""


@dataclass(slots=True)
class RoundRecord:
    """One committed round as this peer saw it."""

    round: int
    digest: str
    kind: Kind
    attempt: int
    leader: str
    counted: list[str]
    left_out: list[dict[str, str]]
    own: bool | None
    """Whether our own contribution was counted; None when we sent none."""
    seconds: float | None
    """From closing the round to its commit; None when it was fetched."""
    phases: dict[str, float]
    """Seconds in each phase of the attempt that was certified: form, exchange, certify."""
    deadlines: dict[str, dict[str, float | str]]
    """How long each phase might have taken (`seconds`) and what that was made of (`basis`)."""
    jobs: dict[str, float]
    """Seconds of work in each kind of job, by its output's name."""
    failures: list[str]
    """Why attempts before came to nothing."""
    codec: str | None
    """Of contributions."""
    aggregate_codec: str | None
    """None: nothing was reduced, or the round was fetched with others."""
    codec_error: float | None
    """Relative L2 error of our own encoded contribution, taken from one chunk; None without one."""
    global_step: int
    tokens: int
    ended_at_s: float
    bytes_sent: int
    catch_up: dict[str, Any] | None = None
    """Where the round was fetched: by which way, why, and the bytes of both ways (`talkoot.peer.choice`)."""
    loss: float | None = None
    eval_loss: float | None = None


@dataclass(slots=True)
class Running:
    """The round that is under way."""

    closed_at_s: float | None = None
    left_out: list[dict[str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    bytes_before: int = 0


class History:
    """The last rounds and counts of what happened."""

    def __init__(self) -> None:
        self.started_s = clock.now()
        self.records: deque[RoundRecord] = deque(maxlen=KEPT)
        self.running = Running()
        self.committed = 0
        self.failed: Counter[str] = Counter()

    def begin(self, bytes_sent: int) -> None:
        """A round begins."""
        self.running = Running(bytes_before=bytes_sent)

    def attempt_over(self, reason: str) -> None:
        """An attempt ended without a certificate."""
        self.failed[reason] += 1
        self.running.failures.append(reason)

    def left_out(self, key: bytes, reason: str) -> None:
        """A contribution was left out of the running round."""
        self.running.left_out.append({"peer_id": peer_id_of(key), "reason": reason})

    @property
    def aborted(self) -> int:
        """Attempts that were given up."""
        return sum(self.failed.values())

    def commit(
        self,
        certificate: Certificate,
        ledger: Ledger,
        before: Ledger,
        *,
        own: bool | None,
        attempt: Attempt | None,
        jobs: dict[str, float],
        codec_error: float | None,
        bytes_sent: int,
        fetched: bool,
        loss: float | None,
        catch_up: Choice | None = None,
    ) -> RoundRecord:
        """A round is committed. `before` is the ledger that we held before (not that of the round, where
        several were fetched at once), `attempt` is ours that ended it, `catch_up` how it was fetched."""
        took_s = attempt.took_s if attempt is not None else {}
        limits = attempt.limits if attempt is not None else {}
        now, value = clock.now(), certificate.value
        closed = self.running.closed_at_s
        record = RoundRecord(
            round=value.round,
            digest=value.digest.hex(),
            kind=certificate.kind,
            attempt=certificate.attempt,
            leader=peer_id_of(leader_of(leader_order(before.voters, value.prior), certificate.attempt)),
            counted=[peer_id_of(item.key) for item in value.cut],
            left_out=self.running.left_out,
            own=own,
            seconds=None if fetched or closed is None else round(now - closed, 3),
            phases={phase: round(seconds, 4) for phase, seconds in took_s.items()},
            deadlines={
                phase: {"seconds": round(limit.seconds, 3), "basis": limit.basis}
                for phase, limit in limits.items()
            },
            jobs={name: round(seconds, 4) for name, seconds in jobs.items()},
            failures=self.running.failures,
            codec=value.cut[0].codec if value.cut else None,
            aggregate_codec=before.aggregate_codec if value.parts and before.round == value.round else None,
            codec_error=codec_error,
            global_step=ledger.global_step,
            tokens=ledger.tokens,
            ended_at_s=round(now - self.started_s, 3),
            bytes_sent=bytes_sent - self.running.bytes_before,
            catch_up=asdict(catch_up) if catch_up is not None else None,
            loss=loss,
        )
        self.records.append(record)
        self.committed += 0 if fetched else 1
        return record

    def as_json(self, last: int = KEPT) -> list[dict[str, Any]]:
        """The last so many records as plain values, newest last."""
        newest = list(islice(reversed(self.records), last))
        return [asdict(record) for record in reversed(newest)]
