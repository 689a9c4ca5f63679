"""What is known of the uplink: measured, stated, remembered."""

from pathlib import Path

import pytest

from talkoot.peer import clock
from talkoot.peer.options import MAX_UPLINK, RunOptions
from talkoot.peer.uplink import Memory, UploadMeter


def measured(rate: float, *, stated: float = 0.0) -> UploadMeter:
    meter = UploadMeter(stated)
    meter.measured = rate
    return meter


@pytest.mark.parametrize(
    ("rate", "stated", "claimed"), [(0, 0, 0), (5, 0, 5), (0, 7, 7), (5, 7, 5), (9, 7, 7)]
)
def test_never_more_is_claimed_than_the_volunteer_says(rate: float, stated: float, claimed: float) -> None:
    assert measured(rate, stated=stated).rate == claimed


def test_a_restart_knows_the_uplink(tmp_path: Path) -> None:
    meter = measured(0.0)
    memory = Memory(tmp_path / "uplink", meter)
    assert not memory.is_stale
    meter.measured = 1e6
    assert memory.is_stale
    memory.write()
    assert not memory.is_stale
    meter.measured = 1.05e6
    assert not memory.is_stale
    meter.measured = 8e5
    assert memory.is_stale

    again = UploadMeter(stated=5e5)
    Memory(tmp_path / "uplink", again)
    assert again.measured == 1e6
    assert again.rate == 5e5


@pytest.mark.parametrize(
    "content", [b"", b"fast", b"-1", b"nan", b"inf", b"1e300", b"\xff\x00", b"1" * 300_000]
)
def test_a_damaged_memory_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "uplink"
    path.write_bytes(content)
    meter = UploadMeter()
    Memory(path, meter)
    assert meter.rate == 0.0


def test_a_disk_that_takes_nothing_costs_only_the_memory(tmp_path: Path) -> None:
    meter = UploadMeter()
    memory = Memory(tmp_path / "missing" / "uplink", meter)
    meter.measured = 1e6
    memory.write()
    assert memory.is_stale
    assert meter.rate == 1e6


@pytest.mark.parametrize("uplink", [-1.0, 1.0, 2 * MAX_UPLINK, float("nan")])
def test_an_uplink_that_there_is_not_is_refused(tmp_path: Path, uplink: float) -> None:
    with pytest.raises(ValueError, match="uplink must be"):
        RunOptions(state_dir=tmp_path, uplink=uplink)


def test_what_goes_through_a_relay_is_measured_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(clock, "now", lambda: now[0])
    meter = UploadMeter()
    for seconds, relayed in ((2.0, False), (8.0, True)):
        meter.begin()
        meter.sent(meter.MIN_BYTES, relayed=relayed)
        now[0] += seconds
        meter.end()
    assert meter.rate == meter.MIN_BYTES / 2
    meter.relayed = True
    assert meter.rate == meter.MIN_BYTES / 8


def test_another_way_begins_without_the_figures_of_the_one_before() -> None:
    meter = measured(5.0)
    meter.relayed = True
    assert meter.rate == 0.0
    meter.stated = 7.0
    assert meter.rate == 7.0
