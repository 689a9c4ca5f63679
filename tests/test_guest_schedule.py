"""Weekly windows: what the clock on the wall shows decides, in each zone and both changes of the clock."""

import random
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from talkoot.dht.errors import ConfigError
from talkoot.peer.guest import schedule as schedule_module
from talkoot.peer.guest.holds import Holds
from talkoot.peer.guest.schedule import DAYS, MAX_WINDOWS, Schedule
from talkoot.peer.guest.settings import Current, GuestSettings
from talkoot.peer.guest.timetable import Timetable

HELSINKI, NEW_YORK, LORD_HOWE = "Europe/Helsinki", "America/New_York", "Australia/Lord_Howe"


def unix(text: str) -> float:
    """Of a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def utc(unix_s: float | None) -> str | None:
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


# (windows, zone, from when, then each change that follows, all in UTC); the first of them opens.
CASES = [
    pytest.param(("mon-fri 22:00-07:00",), HELSINKI, "2026-06-01 12:00", [
        "2026-06-01 19:00:00", "2026-06-02 04:00:00", "2026-06-02 19:00:00"], id="every weekday's night"),
    pytest.param(("fri 22:00-07:00",), HELSINKI, "2026-06-04 00:00", [
        "2026-06-05 19:00:00", "2026-06-06 04:00:00", "2026-06-12 19:00:00"], id="of the day it begins"),
    pytest.param(("sun 22:00-07:00",), HELSINKI, "2026-06-07 00:00", [
        "2026-06-07 19:00:00", "2026-06-08 04:00:00", "2026-06-14 19:00:00"], id="across the week's end"),
    pytest.param(("sat-mon",), HELSINKI, "2026-06-04 00:00", [
        "2026-06-05 21:00:00", "2026-06-08 21:00:00", "2026-06-12 21:00:00"], id="days across it"),
    pytest.param(("22:00-24:00", "00:00-07:00"), HELSINKI, "2026-06-01 12:00", [
        "2026-06-01 19:00:00", "2026-06-02 04:00:00"], id="two windows that meet at midnight are one"),
    pytest.param(("08:00-12:00", "10:00-14:00", "mon 20:00-21:00"), "UTC", "2026-06-01 00:00", [
        "2026-06-01 08:00:00", "2026-06-01 14:00:00", "2026-06-01 20:00:00", "2026-06-01 21:00:00",
        "2026-06-02 08:00:00"], id="several, some overlap"),
    pytest.param(("sun 01:00-07:00",), HELSINKI, "2026-03-28 12:00", [
        "2026-03-28 23:00:00", "2026-03-29 04:00:00"], id="spring: five hours instead of six"),
    pytest.param(("sun 01:00-07:00",), HELSINKI, "2026-10-24 12:00", [
        "2026-10-24 22:00:00", "2026-10-25 05:00:00"], id="autumn: seven hours instead of six"),
    pytest.param(("sun 03:15-03:45",), HELSINKI, "2026-03-28 12:00", [
        "2026-04-05 00:15:00", "2026-04-05 00:45:00"], id="spring: skipped, a week later again"),
    pytest.param(("sun 03:30-06:00",), HELSINKI, "2026-03-28 12:00", [
        "2026-03-29 01:00:00", "2026-03-29 03:00:00"], id="spring: begins within the skipped hour"),
    pytest.param(("sun 01:00-03:30",), HELSINKI, "2026-03-28 12:00", [
        "2026-03-28 23:00:00", "2026-03-29 01:00:00"], id="spring: ends within the skipped hour"),
    pytest.param(("sun 03:15-03:45",), HELSINKI, "2026-10-24 12:00", [
        "2026-10-25 00:15:00", "2026-10-25 00:45:00", "2026-10-25 01:15:00", "2026-10-25 01:45:00"],
        id="autumn: the clock shows it twice"),
    pytest.param(("sun 02:00-03:30",), HELSINKI, "2026-10-24 12:00", [
        "2026-10-24 23:00:00", "2026-10-25 00:30:00", "2026-10-25 01:00:00", "2026-10-25 01:30:00"],
        id="autumn: the clock goes back into it"),
    pytest.param(("sat 22:00-07:00",), NEW_YORK, "2026-03-07 12:00", [
        "2026-03-08 03:00:00", "2026-03-08 11:00:00", "2026-03-15 02:00:00"], id="another zone, spring"),
    pytest.param(("sat 22:00-07:00",), NEW_YORK, "2026-10-31 12:00", [
        "2026-11-01 02:00:00", "2026-11-01 12:00:00", "2026-11-08 03:00:00"], id="another zone, autumn"),
    pytest.param(("sun 01:45-02:15",), LORD_HOWE, "2026-10-03 12:00", [
        "2026-10-03 15:15:00", "2026-10-03 15:30:00"], id="half an hour is skipped at 02:00"),
    pytest.param(("09:00-10:00",), "Asia/Kathmandu", "2026-06-01 00:00", [
        "2026-06-01 03:15:00", "2026-06-01 04:15:00"], id="a quarter of an hour off"),
    pytest.param(("fri",), "Pacific/Apia", "2011-12-29 12:00", [
        "2012-01-05 10:00:00", "2012-01-06 10:00:00"], id="the Friday that Samoa left out"),
    pytest.param(("sun 00:00-06:00",), "Asia/Beirut", "2026-03-28 12:00", [
        "2026-03-28 22:00:00", "2026-03-29 03:00:00"], id="the hour after midnight is skipped"),
]  # fmt: skip


@pytest.mark.parametrize(("windows", "zone", "since", "changes"), CASES)
def test_it_opens_and_closes_when_the_wall_clock_says(
    windows: tuple[str, ...], zone: str, since: str, changes: list[str]
) -> None:
    schedule = Schedule(windows, zone)
    at = unix(since)
    assert not schedule.is_open(at)
    found: list[str | None] = []
    for number, _ in enumerate(changes):
        change = schedule.changes_at(at)
        assert change is not None
        opens = number % 2 == 0
        assert schedule.is_open(change) == opens
        assert schedule.is_open(change - 1) != opens
        found.append(utc(change))
        at = change
    assert found == changes


@pytest.mark.parametrize(
    "windows",
    [(), ("mon-sun",), ("00:00-24:00",), ("00:00-12:00", "12:00-24:00"), ("08:00-20:00", "20:00-08:00")],
)
def test_what_is_always_open_never_changes(windows: tuple[str, ...]) -> None:
    schedule = Schedule(windows, HELSINKI)
    assert schedule.is_open(unix("2026-10-25 00:59"))
    assert schedule.changes_at(unix("2026-10-20 00:00")) is None


@pytest.mark.parametrize(
    ("window", "says"),
    [
        ("22:00-22:00", "never opens"),
        ("mon 00:00-00:00", "never opens"),
        ("", "give days, hours or both"),
        ("never", "'never' is no day"),
        ("mon-", "'' is no day"),
        ("mon 22", "two times with a '-'"),
        ("25:00-26:00", "'25:00' is no time of day"),
        ("10:60-11:00", "'10:60' is no time of day"),
        ("24:00-01:00", "write 00:00"),
        ("10-12", "'10' is no time: write 07:30"),
        ("²2:00-23:00", "no time"),
        ("10:00-12:00 mon", "days come first"),
        ("mon tue 10:00-12:00", "give days, hours or both"),
        ("m" * 101, "give days, hours or both"),
    ],
)
def test_a_bad_window_is_named_in_one_line(window: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        GuestSettings(schedule=("sat", window))
    assert repr(window[:100]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_windows_and_zones_that_are_not() -> None:
    with pytest.raises(ConfigError, match="101 windows, at most 100"):
        Schedule(["sat"] * (MAX_WINDOWS + 1))
    with pytest.raises(ConfigError, match=r"no zone: did you mean Europe/Helsinki\?"):
        GuestSettings(timezone="Europe/Helsinky")
    for zone in ("../../etc/passwd", "Europe", "/etc/localtime", "x" * 5000):
        with pytest.raises(ConfigError, match="no zone"):
            Schedule(["sat"], zone)


def test_the_computers_own_zone_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "EET-2EEST,M3.5.0/3,M10.5.0/4")
    time.tzset()
    try:
        own = Schedule(["sun 01:00-07:00"])
        assert utc(own.changes_at(unix("2026-10-24 22:00"))) == "2026-10-25 05:00:00"
        assert utc(own.changes_at(unix("2026-03-28 23:00"))) == "2026-03-29 04:00:00"
    finally:
        monkeypatch.undo()
        time.tzset()


def shown(zone: str, at: float, windows: list[tuple[int, int, int]]) -> bool:
    """A dumb reference: whether the wall clock shows a minute of a window (day, first and last minute)."""
    wall = datetime.fromtimestamp(at, ZoneInfo(zone))
    minute = wall.hour * 60 + wall.minute
    for day, begin, end in windows:
        if begin < end:
            if wall.weekday() == day and begin <= minute < end:
                return True
        elif (wall.weekday() == day and minute >= begin) or (
            wall.weekday() == (day + 1) % 7 and minute < end
        ):
            return True
    return False


@pytest.mark.parametrize("seed", range(4))
def test_changes_are_those_that_looking_at_each_minute_finds(seed: int) -> None:
    chance = random.Random(seed)
    zone = chance.choice([HELSINKI, NEW_YORK, LORD_HOWE, "Africa/Casablanca", "Antarctica/Troll"])
    windows = []
    for _ in range(chance.randint(1, 3)):
        begin = chance.randrange(0, 1440)
        end = chance.choice([minute for minute in range(0, 1440, 15) if minute != begin])
        windows.append((chance.randrange(7), begin, end))
    texts = [f"{DAYS[d]} {b // 60:02}:{b % 60:02}-{e // 60:02}:{e % 60:02}" for d, b, e in windows]
    schedule = Schedule(texts, zone)
    begin_s = unix(
        chance.choice(["2026-03-05 00:00", "2026-03-25 00:00", "2026-10-22 00:00", "2026-10-01 00:00"])
    )
    minutes = [begin_s + 60 * minute for minute in range(12 * 1440)]
    opens = [shown(zone, at, windows) for at in minutes]
    expected = [minutes[i] for i in range(1, len(minutes)) if opens[i] != opens[i - 1]]
    assert schedule.is_open(begin_s) == opens[0]
    found, at = [], begin_s
    while (change := schedule.changes_at(at)) is not None and change < begin_s + 12 * 86_400:
        found.append(change)
        at = change
    assert [utc(at) for at in found] == [utc(at) for at in expected]


def test_the_hold_names_the_next_opening_and_follows_settings_and_clock() -> None:
    clock = [unix("2026-11-22 12:00")]
    holds, settings = Holds(), Current(GuestSettings())
    timetable = Timetable(holds, settings, lambda: clock[0])
    assert holds.shown is None
    settings.change(GuestSettings(schedule=("22:00-07:00",), timezone="UTC"))
    assert holds.shown is not None
    assert (holds.shown.reason, utc(holds.shown.until)) == ("schedule", "2026-11-22 22:00:00")
    clock[0] = unix("2026-11-22 21:59:59")
    timetable.look()
    assert holds.shown is not None
    clock[0] += 1
    timetable.look()
    assert holds.shown is None
    clock[0] = unix("2026-11-20 08:00")  # the clock was set back
    timetable.look()
    assert holds.shown is not None
    assert utc(holds.shown.until) == "2026-11-20 22:00:00"
    settings.change(GuestSettings())
    assert holds.shown is None


def test_a_look_is_cheap() -> None:
    calls = 0
    schedule = Schedule([f"{day} 22:00-07:00" for day in DAYS], HELSINKI)
    real = schedule._offset

    def counted(at: float) -> float:
        nonlocal calls
        calls += 1
        return real(at)

    schedule._offset = counted
    schedule.changes_at(unix("2026-10-24 12:00"))
    assert calls <= schedule_module.HORIZON_S / schedule_module.STRIDE_S
    assert timedelta(seconds=schedule_module.HORIZON_S) > timedelta(weeks=2)
