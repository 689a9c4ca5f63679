"""One line a round, the same facts for people and programs; the last lines are kept on disk, bounded."""

import io
import json
import logging
from collections import Counter
from pathlib import Path

import pytest
from state_rig import FOUNDERS, advance, found

from talkoot.peer import kept_log, logs
from talkoot.peer.history import History
from talkoot.peer.kept_log import kept, last_lines
from talkoot.peer.metrics import Metrics
from talkoot.peer.round_line import round_fields
from talkoot.peer.simulation.virtual_time import run_virtual

pytestmark = pytest.mark.usefixtures("restored_logging")

SECRET = "talkoot://correct-horse-battery-staple"
LATE = FOUNDERS[2]


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Of a round that left one out."""

    async def main() -> dict[str, object]:
        holdings = found(tmp_path_factory.mktemp("round"))
        before = holdings.ledger
        certificate = advance(holdings, by=FOUNDERS[:2])
        history = History()
        history.begin(0)
        history.left_out(LATE.key, "late")
        history.attempt_over("exchange")
        record = history.commit(
            certificate, holdings.ledger, before, own=True, attempt=None, jobs={}, codec_error=None,
            bytes_sent=0, fetched=False, loss=2.71828,
        )  # fmt: skip
        record.phases = {"form": 0.021, "exchange": 12.5, "certify": 0.1}
        record.seconds = 12.621
        holdings.close()
        return round_fields(record, certificate)

    return run_virtual(main())


def test_programs_get_every_fact_under_its_name(fields: dict[str, object]) -> None:
    stream = io.StringIO()
    logs.configure(stream, as_json=True)
    logging.getLogger("talkoot.rounds").info("round committed", extra=fields)
    line = json.loads(stream.getvalue())
    assert {name: line[name] for name in fields} == fields
    assert (line["round"], line["group"], line["counted"], line["loss"]) == (0, 2, 2, 2.7183)
    assert line["left_out"] == [{"peer_id": LATE.peer_id[-8:], "reason": "late"}]


def test_people_get_the_same_in_one_line(fields: dict[str, object]) -> None:
    stream = io.StringIO()
    logs.configure(stream, as_json=False)
    logging.getLogger("talkoot.rounds").info("round committed", extra=fields)
    (line,) = stream.getvalue().splitlines()
    assert "round committed" in line
    assert f"left_out='{LATE.peer_id[-8:]} (late)'" in line
    assert "phases='form 0.021, exchange 12.5, certify 0.1'" in line
    assert "failures=exchange" in line
    for name in fields:
        assert f" {name}=" in line


def test_nobody_left_out_is_a_dash(fields: dict[str, object]) -> None:
    stream = io.StringIO()
    logs.configure(stream, as_json=False)
    logging.getLogger("talkoot.rounds").info("round committed", extra=fields | {"left_out": []})
    assert " left_out=- " in stream.getvalue()


def test_every_warning_and_error_is_counted_once(tmp_path: Path) -> None:
    metrics = Metrics()
    logs.configure(io.StringIO(), count=metrics.log_messages.inc)
    with kept(tmp_path / "logs"):
        logging.getLogger("some.library").warning("odd")
        logs.get("talkoot.test").warning("odd, too")
        logging.getLogger("talkoot.test").error("wrong")
        logging.getLogger("talkoot.test").debug("not written")
    counted = Counter(
        {
            line.split('"')[1]: float(line.split()[-1])
            for line in metrics.expose().decode().splitlines()
            if line.startswith("talkoot_log_messages_total{")
        }
    )
    assert +counted == {"warning": 2.0, "error": 1.0}


def test_the_last_lines_are_kept_without_secrets(tmp_path: Path) -> None:
    logs.configure(io.StringIO(), as_json=False)
    with kept(tmp_path / "logs"):
        logs.get("talkoot.test").info("joined", invite=SECRET, by=SECRET, round=3)
    (line,) = last_lines(tmp_path / "logs", 10_000)
    assert json.loads(line)["round"] == 3
    assert "horse" not in line


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_log, "MAX_FILE_BYTES", 4000)
    logs.configure(io.StringIO())
    with kept(tmp_path / "logs"):
        for number in range(200):
            logging.getLogger("talkoot.test").info("line %d", number)
    files = sorted((tmp_path / "logs").iterdir())
    assert [file.name for file in files] == ["talkoot.log", "talkoot.log.1"]
    assert all(file.stat().st_size <= 4000 for file in files)
    lines = last_lines(tmp_path / "logs", 2500)
    numbers = [int(json.loads(line)["message"].split()[1]) for line in lines]
    assert numbers == list(range(200 - len(numbers), 200))
    assert 1250 <= sum(len(line) + 1 for line in lines) <= 2500


def test_a_disk_that_refuses_costs_lines_only(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("no folder")
    stream = io.StringIO()
    logs.configure(stream)
    with kept(tmp_path / "logs"):
        logging.getLogger("talkoot.test").info("on")
    assert len(stream.getvalue().splitlines()) == 1
    assert last_lines(tmp_path / "logs", 1000) == []
