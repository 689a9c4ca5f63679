"""Rounds as they were seen to pass from outside: when the frontier moved, and what peers said then.

Who was counted, and why, stands in certificates, which an explorer does not read.
"""

from collections import deque
from typing import Any

from talkoot.peer.exploring.summary import Summary

KEPT = 2000
"""Rounds that are remembered."""


class RoundsSeen:
    """The last rounds in the form of a node's own (`talkoot.peer.history`); what is not known is null."""

    def __init__(self) -> None:
        self.records: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._frontier: int | None = None
        self._began_s = 0.0

    def take(self, seen: Summary, now_s: float) -> None:
        """Take up a reading; `now_s` of any clock that only grows."""
        before, self._frontier = self._frontier, seen.frontier
        if before is None or seen.frontier is None or seen.frontier <= before:
            self._frontier = before if seen.frontier is None else max(before or 0, seen.frontier)
            return
        self.records.append(self._record(seen, seen.frontier - 1, now_s))
        self._began_s = now_s

    def last(self, count: int) -> list[dict[str, Any]]:
        """The newest so many, newest last."""
        return list(self.records)[-count:]

    def _record(self, seen: Summary, number: int, now_s: float) -> dict[str, Any]:
        return {
            "round": number,
            "digest": None,
            "kind": "seen",
            "attempt": 0,
            "leader": "",
            "counted": [],
            "left_out": [],
            "own": None,
            "seconds": round(now_s - self._began_s, 3) if self._began_s else None,
            "phases": {},
            "failures": [],
            "tokens": 0,
            "ended_at_s": round(now_s, 3),
            "loss": seen.loss,
            "eval_loss": None,
            "steps_per_second": seen.steps_per_second,
            "training": seen.training,
        }
