"""Logs are for people or machines, hide secrets, and are counted."""

import io
import json
import logging
from collections import Counter
from typing import Any

import pytest

from talkoot.peer import logs

pytestmark = pytest.mark.usefixtures("restored_logging")

SECRET = "correct-horse-battery-staple"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_pipe_gets_one_json_object_a_line() -> None:
    stream = io.StringIO()
    logs.configure(stream)
    log = logs.get("talkoot.test")
    log.info("round committed", round=3, seconds=0.5, peer=bytes(range(32)))
    log.warning("multi\nline", loss=float("nan"))
    log.debug("not shown")
    first, second = lines(stream)
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "message": "round committed",
        "level": "info",
        "logger": "talkoot.test",
        "round": 3,
        "seconds": 0.5,
        "peer": "000102030405...",
    }
    assert second["message"] == "multi\nline"
    assert second["loss"] is None


def progress(ratio: float) -> None:
    logging.getLogger("talkoot.sync").info("state: %d MB", 100 * ratio, extra={"done_ratio": ratio})


def test_progress_stays_at_the_bottom_of_a_terminal_as_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "46")
    stream = Terminal()
    logs.configure(stream)
    progress(0.25)
    progress(0.5)
    logs.get("talkoot.test").info("round committed")
    logs.get("talkoot.test").info("and so on")
    quarter, half, rest = stream.getvalue().split("\r\x1b[K")
    assert quarter == "[######..................] state: 25 MB"
    assert half == "[############............] state: 50 MB"
    assert [line.count("\n") for line in (quarter, half, rest)] == [0, 0, 2]
    monkeypatch.setenv("COLUMNS", "30")
    progress(1.0)
    assert stream.getvalue().endswith("\n[" + "#" * 24 + "] st")


def test_progress_is_a_line_like_any_other_in_a_pipe() -> None:
    stream = io.StringIO()
    logs.configure(stream)
    progress(0.25)
    (line,) = lines(stream)
    assert (line["message"], line["done_ratio"]) == ("state: 25 MB", 0.25)


def test_a_terminal_gets_words() -> None:
    stream = Terminal()
    logs.configure(stream)
    logs.get("talkoot.test").info("round committed", round=3)
    text = stream.getvalue()
    assert "round committed" in text
    assert not text.startswith("{")
    assert "\x1b[" in text


def test_verbose_shows_more() -> None:
    stream = io.StringIO()
    logs.configure(stream, verbose=True)
    logs.get("talkoot.test").debug("detail")
    assert lines(stream)[0]["level"] == "debug"


def test_other_libraries_take_the_same_way() -> None:
    stream, counts = io.StringIO(), Counter[str]()
    logs.configure(stream, count=lambda level: counts.update([level]))
    logging.getLogger("some.library").warning("it is %d degrees, see %s", 40, "talkoot://" + SECRET)
    (line,) = lines(stream)
    assert line["message"] == "it is 40 degrees, see talkoot://[hidden]"
    assert line["logger"] == "some.library"
    assert counts == {"warning": 1}


def test_a_long_traceback_keeps_its_end() -> None:
    stream = io.StringIO()
    logs.configure(stream)
    try:
        raise ValueError("x" * 20_000 + " the reason")
    except ValueError:
        logging.getLogger("some.library").exception("request failed")
    (line,) = lines(stream)
    assert line["message"] == "request failed"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("the reason")
    assert len(line["exception"]) < 8300


def test_every_written_line_is_counted() -> None:
    stream, counts = io.StringIO(), Counter[str]()
    logs.configure(stream, count=lambda level: counts.update([level]))
    log = logs.get("talkoot.test")
    log.debug("not shown")
    for _ in range(2):
        log.info("x")
    log.error("y")
    assert counts == {"info": 2, "error": 1}


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_no_secret_is_written(stream: type[io.StringIO]) -> None:
    out = stream()
    logs.configure(out, verbose=True)
    log = logs.get("talkoot.test")

    class Config:
        def __str__(self) -> str:
            return f"Config(join='talkoot://{SECRET}')"

    log.info("with fields", token=SECRET, api_token=SECRET, invite=SECRET, private_key=SECRET, seed=SECRET)
    log.info("nested", headers={"X-Talkoot-Token": SECRET, "Authorization": SECRET, "a": [{"token": SECRET}]})
    log.info(f"joining talkoot://{SECRET}", options=Config(), pair=(f"talkoot://{SECRET}",))
    log.info("raw", data=SECRET.encode(), view=memoryview(SECRET.encode()))
    try:
        local_secret = SECRET
        raise ValueError(f"bad invite talkoot://{local_secret}")
    except ValueError:
        log.exception("it failed")
    text = out.getvalue()
    assert SECRET not in text
    assert "it failed" in text
    assert "ValueError" in text


def test_remote_text_cannot_forge_lines_or_fill_the_disk() -> None:
    out = Terminal()
    logs.configure(out)
    logs.get("talkoot.test").info("refused", detail="\x1b[2J\x9b1mred\r\nforged" + "x" * 100_000)
    text = out.getvalue()
    assert len(text.splitlines()) == 1
    assert "\x1b[2J" not in text
    assert "\x9b" not in text
    assert "\r" not in text
    assert len(text) < 10_000


def test_repeated_lines_are_held_back() -> None:
    stream, now = io.StringIO(), [100.0]
    logs.configure(stream)
    limited = logs.RateLimited(logs.get("talkoot.test"), interval_s=10, clock=lambda: now[0])
    for _ in range(5):
        limited.warning("again", x=1)
    limited.error("another")
    now[0] += 10
    limited.warning("again", x=2)
    now[0] += 10
    limited.info("again", x=3)
    written = [(line["message"], line.get("x"), line.get("left_out")) for line in lines(stream)]
    assert written == [("again", 1, None), ("another", None, None), ("again", 2, 4), ("again", 3, None)]


def test_held_back_events_are_bounded() -> None:
    stream = io.StringIO()
    logs.configure(stream)
    limited = logs.RateLimited(logs.get("talkoot.test"), clock=lambda: 0.0)
    for number in range(2 * logs.MAX_RATE_LIMITED_EVENTS):
        limited.info(f"event {number}")
    assert len(limited._last) == logs.MAX_RATE_LIMITED_EVENTS
