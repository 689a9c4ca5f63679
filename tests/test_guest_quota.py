"""A month's bytes: counted, kept, and begun again."""

import time
from pathlib import Path

import pytest

from talkoot.dht.allowance import LOWEST_RATE
from talkoot.dht.errors import ConfigError
from talkoot.peer.guest.month import Month, month_of, next_month
from talkoot.peer.guest.quota import kept_month, require_quota
from talkoot.peer.guest.settings import GuestSettings
from talkoot.peer.guest.traffic import narrower
from talkoot.peer.serving import serve_rate
from talkoot.peer.uplink import UploadMeter


def at(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M"))


@pytest.mark.parametrize(
    ("now", "month", "following"),
    [
        ("2026-11-30 23:59", "2026-11", "2026-12-01 00:00"),
        ("2026-12-01 00:00", "2026-12", "2027-01-01 00:00"),
        ("2028-02-29 12:00", "2028-02", "2028-03-01 00:00"),
    ],
)
def test_a_month_is_one_of_the_calendar(now: str, month: str, following: str) -> None:
    assert month_of(at(now)) == month
    assert next_month(at(now)) == at(following)


def test_bytes_add_up_until_the_month_ends() -> None:
    month = Month("2026-11").add(5, 6, at("2026-11-01 00:00")).add(1, 1, at("2026-11-30 23:59"))
    assert (month.sent, month.received, month.used) == (6, 7, 13)
    assert month.add(2, 3, at("2026-12-01 00:00")) == Month("2026-12", 2, 3)


def test_a_clock_that_is_set_back_gives_no_bytes_back() -> None:
    month = Month("2026-12", 5, 5).add(1, 0, at("2026-11-30 00:00"))
    assert month == Month("2026-12", 6, 5)


def test_a_file_of_this_month_counts_and_others_do_not(tmp_path: Path) -> None:
    path, now = tmp_path / "quota.json", time.time()
    this = Month(month_of(now), 3, 4)
    path.write_bytes(this.encode())
    assert kept_month(path) == this
    path.write_bytes(Month("2020-01", 3, 4).encode())
    assert kept_month(path) == Month(month_of(now))


@pytest.mark.parametrize("data", [b"", b"{", b'{"month": "x", "sent": -1, "received": 0}', b"[]"])
def test_a_damaged_file_is_said_and_counted_from_nothing(
    data: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "quota.json"
    path.write_bytes(data)
    assert kept_month(path).used == 0
    assert "counted from 0" in caplog.text


def test_a_newcomer_without_bytes_left_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "quota.json"
    path.write_bytes(Month(month_of(time.time()), 10**9, 1).encode())
    with pytest.raises(ConfigError, match=r"1.00 GB of traffic are used up .* until 01 ") as caught:
        require_quota(path, GuestSettings(quota_bytes=10**9))
    assert "\n" not in str(caught.value)
    require_quota(path, GuestSettings(quota_bytes=2 * 10**9))
    require_quota(path, GuestSettings())


@pytest.mark.parametrize("field", ["upload", "download"])
@pytest.mark.parametrize("rate", [-1.0, 1.0, LOWEST_RATE - 1, float("inf"), float("nan")])
def test_impossible_limits_are_refused_by_name(field: str, rate: float) -> None:
    with pytest.raises(ValueError, match=f"{field} must be 64 kB/s or more"):
        GuestSettings(**{field: rate})  # type: ignore[arg-type]
    GuestSettings(**{field: LOWEST_RATE})  # type: ignore[arg-type]


def test_the_limit_is_claimed_as_the_uplink_and_the_line_is_not_forgotten() -> None:
    meter = UploadMeter()
    meter.limit = 1e6
    assert meter.rate == 1e6
    meter.measured = 5e6
    assert meter.rate == 1e6
    meter.limit = 0.0
    assert meter.rate == 5e6
    assert narrower(GuestSettings(upload=2e5, download=1e5)) == 1e5
    assert narrower(GuestSettings(upload=2e5)) == 2e5
    assert narrower(GuestSettings()) == 0


@pytest.mark.parametrize(
    ("exchanging", "all_traffic", "rate"),
    [(False, 0.0, float("inf")), (False, 1e5, 0.9e5), (True, 1e5, 0.25e5), (True, 0.0, 262144.0)],
)
def test_state_leaves_rounds_their_part_of_the_limit(
    exchanging: bool, all_traffic: float, rate: float
) -> None:
    assert serve_rate(0.0, 0.9 * all_traffic, exchanging=exchanging, all_traffic=all_traffic) == rate
