"""The summary of a demo under faults, as JSON and in words."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from talkoot.cli.demo_chaos_plan import KINDS
from talkoot.cli.words import duration


@dataclass(frozen=True, kw_only=True, slots=True)
class Struck:
    """One fault that was made."""

    at_s: float
    """Since the faults began."""
    kind: str
    peer: str
    lasted_s: float | None
    """Until it was taken back; None when that was at the end."""
    counted_after_s: float | None
    """From the fault until the peer was seen counted in a round that began after it was taken back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """Inner steps of all peers together."""

    steps: float
    """Those that were counted in rounds."""
    made: float
    """Those that the trainers made."""
    seconds: float

    @property
    def per_s(self) -> float:
        """Counted steps a second; 0 when nothing was seen."""
        return self.steps / self.seconds if self.seconds > 0 else 0.0

    @property
    def made_per_s(self) -> float:
        """Steps made a second; 0 when nothing was seen."""
        return self.made / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ChaosReport:
    """What `--json` writes."""

    peers: int
    seed: int
    gap_s: float
    seconds: float
    """Time under faults."""
    faults: dict[str, int]
    """By kind."""
    left_out: dict[str, str]
    """Kinds that this machine or user cannot make, and why."""
    rounds_committed: int
    """Distinct rounds, those before the faults included."""
    rounds_aborted: int
    """Attempts given up, as counted by the peer that gave up most."""
    digest_disagreements: list[int]
    """Rounds of which two peers had different digests under one certificate, or under two final ones."""
    states_differ: list[str]
    """Peers whose state on disk at the end is not what its certificate says, or differs from another's."""
    exited: list[str]
    """Peers that ended though nobody had killed them, with their last words."""
    not_back: list[str]
    """Peers that were not counted in a round again in time."""
    forced: list[str]
    """Peers that did not end when they were asked to."""
    back_after_kill_s: dict[str, float | int | None]
    """Seconds from SIGKILL to being counted in a round again: median, longest, and of how many."""
    back_after_s: dict[str, float]
    """The median by kind of fault, from its beginning."""
    steps_per_s: float
    """Counted inner steps of all peers together, under faults."""
    baseline_steps_per_s: float | None
    """The same before the faults."""
    baseline_seconds: float
    throughput_ratio: float | None
    """The first over the second."""
    made_ratio: float | None
    """The same of the steps that were made: what is missing there was not trained at all."""
    events: list[dict[str, Any]]
    """Every fault."""

    @property
    def ok(self) -> bool:
        """Whether the demo may end with exit code 0."""
        wrong = self.digest_disagreements or self.states_differ or self.exited or self.not_back
        return self.rounds_committed > 0 and not wrong

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def times_back(events: Sequence[Struck]) -> dict[str, list[float]]:
    """By kind: seconds until the peer was counted again, shortest first."""
    times: dict[str, list[float]] = {}
    for event in events:
        if event.counted_after_s is not None:
            times.setdefault(event.kind, []).append(event.counted_after_s)
    return {kind: sorted(values) for kind, values in times.items()}


def summary_of_kills(times: Sequence[float]) -> dict[str, float | int | None]:
    """Median, longest and number."""
    if not times:
        return {"median": None, "max": None, "count": 0}
    return {"median": round(median(times), 1), "max": round(max(times), 1), "count": len(times)}


def ratio(under_faults: float, before: float) -> float | None:
    """Steps a second under faults over those before; None without a comparison."""
    return round(under_faults / before, 4) if before > 0 else None


def faults_by_kind(events: Sequence[Struck]) -> dict[str, int]:
    """How many of each kind, in the order of `KINDS`."""
    counts = Counter(event.kind for event in events)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def chaos_text(report: ChaosReport) -> str:
    """The summary as a few aligned lines."""
    kinds = ", ".join(f"{number} {kind}" for kind, number in report.faults.items())
    total = sum(report.faults.values())
    rows = [
        ("faults", f"{total} in {duration(report.seconds)}" + (f": {kinds}" if kinds else "")),
        ("rounds", f"{report.rounds_committed} committed, {report.rounds_aborted} attempts given up"),
        ("digests", _digest_words(report)),
        ("exited", "; ".join(report.exited) or "nobody who was not killed"),
        ("counted steps", _rate_words(report)),
        ("back", _back_words(report)),
    ]
    if report.not_back:
        rows.append(("not back", ", ".join(report.not_back)))
    if report.forced:
        rows.append(("forced", "had to be killed at the end: " + ", ".join(report.forced)))
    rows += [("left out", f"{kind}: {why}") for kind, why in report.left_out.items()]
    return "\n".join(f"{name:14} {words}" for name, words in rows)


def _digest_words(report: ChaosReport) -> str:
    if report.digest_disagreements:
        return "DIFFERENT in round " + ", ".join(map(str, report.digest_disagreements))
    if report.states_differ:
        return "states on disk DIFFER: " + ", ".join(report.states_differ)
    return "equal among all members of each certificate, and of the states on disk"


def _rate_words(report: ChaosReport) -> str:
    words = f"{report.steps_per_s:.2f} a second"
    if report.throughput_ratio is None or report.baseline_steps_per_s is None:
        return words
    before = f"{report.baseline_steps_per_s:.2f} in {duration(report.baseline_seconds)} without faults"
    made = "" if report.made_ratio is None else f"; of those made {report.made_ratio * 100:.1f} %"
    return f"{words}, {report.throughput_ratio * 100:.1f} % of the {before}{made}"


def _back_words(report: ChaosReport) -> str:
    kill = report.back_after_kill_s
    if not kill["count"]:
        return "nobody was killed and counted again"
    return (
        f"killed peers were counted in a round again after {kill['median']} s "
        f"(median of {kill['count']}; longest {kill['max']} s)"
    )
