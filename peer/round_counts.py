"""What metrics say of a round that was committed, and of our part in it."""

import math

from talkoot.averaging.certificate import Contribution, Value
from talkoot.peer import clock
from talkoot.peer.history import RoundRecord
from talkoot.peer.metrics import Metrics


class RoundCounts:
    """Counts the rounds of one node."""

    def __init__(self, metrics: Metrics, key: bytes) -> None:
        self._metrics = metrics
        self._key = key
        self._sent = b""

    def encoded(self, header: Contribution, codec_error: float | None) -> None:
        """Our contribution is made; the same one again, for the next attempt, counts once."""
        if header.root != self._sent:
            self._sent = header.root
            self._metrics.contributions_sent.inc()
            if codec_error is not None:
                self._metrics.contribution_error.set(codec_error)

    def committed(self, record: RoundRecord, value: Value, began_s: float) -> None:
        """A round is committed that began here at `began_s`."""
        metrics = self._metrics
        metrics.rounds.inc()
        metrics.round_group_size.set(len(record.counted))
        if record.own:
            metrics.contribution_credits.inc()
        ratio = norm_ratio(value.cut, self._key)
        if ratio is not None:
            metrics.update_norm.set(ratio)
        if record.seconds is None:
            return
        metrics.round_attempts.inc()
        metrics.round_duration.observe(record.seconds)
        for phase, seconds in phases_of(record, clock.now() - began_s).items():
            metrics.round_phases.inc(phase, seconds)


def phases_of(record: RoundRecord, whole_s: float) -> dict[str, float]:
    """How the `whole_s` seconds since the round before were spent, by `PHASES`; failed attempts are no phase.

    The outer step is taken while the round is certified; the rest of that is aggregating and voting.
    """
    certify_s = record.phases.get("certify", 0.0)
    apply_s = min(record.jobs.get("Apply", 0.0), certify_s)
    return {
        "compute": max(0.0, whole_s - (record.seconds or 0.0)),
        "match": record.phases.get("form", 0.0),
        "exchange": record.phases.get("exchange", 0.0),
        "validate": certify_s - apply_s,
        "apply": apply_s,
    }


def norm_ratio(cut: tuple[Contribution, ...], key: bytes) -> float | None:
    """The norm of this peer's contribution over the (lower) median of all; None where that says nothing."""
    norms = sorted(math.sqrt(each.norm2) for each in cut)
    own = next((math.sqrt(each.norm2) for each in cut if each.key == key), None)
    if own is None or norms[(len(norms) - 1) // 2] <= 0:
        return None
    return own / norms[(len(norms) - 1) // 2]
