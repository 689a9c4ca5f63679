"""How long audits may take: a share of the time that inner steps took."""

SAVED_ROUNDS = 4
"""Rounds whose shares are kept at most, where one is too short for an audit."""


class Purse:
    """Seconds earned by training, and spent on audits."""

    def __init__(self, share: float) -> None:
        """`share` of the time of inner steps, 0 to 1."""
        self._share = share
        self.left_s = 0.0
        """May be below 0: then the next rounds pay for it."""
        self.earned_s = self.spent_s = 0.0
        """In all."""

    def earn(self, step_s: float) -> None:
        """A round is over, whose inner steps took so long."""
        earned_s = self._share * step_s
        self.earned_s += earned_s
        self.left_s = max(self.left_s, min(self.left_s + earned_s, SAVED_ROUNDS * earned_s))

    def spend(self, seconds: float) -> None:
        """An audit took so long, whatever came of it."""
        self.spent_s += seconds
        self.left_s -= seconds
