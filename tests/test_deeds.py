"""What a node did so far: the books, the file, and `talkoot me`."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from talkoot.cli.main import app
from talkoot.cli.me import summary, summary_text
from talkoot.dht.errors import ConfigError
from talkoot.peer.files import atomic_write
from talkoot.peer.guest import deeds
from talkoot.peer.guest.bookkeeping import Books, load
from talkoot.peer.guest.deeds import LAST_ROUNDS, MAX_MONTHS, MAX_REASONS, Deeds, Since
from talkoot.peer.guest.energy import Rapl
from talkoot.peer.guest.settings import Current, GuestSettings
from talkoot.peer.statedir import StateDir

ME = "me"
DAY_S = 86400.0


def record(number: int, own: bool | None, *, seconds: float | None = 2.0, reason: str = "") -> Any:
    left_out = [{"peer_id": ME, "reason": reason}] if reason else []
    return SimpleNamespace(round=number, own=own, seconds=seconds, left_out=left_out)


def progress(steps: int, busy_s: float) -> Any:
    return SimpleNamespace(steps_total=steps, tokens_total=10 * steps, busy_seconds=busy_s)


class Node:
    """As much of one as the books look at."""

    def __init__(self, folder: Path) -> None:
        self.paths = StateDir(folder)
        self.identity = SimpleNamespace(peer_id=ME)
        self.swarming: Any = SimpleNamespace(history=SimpleNamespace(records=[]))
        self.network = SimpleNamespace(traffic=SimpleNamespace(bytes_sent=0, bytes_received=0))
        self.training = SimpleNamespace(ready=SimpleNamespace(device="cuda"))
        self.contributor = SimpleNamespace(progress=None, gpus=())
        self.settings = Current(GuestSettings(energy_price=0.4, currency="EUR"))


def test_rounds_are_counted_once_with_their_outcome() -> None:
    books = Deeds(since_s=0.0)
    records = [
        record(0, True),
        record(1, False, reason="late"),
        record(2, False),
        record(3, None),
        record(4, None, seconds=None),
        record(5, True),
    ]
    for each in records + records:
        books.add_round(each, ME, 7.0)
    assert books.counted == 2
    assert books.not_counted == {"late": 2, "nothing sent": 1, "not there": 1}
    assert [each.outcome for each in books.last_rounds][-2:] == ["not there", "counted"]


def test_the_books_stay_small() -> None:
    books = Deeds(since_s=0.0)
    for number in range(500):
        books.add_round(record(number, False, reason=f"reason {number}"), ME, number * DAY_S)
        books.add_traffic(1, 2, number * 30 * DAY_S)
    assert len(books.last_rounds) == LAST_ROUNDS
    assert len(books.months) == MAX_MONTHS
    assert len(books.not_counted) == MAX_REASONS + 1
    assert sum(books.not_counted.values()) == 500
    assert len(deeds.write(books)) < deeds.MAX_BYTES


def test_energy_is_none_where_nothing_tells_and_zero_where_it_was_measured() -> None:
    books = Deeds(since_s=0.0, energy_price=0.5)
    books.add_work(10.0, None)
    books.add_work(10.0, float("nan"))
    assert (books.energy, books.cost) == (None, None)
    books.add_work(10.0, 0.0)
    assert (books.energy, books.cost) == (0.0, 0.0)
    books.add_work(10.0, 7.2e6)
    assert (books.energy, books.cost) == (7.2e6, 1.0)
    assert (books.worked_s, books.measured_s) == (40.0, 20.0)
    books.energy_price = 0.0
    assert books.cost is None


def test_a_total_that_begins_anew_is_followed() -> None:
    since = Since()
    assert [since.more("a", total) for total in (5, 7, 7, 2, 3)] == [5, 2, 0, 2, 1]


def test_what_was_done_survives_a_restart(tmp_path: Path) -> None:
    node = Node(tmp_path)
    for start in range(2):
        books = Books(node)  # type: ignore[arg-type]
        books.begin(load(node.paths))
        node.swarming.history.records = [record(start, True)]
        node.network.traffic = SimpleNamespace(bytes_sent=100, bytes_received=50)
        for steps, busy_s, joules in ((1, 1.0, 10.0), (3, 2.0, 30.0)):
            node.contributor.progress = progress(steps, busy_s)
            node.contributor.gpus = (SimpleNamespace(joules=joules),)
            books.look()
        node.contributor.progress = progress(2, 0.5)  # another process of the trainer
        node.contributor.gpus = (SimpleNamespace(joules=5.0),)
        books.look()
        books.save()
    found = load(node.paths)
    assert found is not None
    assert (found.steps, found.tokens, found.counted, found.worked_s) == (10, 100, 2, 5.0)
    assert (found.energy, found.currency) == (70.0, "EUR")
    assert [(each.sent, each.received) for each in found.months.values()] == [(200, 100)]


def test_an_unknown_energy_of_the_gpu_is_not_taken_from_the_processor(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.contributor.progress, node.contributor.gpus = progress(1, 1.0), (SimpleNamespace(joules=None),)
    books = Books(node)  # type: ignore[arg-type]
    books.look()
    books.save()
    found = load(node.paths)
    assert found is not None
    assert found.energy is None


def write_counter(folder: Path, name: str, value: int) -> None:
    (folder / name).mkdir(exist_ok=True, parents=True)
    (folder / name / "energy_uj").write_text(f"{value}\n")
    (folder / name / "max_energy_range_uj").write_text("999\n")


def test_the_processors_counters_begin_anew_and_parts_of_one_are_not_added(tmp_path: Path) -> None:
    assert Rapl(tmp_path).joules() is None
    write_counter(tmp_path, "intel-rapl:0", 900)
    write_counter(tmp_path, "intel-rapl:0:0", 5)
    write_counter(tmp_path, "intel-rapl:1", 100)
    rapl = Rapl(tmp_path)
    write_counter(tmp_path, "intel-rapl:0", 10)
    write_counter(tmp_path, "intel-rapl:1", 150)
    assert rapl.joules() == pytest.approx((110 + 50) / 1e6)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert rapl.joules() is None


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"since_s": 1, "format": 2}', b'{"since_s": "x"}', b"[" * 10_000]
)
def test_a_damaged_file_is_said_in_one_line(content: bytes, tmp_path: Path) -> None:
    paths = StateDir(tmp_path)
    atomic_write(paths.deeds, content)
    with pytest.raises(ConfigError, match=r"me\.json is damaged, move it away"):
        load(paths)


def test_the_command_reads_the_file_alone(tmp_path: Path) -> None:
    books = Deeds(since_s=1.0, saved_s=2.0, steps=1234, tokens=5_000_000, energy_price=0.5, currency="EUR")
    books.add_round(record(7, True), ME, 3.0)
    books.add_round(record(8, False, reason="late"), ME, 4.0)
    books.add_traffic(10**9, 2 * 10**6, time.time())
    books.add_work(3600.0, 7.2e6)
    atomic_write(StateDir(tmp_path).deeds, deeds.write(books))
    ran = CliRunner().invoke(app, ["me", "--state-dir", str(tmp_path)])
    assert ran.exit_code == 0
    for words in ("1.2 k steps, 5.0 M tokens in 1 h 00 min", "1 counted, 1 not (1 late)", "2.000 kWh",
                  "1.00 EUR", "1.0 GB up, 2.0 MB down this month"):  # fmt: skip
        assert words in ran.output
    answer = json.loads(CliRunner().invoke(app, ["me", "--json", "--state-dir", str(tmp_path)]).output)
    assert answer == json.loads(json.dumps(summary(books)))
    assert (answer["joules"], answer["cost"]) == (7.2e6, 1.0)


def test_what_is_not_known_is_said() -> None:
    text = summary_text(summary(Deeds(since_s=1.0)))
    assert "not known: nothing on this machine measures it" in text
    assert summary(Deeds(since_s=1.0))["joules"] is None


def test_a_state_directory_without_books_is_one_line(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["me", "--state-dir", str(tmp_path)])
    assert isinstance(ran.exception, ConfigError)
    assert "has nothing to tell yet" in str(ran.exception)
