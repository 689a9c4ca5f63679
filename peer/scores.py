"""What is held against each peer at present: points that halve every `HALF_LIFE_S`. Pure.

An opinion of this node alone: no message carries it and nothing that others compute depends on it.
"""

from dataclasses import dataclass

from talkoot.peer.penalties import BAN_POINTS, DISCONNECT_POINTS, HALF_LIFE_S, MAX_POINTS, POINTS, Penalty

MAX_SCORES = 4096
"""Peers that are remembered; those with the fewest points are forgotten first."""


@dataclass(slots=True)
class _Score:
    points: float
    at_s: float
    reason: str
    """What it got the last points for."""


class Scores:
    """Points by peer. `now` is monotonic time in seconds."""

    def __init__(self) -> None:
        self._scores: dict[bytes, _Score] = {}

    def add(self, peer: bytes, penalty: Penalty, reason: str, now: float) -> float:
        """Hold something against a peer; its points afterwards."""
        points = min(MAX_POINTS, self.points(peer, now) + POINTS[penalty])
        if points > 0:
            self._scores[peer] = _Score(points, now, reason)
            if len(self._scores) > MAX_SCORES:
                self._forget(now)
        return points

    def points(self, peer: bytes, now: float) -> float:
        """What is left of a peer's points."""
        score = self._scores.get(peer)
        if score is None:
            return 0.0
        return float(score.points * 0.5 ** (max(0.0, now - score.at_s) / HALF_LIFE_S))

    def reason(self, peer: bytes) -> str:
        """What it got its last points for; empty without any."""
        score = self._scores.get(peer)
        return score.reason if score is not None else ""

    def forgive(self, peer: bytes) -> None:
        """Forget all that was held against a peer."""
        self._scores.pop(peer, None)

    def distrusted(self, now: float) -> frozenset[bytes]:
        """Peers with so many points that they are nobody's choice."""
        return frozenset(peer for peer in self._scores if self.points(peer, now) >= DISCONNECT_POINTS)

    def known(self, now: float) -> dict[bytes, float]:
        """Points of all peers that have some worth showing."""
        all_points = {peer: self.points(peer, now) for peer in self._scores}
        return {peer: points for peer, points in all_points.items() if points >= 0.05}

    def is_ban(self, points: float) -> bool:
        """Whether so many points are a ban."""
        return points >= BAN_POINTS

    def _forget(self, now: float) -> None:
        order = sorted(self._scores, key=lambda peer: self.points(peer, now))
        for peer in order[: MAX_SCORES // 8]:
            del self._scores[peer]
