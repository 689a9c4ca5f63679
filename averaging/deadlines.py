"""How long the phases of an attempt may take: measured, within the manifest's bounds.

A phase is expected to take as long as lately: twice the median of the last rounds, or a quarter more than
the second slowest of them, so that neither one outlier nor one liar decides. Where links are slower than
what was seen (a group grew, a slow peer came), the time that the bytes need on the slowest link counts.
Lengths of time are compared, never clocks.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Literal

from talkoot.averaging.parts import UNMEASURED
from talkoot.averaging.patience import Patience
from talkoot.averaging.rules import Timing

Phase = Literal["form", "exchange", "certify"]
PHASES: tuple[Phase, ...] = ("form", "exchange", "certify")

Basis = Literal["ceiling", "recent", "others", "link", "floor"]
"""What a limit was made of. `ceiling`: the manifest's, also as long as nothing was measured. `others`: we
measured nothing, and this is the median of what the others expect."""

KEPT = 8
"""Rounds that are remembered."""

LINK_MARGIN = 1.5
"""Links are shared with others."""

ROUND_TRIPS = 4
"""Round trips that a phase takes beside its bytes, generously."""

SLOWEST_CLAIM = 8.0
"""A claimed bandwidth lengthens a phase no more than one so many times below the median does."""

MAX_EXTRA_DOUBLINGS = 10

WAIT_SHARE = 0.25
"""Of the steps' time. Rounds that waited for a third of it came a sixth later: steps go on meanwhile
(`benchmarks/rates.py`)."""

BAD_LINK = 4.0
"""A link so many times slower than most is no good to lead over."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A deadline's length and where it comes from."""

    seconds: float
    basis: Basis


class Pace:
    """How long the phases of the last rounds took. Kept by the driver from round to round."""

    def __init__(self) -> None:
        self._seconds: dict[Phase, deque[float]] = {phase: deque(maxlen=KEPT) for phase in PHASES}
        self.round_trip_s = 0.0
        """The slowest round trip to a peer that takes part; 0 when not measured."""
        self.patience = Patience()

    def observe(self, phase: Phase, seconds: float, attempt: int) -> None:
        """A phase of a committed attempt took so long.

        A retry is shorter, since it starts from what is there: it can only show that the phase got slower.
        """
        known = self._seconds[phase]
        if attempt > 0 and known:
            seconds = max(seconds, median_low(known))
        known.append(seconds)

    @property
    def all_expected_s(self) -> tuple[float, ...]:
        """For a join: what is expected of each phase, in their order; 0 when never measured."""
        return tuple(self.expected_s(phase) or 0.0 for phase in PHASES)

    def expected_s(self, phase: Phase) -> float | None:
        """What the phase will hardly exceed; None when it was never measured."""
        known = sorted(self._seconds[phase])
        if not known:
            return None
        return max(2 * median_low(known), 1.25 * known[max(0, len(known) - 2)])


def ceiling(timing: Timing, phase: Phase, attempt: int) -> float:
    """The longest that the manifest allows. The votes follow the second half of the exchange."""
    base = {
        "form": timing.form_s,
        "exchange": timing.exchange_s,
        "certify": timing.certify_s + timing.exchange_s,
    }[phase]
    return timing.scaled(base, attempt)


def limit(
    timing: Timing,
    pace: Pace,
    phase: Phase,
    attempt: int,
    link_s: float = 0.0,
    others_s: Iterable[float] = (),
) -> Limit:
    """The length of a phase; doubles with each attempt.

    `link_s` is what its bytes need on the slowest link, `others_s` what others expect (0: they do not know),
    for a leader that was started a moment ago.
    """
    top = ceiling(timing, phase, attempt)
    basis: Basis = "recent"
    expected = pace.expected_s(phase)
    known = [seconds for seconds in others_s if seconds > 0]
    if expected is None and known:
        expected, basis = median_low(known), "others"
    if expected is None:
        return Limit(top, "ceiling")
    on_link = LINK_MARGIN * link_s + ROUND_TRIPS * pace.round_trip_s
    candidates: list[tuple[float, Basis]] = [
        (expected, basis),
        (on_link, "link"),
        (timing.floor_s, "floor"),
    ]
    seconds, longest = max(candidates, key=lambda item: item[0])
    seconds *= float(2 ** min(attempt, MAX_EXTRA_DOUBLINGS))
    return Limit(seconds, longest) if seconds < top else Limit(top, "ceiling")


def slowest(uploads: Iterable[float]) -> float:
    """The slowest of claimed bandwidths that counts, in bytes/s; 0 when none does.

    One that was not measured (below 1) is fast: what it sent was gone too soon to be timed. So a few with a
    limit of their own do not lengthen the phases of those who do without.
    """
    known = sorted(upload if upload >= 1.0 else math.inf for upload in uploads)
    rate = max(known[0], median_low(known) / SLOWEST_CLAIM) if known else math.inf
    return rate if rate < math.inf else 0.0


def link_seconds(num_bytes: float, uploads: Sequence[float], steps_s: float) -> float:
    """How long so many bytes take on the slowest link that a phase is made longer for.

    Where most are too fast to be measured, one that claims less is waited for as long as that is a small part
    of the time that the steps of the round took.
    """
    if rate := slowest(uploads):
        return num_bytes / rate
    known = [upload for upload in uploads if upload >= 1.0]
    seconds = num_bytes / min(known) if known else 0.0
    return seconds if LINK_MARGIN * seconds <= WAIT_SHARE * steps_s else 0.0


def slower_than_most(upload: float, others: Iterable[float]) -> bool:
    """Whether a link of so many bytes/s carries less than a quarter of what half of the others' do.

    Over such a link nobody should lead: all wait for the leader's own contribution and its own result. Who
    was not measured is taken for UNMEASURED.
    """
    rates = [other if other >= 1.0 else UNMEASURED for other in others]
    return bool(rates) and 1.0 <= upload < median_low(rates) / BAD_LINK
