"""How much a trainer rests, so that the share of its time in which it works is what it was told. Pure.

What it works is followed by a rest in proportion, step by step or micro-batch by micro-batch, so that the
share is right over any time that is long against one of them.
"""

LEAST_REST_S = 0.02
"""Less is owed until it is worth a pause."""

MOST_WORK_S = 120.0
"""Of one stretch of work, no more is rested for: longer ones are a machine that stood still."""

CREDIT_S = 1.0
"""What a rest took too long, at most, is made up for by the next ones."""


class Pace:
    """Tell it what each stretch of time was, in order. Times are of one steady clock, in seconds."""

    def __init__(self, now: float, power: float = 1.0) -> None:
        """`power` is the share, over 0 to 1."""
        self._at = now
        self._owed_s = 0.0
        self.power = power
        self.busy_s = 0.0
        """All that was work."""

    def change(self, power: float) -> None:
        """From now on this share; what was owed for another is forgotten."""
        if power != self.power:
            self.power, self._owed_s = power, 0.0

    def worked(self, now: float) -> None:
        """It has worked since it was last told anything."""
        passed_s = self._since(now)
        self.busy_s += passed_s
        self._owed_s += min(passed_s, MOST_WORK_S) * (1 / self.power - 1)

    def rested(self, now: float) -> None:
        """It has rested because `due_s` said so."""
        self._owed_s = max(-CREDIT_S, self._owed_s - self._since(now))

    def idle(self, now: float) -> None:
        """There was nothing to do, which is neither."""
        self._since(now)

    def _since(self, now: float) -> float:
        passed_s, self._at = max(0.0, now - self._at), now
        return passed_s

    @property
    def due_s(self) -> float:
        """How long to rest now; 0: go on."""
        return self._owed_s if self._owed_s >= LEAST_REST_S else 0.0
