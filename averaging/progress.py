"""When a round closes: the swarm has done its share of inner steps, or its time is up.

Every peer announces its steps; between announcements they are extrapolated with the announced speed. A
peer counts for at most twice the median, one on probation for nothing, so nobody can close a round alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal


@dataclass(frozen=True, slots=True)
class Report:
    """One trainer's announced progress in the current round."""

    steps: float
    """Inner steps when announced."""
    speed: float
    """Inner steps a second."""
    age_s: float
    """Seconds since the announcement."""
    counts: bool = True
    """False for peers on probation."""

    def extrapolated(self, horizon_s: float) -> float:
        """Steps by now, trusting an announcement for at most `horizon_s`."""
        return max(0.0, self.steps) + max(0.0, self.speed) * min(max(0.0, self.age_s), horizon_s)


CloseReason = Literal["steps_done", "time_up", "too_early", "steps_missing", "nobody_trains"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to close the round, and why."""

    close: bool
    reason: CloseReason
    steps: float
    """Accumulated steps that count."""
    target: float
    """H times the number of trainers."""


def time_to_close(
    reports: Sequence[Report],
    *,
    inner_steps: int,
    elapsed_s: float,
    min_interval_s: float,
    max_interval_s: float,
    horizon_s: float,
) -> Decision:
    """Decide from the reports of all trainers, our own among them.

    `elapsed_s` is the time since the last round on our own clock; no clocks of hosts are compared.
    """
    steps = [report.extrapolated(horizon_s) for report in reports if report.counts]
    target = float(inner_steps * len(steps))
    if not steps:  # those on probation come to nothing, but have to be told so
        late = bool(reports) and elapsed_s >= max_interval_s
        return Decision(late, "time_up" if late else "nobody_trains", 0.0, target)
    cap = 2 * median(steps)
    done = sum(min(own, cap) for own in steps)
    if elapsed_s < min_interval_s:
        return Decision(False, "too_early", done, target)
    if done >= target:
        return Decision(True, "steps_done", done, target)
    if elapsed_s >= max_interval_s:
        return Decision(True, "time_up", done, target)
    return Decision(False, "steps_missing", done, target)
