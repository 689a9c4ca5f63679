"""The round log keeps whole records within its limits, and believes nothing else, whatever happens."""

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.peer.record_writer import CHECKSUM_BYTES, HEADER
from talkoot.peer.roundlog import LogLimits, RoundLog

PLENTY = LogLimits(max_rounds=100, max_bytes=1 << 20)
OVERHEAD = HEADER.size + CHECKSUM_BYTES
STEPS = ["record begun", "record filled", "record written", "record renamed", "record durable"]


def name_of(number: int, branch: bytes = b"a") -> bytes:
    return branch * 24 + number.to_bytes(8, "little")


def content_of(number: int) -> bytes:
    return b"%d " % number * (100 + number)


def put(log: RoundLog, number: int, branch: bytes = b"a") -> bool:
    data = content_of(number)
    return log.write(number, name_of(number, branch), len(data), [data[:10], data[10:10], data[10:]])


def numbers(log: RoundLog) -> list[int]:
    return [kept.round for kept in log.records]


def whole(log: RoundLog, number: int, branch: bytes = b"a") -> bytes | None:
    return log.read(name_of(number, branch), 0, 1 << 30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "records"


def test_records_are_found_again(folder: Path) -> None:
    log = RoundLog(folder, PLENTY)
    for number in (0, 1, 7):
        assert put(log, number)
    for one in (log, RoundLog(folder, PLENTY)):
        assert numbers(one) == [0, 1, 7]
        assert one.num_damaged == 0
        assert whole(one, 7) == content_of(7)
        kept = one.find(name_of(1))
        assert kept is not None
        assert kept.num_bytes == len(content_of(1))
        assert one.find(name_of(2)) is None


def test_pieces_end_with_the_record(folder: Path) -> None:
    log = RoundLog(folder, PLENTY)
    put(log, 3)
    data = content_of(3)
    assert log.read(name_of(3), 5, 10) == data[5:15]
    assert log.read(name_of(3), len(data) - 2, 10) == data[-2:]
    for offset in (-1, len(data), 1 << 40):
        assert log.read(name_of(3), offset, 10) is None
    assert log.read(name_of(4), 0, 10) is None


def test_a_record_is_there_once(folder: Path) -> None:
    log = RoundLog(folder, PLENTY)
    assert put(log, 3)
    assert not put(log, 3)
    assert put(log, 3, b"b")  # another branch has taken its place
    assert numbers(log) == [3]
    assert whole(log, 3) is None
    assert whole(RoundLog(folder, PLENTY), 3, b"b") == content_of(3)


def test_records_of_a_branch_that_was_left_are_removed(folder: Path) -> None:
    log = RoundLog(folder, PLENTY)
    for number in range(5):
        put(log, number)
    writing = log.begin(5, name_of(5), 3)
    assert writing is not None
    log.keep_only(lambda kept: kept.round < 3)
    with writing:
        writing.write(b"abc")
        assert not writing.finish()
    assert numbers(log) == [0, 1, 2]
    assert numbers(RoundLog(folder, PLENTY)) == [0, 1, 2]
    assert sorted(path.name for path in folder.iterdir()) == [f"{number:012d}.record" for number in range(3)]


# -- limits ------------------------------------------------------------------------------------------------


def test_the_oldest_go_first(folder: Path) -> None:
    log = RoundLog(folder, LogLimits(max_rounds=3, max_bytes=1 << 20))
    for number in range(5):
        put(log, number)
    assert numbers(log) == [2, 3, 4]
    put(log, 6)
    assert numbers(log) == [4, 6]  # what is too old for the count goes, too
    assert numbers(RoundLog(folder, LogLimits(max_rounds=1, max_bytes=1 << 20))) == [6]


@examples(30)
@given(
    sizes=st.lists(st.integers(1, 400), max_size=12),
    max_rounds=st.integers(0, 6),
    max_bytes=st.integers(1, 2000),
)
def test_the_limits_hold_and_nothing_more_is_removed(
    sizes: list[int], max_rounds: int, max_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("limits") / "records"
    log = RoundLog(folder, LogLimits(max_rounds=max_rounds, max_bytes=max_bytes))
    expected: list[tuple[int, int]] = []
    for number, size in enumerate(sizes):
        taken = size + OVERHEAD <= max_bytes and max_rounds > 0
        assert log.write(number, name_of(number), size, [bytes(size)]) == taken
        if taken:
            expected.append((number, size + OVERHEAD))
            while sum(length for _, length in expected) > max_bytes or len(expected) > max_rounds:
                expected.pop(0)
            expected = [item for item in expected if item[0] > number - max_rounds]
        assert numbers(log) == [number for number, _ in expected]
        assert sum(path.stat().st_size for path in folder.iterdir()) <= max_bytes


# -- damage ------------------------------------------------------------------------------------------------


@examples(60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_when_the_log_is_opened(
    place: float, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damage") / "records"
    log = RoundLog(folder, PLENTY)
    put(log, 3)
    put(log, 4)
    path = folder / f"{3:012d}.record"
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    again = RoundLog(folder, PLENTY)
    assert (numbers(again), again.num_damaged) == ([4], 1)
    assert not path.exists()


@pytest.mark.parametrize("length", [0, 1, HEADER.size - 1, HEADER.size, OVERHEAD, -33, -1])
def test_a_torn_record_is_removed_with_one_warning(
    folder: Path, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    log = RoundLog(folder, PLENTY)
    for number in (3, 4, 5):
        put(log, number)
    for number in (3, 5):
        path = folder / f"{number:012d}.record"
        path.write_bytes(path.read_bytes()[:length])
    with caplog.at_level(logging.WARNING):
        assert numbers(RoundLog(folder, PLENTY)) == [4]
    assert [record.message for record in caplog.records] == [
        f"{folder}: 2 records of rounds were damaged and are gone"
    ]


def test_a_record_under_another_name_and_one_with_more_behind_it(folder: Path) -> None:
    log = RoundLog(folder, PLENTY)
    put(log, 3)
    put(log, 4)
    (folder / f"{3:012d}.record").rename(folder / f"{8:012d}.record")
    with (folder / f"{4:012d}.record").open("ab") as file:
        file.write(b"x")
    (folder / "notes").write_text("not ours")
    again = RoundLog(folder, PLENTY)
    assert (numbers(again), again.num_damaged) == ([], 2)
    assert [path.name for path in folder.iterdir()] == ["notes"]


# -- disks and deaths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_fails_costs_the_record_only(
    folder: Path, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    armed = False

    def disk(name: str) -> None:
        if armed and name == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = RoundLog(folder, PLENTY, hook=disk)
    put(log, 1)
    armed = True
    with caplog.at_level(logging.WARNING):
        assert not put(log, 2)
        assert not put(log, 3)
    assert len(caplog.records) == 1
    assert "no record of round 2 is kept: No space left on device" in caplog.text
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    armed = False
    assert put(log, 4)
    assert {1, 4} <= set(numbers(log))
    assert numbers(RoundLog(folder, PLENTY)) == numbers(log)


def test_more_or_fewer_bytes_than_were_said(folder: Path) -> None:
    log = RoundLog(folder, PLENTY)
    for pieces in ([b"12"], [b"1234"], [b"1", b"234"], []):
        with pytest.raises(ValueError, match="more than was said"):
            log.write(2, name_of(2), 3, pieces)
    assert numbers(log) == []
    assert list(folder.iterdir()) == []


CHILD = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_peer_roundlog import PLENTY, STEPS, RoundLog, numbers, put, whole, content_of

folder = Path(sys.argv[1]) / "records"
found = []
for number, step in enumerate(STEPS):
    pid = os.fork()
    if pid == 0:
        def hook(name):
            if name == step:
                os.kill(os.getpid(), signal.SIGKILL)
        put(RoundLog(folder, PLENTY, hook=hook), number)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    log = RoundLog(folder, PLENTY)
    assert log.num_damaged == 0
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert all(whole(log, kept.round) == content_of(kept.round) for kept in log.records)
    found.append(number in numbers(log))
print(json.dumps(found))
"""


@pytest.mark.processes
def test_a_kill_at_any_step_leaves_the_whole_record_or_none(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [False, False, False, True, True]


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("a file")
    with pytest.raises(OSError, match="records"):
        RoundLog(tmp_path / "records", PLENTY)
