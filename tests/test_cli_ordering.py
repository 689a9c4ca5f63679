"""Times that people give, in their own time zone, and words for what follows."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest

from talkoot.cli.ordering import parse_time
from talkoot.cli.words import state_words
from talkoot.dht.errors import ConfigError


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Changes the computer's time zone."""

    def change(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield change
    monkeypatch.undo()
    if "TZ" not in os.environ:
        time.tzset()


BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"
"""Europe/Berlin, wherever zone files lack."""


@pytest.mark.parametrize(
    ("now", "text", "wanted"),
    [
        ("2026-06-10T12:00", "18:00", "2026-06-10T18:00+02:00"),
        ("2026-06-10T12:00", "9:30", "2026-06-11T09:30+02:00"),
        ("2026-06-10T12:00", "12:00", "2026-06-11T12:00+02:00"),
        ("2026-12-31T23:59", "00:00", "2027-01-01T00:00+01:00"),
        ("2026-03-28T20:00", "7:00", "2026-03-29T07:00+02:00"),  # the clock goes forward in between
        ("2026-10-24T20:00", "7:00", "2026-10-25T07:00+01:00"),  # and back
        ("2026-06-10T12:00", "2026-12-24T18:00", "2026-12-24T18:00+01:00"),
        ("2026-06-10T12:00", "2026-12-24T18:00+00:00", "2026-12-24T18:00+00:00"),
        ("2026-06-10T12:00", " 2026-06-11 08:15 ", "2026-06-11T08:15+02:00"),
    ],
)
def test_the_next_time_is_meant(zone: Callable[[str], None], now: str, text: str, wanted: str) -> None:
    zone(BERLIN)
    at = parse_time(text, datetime.fromisoformat(now).astimezone())
    assert at == datetime.fromisoformat(wanted).timestamp()


@pytest.mark.parametrize(
    "text", ["", "6", "24:00", "12:60", "soon", "2026-12-24", "2025-01-01T00:00", "1e9", "-1:00"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no time; write|lies in the past"):
        parse_time(text, datetime.fromisoformat("2026-06-10T12:00+02:00"))


def test_words_of_a_state() -> None:
    assert state_words({"state": "training", "reason": "", "detail": ""}) == "training"
    assert state_words(
        {"state": "paused", "reason": "other_gpu_use", "detail": "blender\x1b[2J has 3 GB"}
    ) == ("paused (other gpu use, blender?[2J has 3 GB)")
    assert state_words({"state": "starting", "detail": "trainer restarts"}) == "starting (trainer restarts)"
    assert state_words({}) == "?"
