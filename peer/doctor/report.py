"""Checks with answers of three values, and the verdict that follows from them. Pure."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

Answer = Literal["yes", "no", "unknown"]
"""Whether it is as it should be; `unknown`: not measured, which is no `no`."""

Weight = Literal["stop", "slow", "client", "warn", "note"]
"""What a `no` comes to. `stop`: this peer cannot join. `slow`: it would not be counted. `client`: it sends
and receives and never reduces. `warn`: it takes part, and something is to be put right. `note`: nothing."""

WEIGHTS: tuple[Weight, ...] = ("stop", "slow", "client", "warn", "note")

Verdict = Literal["counted", "client", "too_slow", "not_yet", "machine_only"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    name: str
    answer: Answer
    words: str
    """What was found, in one line."""
    fix: str = ""
    """What to do about a `no`, in one line; a command where there is one."""
    weight: Weight = "stop"
    """Of a `no`."""
    cause: str = ""
    """Of a `no`: what is wrong, as a word that programs compare (`firewall_drops`, say); else the name."""
    measured: dict[str, Any] = {}
    """Figures behind the words; None where not measured."""

    @property
    def is_problem(self) -> bool:
        """Whether something is wrong, with something to do about it."""
        return self.answer == "no" and self.weight != "note"


class Conclusion(msgspec.Struct, frozen=True, kw_only=True):
    """What all checks together come to."""

    verdict: Verdict
    words: str
    causes: tuple[str, ...]
    """Of the problems, the most important first."""

    @property
    def exit_code(self) -> int:
        """0: this peer will take part, as far as could be seen. 1: it will not."""
        return int(self.verdict in ("too_slow", "not_yet"))


def problems(checks: Sequence[Check]) -> list[Check]:
    """What is wrong, the most important first: by weight, then in the order in which it was looked at."""
    found = [check for check in checks if check.is_problem]
    return sorted(found, key=lambda check: WEIGHTS.index(check.weight))


def conclude(checks: Sequence[Check], *, met: bool) -> Conclusion:
    """The verdict. `met`: a swarm was looked at, not this machine alone."""
    wrong = problems(checks)
    causes = tuple(check.cause or check.name for check in wrong)
    first = wrong[0] if wrong else None
    if first is not None and first.weight == "stop":
        return Conclusion(verdict="not_yet", words=f"not yet: {first.words}", causes=causes)
    if first is not None and first.weight == "slow":
        return Conclusion(verdict="too_slow", words=f"too slow: {first.words}", causes=causes)
    left = ", ".join(check.name for check in checks if check.answer == "unknown")
    unseen = f" (not measured: {left})" if left else ""
    if not met:
        words = f"this machine can train; no swarm was looked at, give an INVITE for that{unseen}"
        return Conclusion(verdict="machine_only", words=words, causes=causes)
    if first is not None and first.weight == "client":
        words = f"you will be counted, as a client: {first.words}{unseen}"
        return Conclusion(verdict="client", words=words, causes=causes)
    return Conclusion(verdict="counted", words=f"you will be counted{unseen}", causes=causes)
