"""What share of its time a trainer trains, lately."""

from collections import deque

WINDOW_S = 10.0
"""Time that it is taken over, at least, once there is so much."""


class DutyCycle:
    """Fed with the two clocks that a trainer reports. Pure."""

    def __init__(self) -> None:
        self._reports: deque[tuple[float, float]] = deque()

    def after(self, inner_s: float, total_s: float) -> float:
        """The share, 0 to 1, after a report: seconds inside steps and all seconds since the first step."""
        reports = self._reports
        if reports and (total_s < reports[-1][1] or inner_s < reports[-1][0]):
            reports.clear()  # another process
        if not reports:
            reports.append((0.0, 0.0) if total_s <= WINDOW_S else (inner_s, total_s))
        reports.append((inner_s, total_s))
        while len(reports) > 2 and total_s - reports[1][1] >= WINDOW_S:
            reports.popleft()
        began_inner_s, began_s = reports[0]
        passed_s = total_s - began_s
        return min(1.0, (inner_s - began_inner_s) / passed_s) if passed_s > 0 else 0.0
