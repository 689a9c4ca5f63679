"""When the demo kills its victim and when it starts it again. Pure: the caller has the clock and the axe."""

from enum import Enum

ARMED_AFTER = 0.3
"""Share of the training time after which the victim may be killed in the middle of an exchange."""
LATEST = 0.6
"""Share after which it is killed whatever it does."""
DOWN_S = 3.0
"""Seconds between the kill and the new start."""


class Act(Enum):
    """What to do now."""

    NOTHING = "nothing"
    KILL = "kill"
    RESTART = "restart"


class KillPlan:
    """One kill, mid-round if the state `exchanging` is seen in time, and one restart."""

    def __init__(self) -> None:
        self.killed_at: float | None = None
        self.killed_in_state = ""
        self.restarted_at: float | None = None
        self.back_after_s: float | None = None
        """Seconds from the restart until the victim trained again."""
        self.next_round: int | None = None
        """First round that could begin after the restart; None before it."""
        self.counted_in_round: int | None = None
        """First of those in which the victim was counted."""

    @property
    def pending(self) -> bool:
        """Whether the victim was killed and has not been seen at work, and counted in a round, since.

        The others may tell that it was counted before it answers itself.
        """
        back = self.back_after_s is not None and self.counted_in_round is not None
        return self.killed_at is not None and not back

    def armed(self, share: float, rounds: int) -> bool:
        """Whether the victim's state should be looked at often."""
        return self.killed_at is None and share >= ARMED_AFTER and rounds > 0

    def step(self, *, now: float, share: float, rounds: int, state: str) -> Act:
        """`share` of the training time is over, `rounds` are committed, the victim is in `state`."""
        if self.killed_at is None:
            if not self.armed(share, rounds) or (state != "exchanging" and share < LATEST):
                return Act.NOTHING
            self.killed_at, self.killed_in_state = now, state
            return Act.KILL
        if self.restarted_at is None:
            if now - self.killed_at < DOWN_S:
                return Act.NOTHING
            self.restarted_at = now
            return Act.RESTART
        if self.back_after_s is None and state in ("training", "exchanging"):
            self.back_after_s = now - self.restarted_at
        return Act.NOTHING
