"""When a trainer that says nothing counts as wedged. Pure.

One that computes may be silent for long: a micro-batch of a large model on a slow machine, a compilation. One
that is stuck uses no CPU time, and one that a signal has stopped is seen to be.
"""

from dataclasses import dataclass

STOPPED_LOOKS = 15
"""So many looks in a row, a second apart, at which it was stopped: somebody's moment is over."""

IDLE_SHARE = 0.01
"""With less CPU time than this share of its silence it does nothing; a starved one still gets more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What one look at the process found."""

    silent_s: float
    """Since it was last heard, or asked."""
    cpu_s: float | None
    """CPU time of it and its children since then; None: not known."""
    stopped: bool
    """By a signal."""


class Silence:
    """Of one life of a trainer; `look` once a second."""

    def __init__(self, *, idle_s: float) -> None:
        """`idle_s`: how long it may say nothing and do nothing."""
        self._idle_s = idle_s
        self._stopped = 0
        self._overdue = False

    def look(self, look: Look, *, allowed_s: float | None, idles: bool) -> str | None:
        """Why it counts as wedged now, or None.

        `allowed_s`: how long it may say nothing, whatever it does; None: it waits for us. `idles`: it may do
        nothing for so long as well (it loads, or compiles). Silence counts at the second look that finds it:
        when it was we who stood still, what it said meanwhile is read in between.
        """
        self._stopped = self._stopped + 1 if look.stopped else 0
        if self._stopped >= STOPPED_LOOKS:
            return "it was stopped by a signal"
        if allowed_s is None:
            self._overdue = False
            return None
        still = look.cpu_s is None or look.cpu_s < IDLE_SHARE * look.silent_s
        bound_s = self._idle_s if still and not idles else allowed_s
        before, self._overdue = self._overdue, look.silent_s >= bound_s
        return f"no sign of life for {bound_s:.0f} s" if before and self._overdue else None
