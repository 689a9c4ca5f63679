"""The hours in which a node trains: windows of the week, as the clock on the wall shows it.

A window is open exactly while the local clock shows a time in it. So an hour that a change of the clock skips
is in no window that day, and one that comes twice is in its windows twice; `22:00-07:00` is an hour shorter
or longer in those nights. Pure, but for what the zones' tables say.
"""

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from difflib import get_close_matches
from zoneinfo import ZoneInfo, available_timezones

from talkoot.dht.errors import ConfigError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

DAY_S = 86_400
WEEK_S = 7 * DAY_S

MONDAY_S = -3 * DAY_S
"""Unix time of a Monday's beginning: 1 January 1970 was a Thursday."""

MAX_WINDOWS = 100
MAX_WINDOW_CHARS = 100

HORIZON_S = 3 * WEEK_S
"""How far ahead an opening is looked for: a window that a change of the clock skips comes a week later."""

STRIDE_S = DAY_S / 4
"""No zone changes its clock twice, and back, in so short a time."""

EXAMPLE = "such as 'mon-fri 22:00-07:00', '08:00-12:00' or 'sat,sun'"

Offset = Callable[[float], float]
"""Seconds by which the local clock is ahead of UTC at a Unix time."""

Span = tuple[int, int]
"""Seconds from a week's beginning, at most `WEEK_S`: 0 <= begin < end."""


class Schedule:
    """When it is open; without windows always."""

    def __init__(self, windows: Iterable[str], zone: str = "") -> None:
        """As in `GuestSettings`. Raises ConfigError naming the window, or the zone."""
        windows = tuple(windows)
        if len(windows) > MAX_WINDOWS:
            raise ConfigError(f"schedule has {len(windows)} windows, at most {MAX_WINDOWS}")
        self._spans = [span for window in windows for span in _parse(window)]
        self._offset = offset_of(zone)

    def is_open(self, unix_s: float) -> bool:
        """Whether the local clock shows a time in a window."""
        if not self._spans:
            return True
        second = self._second(unix_s)
        return any(begin <= second < end for begin, end in self._spans)

    def changes_at(self, unix_s: float) -> float | None:
        """Unix time at which it opens next, or closes if it is open; None: not within three weeks."""
        now_open, at, horizon = self.is_open(unix_s), unix_s, unix_s + HORIZON_S
        while at < horizon:
            stretch_end = self._next_clock_change(at, horizon)
            edge = self._next_edge(at, stretch_end, now_open=now_open)
            if edge is not None:
                return edge
            at = stretch_end
            if self.is_open(at) != now_open:
                return at
        return None

    def _second(self, unix_s: float) -> float:
        """Of the local week."""
        return (unix_s + self._offset(unix_s) - MONDAY_S) % WEEK_S

    def _next_edge(self, begin_s: float, end_s: float, *, now_open: bool) -> float | None:
        """First time before `end_s` at which it is otherwise; the clock changes only at `end_s`."""
        second = self._second(begin_s)
        waits = sorted({(edge - second) % WEEK_S or WEEK_S for span in self._spans for edge in span})
        for wait_s in waits:
            if begin_s + wait_s >= end_s:
                return None
            if self.is_open(begin_s + wait_s) != now_open:
                return begin_s + wait_s
        return None

    def _next_clock_change(self, begin_s: float, horizon_s: float) -> float:
        """First second at which the zone's offset is another one than at `begin_s`, or the horizon."""
        offset, early = self._offset(begin_s), begin_s
        while early < horizon_s:
            late = min(early + STRIDE_S, horizon_s)
            if self._offset(late) != offset:
                return self._first_other(early, late, offset)
            early = late
        return horizon_s

    def _first_other(self, early: float, late: float, offset: float) -> float:
        before, after = int(early), int(-(-late // 1))
        while after - before > 1:
            middle = (before + after) // 2
            before, after = (middle, after) if self._offset(middle) == offset else (before, middle)
        return float(after)


def offset_of(zone: str) -> Offset:
    """Of an IANA zone; empty: of this computer. Raises ConfigError if there is no such zone."""
    if not zone:
        return lambda unix_s: float(time.localtime(unix_s).tm_gmtoff)
    try:
        found = ZoneInfo(zone)
    except (OSError, ValueError, KeyError) as error:
        near = get_close_matches(zone, available_timezones(), n=1)
        hint = f"did you mean {near[0]}?" if near else "give an IANA name, such as Europe/Helsinki"
        raise ConfigError(f"timezone is {zone[:MAX_WINDOW_CHARS]!r}, which is no zone: {hint}") from error

    def offset(unix_s: float) -> float:
        ahead = datetime.fromtimestamp(unix_s, found).utcoffset()
        assert ahead is not None
        return ahead.total_seconds()

    return offset


def _parse(window: str) -> list[Span]:
    """The spans of the week that it names. Raises ConfigError."""
    words = window.lower().split() if len(window) <= MAX_WINDOW_CHARS else []
    if not 1 <= len(words) <= 2:
        raise _bad(window, f"give days, hours or both, {EXAMPLE}")
    hours = words.pop() if words[-1][0].isdigit() else "00:00-24:00"
    days = _days(words.pop(), window) if words else range(7)
    if words:
        raise _bad(window, f"days come first, then hours, {EXAMPLE}")
    begin_s, end_s = _hours(hours, window)
    if end_s <= begin_s:
        end_s += DAY_S
    return [span for day in days for span in _within_week(day * DAY_S + begin_s, day * DAY_S + end_s)]


def _within_week(begin_s: int, end_s: int) -> list[Span]:
    if end_s <= WEEK_S:
        return [(begin_s, end_s)]
    return [span for span in ((begin_s, WEEK_S), (0, end_s - WEEK_S)) if span[0] < span[1]]


def _days(text: str, window: str) -> list[int]:
    days: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        for name in (first, last):
            if name not in DAYS:
                raise _bad(window, f"{name!r} is no day: give mon, tue, wed, thu, fri, sat, sun, {EXAMPLE}")
        number = (DAYS.index(last) - DAYS.index(first)) % 7 + 1
        days += [(DAYS.index(first) + step) % 7 for step in range(number)]
    return days


def _hours(text: str, window: str) -> tuple[int, int]:
    begin, dash, end = text.partition("-")
    if not dash:
        raise _bad(window, f"hours are two times with a '-', {EXAMPLE}")
    begin_s, end_s = _time(begin, window), _time(end, window)
    if begin_s == DAY_S:
        raise _bad(window, "a window begins before 24:00: write 00:00")
    if begin_s == end_s:
        raise _bad(
            window, "it never opens, since it ends when it begins: for the whole day write 00:00-24:00"
        )
    return begin_s, end_s


def _time(text: str, window: str) -> int:
    """Seconds from midnight."""
    hour, colon, minute = text.partition(":")
    if not (colon and hour.isascii() and hour.isdigit() and minute.isascii() and minute.isdigit()):
        raise _bad(window, f"{text!r} is no time: write 07:30")
    if len(hour) > 2 or len(minute) != 2 or int(minute) > 59 or int(hour) * 60 + int(minute) > 24 * 60:
        raise _bad(window, f"{text!r} is no time of day: 00:00 to 24:00")
    return int(hour) * 3600 + int(minute) * 60


def _bad(window: str, why: str) -> ConfigError:
    return ConfigError(f"schedule has {window[:MAX_WINDOW_CHARS]!r}: {why}")
