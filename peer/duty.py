"""What share of its time a trainer works, lately."""

from collections import deque

WINDOW_S = 600.0
"""Time that it is taken over, at least, once there is so much."""


class DutyCycle:
    """Fed with the two clocks that a trainer reports. Pure."""

    def __init__(self) -> None:
        self._reports: deque[tuple[float, float]] = deque()

    @property
    def share(self) -> float | None:
        """0 to 1; None before there are two reports."""
        if len(self._reports) < 2:
            return None
        (began_busy_s, began_s), (busy_s, total_s) = self._reports[0], self._reports[-1]
        passed_s = total_s - began_s
        return min(1.0, (busy_s - began_busy_s) / passed_s) if passed_s > 0 else None

    def begin_again(self) -> None:
        """From the last report on."""
        while len(self._reports) > 1:
            self._reports.popleft()

    def after(self, busy_s: float, total_s: float) -> float:
        """The share after a report: seconds of work and all seconds since the first step."""
        reports = self._reports
        if reports and (total_s < reports[-1][1] or busy_s < reports[-1][0]):
            reports.clear()  # another process
        if not reports:
            reports.append((0.0, 0.0) if total_s <= WINDOW_S else (busy_s, total_s))
        reports.append((busy_s, total_s))
        while len(reports) > 2 and total_s - reports[1][1] >= WINDOW_S:
            reports.popleft()
        return self.share or 0.0
