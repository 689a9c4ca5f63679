"""The round log loses nothing that was acknowledged and believes nothing that was torn."""

import errno
import os
from pathlib import Path

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.peer.certlog import CertLog, LogCorruptError

RECORDS = [(3, b"three"), (4, b""), (7, b"seven" * 100)]


def write(path: Path, records: list[tuple[int, bytes]]) -> None:
    with CertLog(path) as log:
        for number, content in records:
            log.append(number, content)


def content_of(path: Path) -> list[tuple[int, bytes]]:
    with CertLog(path) as log:
        return log.read_range(0)


def test_records_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, RECORDS)
    with CertLog(path) as log:
        assert (log.first, log.last, len(log), log.cut_bytes) == (3, 7, 3, 0)
        assert log.read(4) == b""
        assert log.read(5) is None
        assert log.read(8) is None
        assert log.read_range(4) == RECORDS[1:]
        log.append(8, b"eight")
    assert content_of(path) == [*RECORDS, (8, b"eight")]


def test_an_empty_log(tmp_path: Path) -> None:
    with CertLog(tmp_path / "log") as log:
        assert (log.first, log.last, len(log)) == (None, None, 0)
        assert log.read_range(0) == []
        assert log.read(0) is None


def test_a_range_is_bounded_but_never_empty(tmp_path: Path) -> None:
    with CertLog(tmp_path / "log") as log:
        for number in range(5):
            log.append(number, bytes(100))
        assert [n for n, _ in log.read_range(1, max_records=2)] == [1, 2]
        assert [n for n, _ in log.read_range(1, max_bytes=300)] == [1, 2, 3]
        assert [n for n, _ in log.read_range(1, max_bytes=1)] == [1]


def test_rounds_ascend_and_records_are_bounded(tmp_path: Path) -> None:
    with CertLog(tmp_path / "log", max_record_bytes=10) as log:
        log.append(5, bytes(10))
        for number in (5, 4):
            with pytest.raises(ValueError, match="after round 5"):
                log.append(number, b"")
        with pytest.raises(ValueError, match="at most 10"):
            log.append(6, bytes(11))
        assert len(log) == 1


def test_truncation_removes_a_branch(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, RECORDS)
    with CertLog(path) as log:
        log.truncate_from(4)
        assert log.last == 3
        log.append(4, b"another four")
    assert content_of(path) == [(3, b"three"), (4, b"another four")]
    with CertLog(path) as log:
        log.truncate_from(9)
        assert len(log) == 2
        log.truncate_from(0)
    assert content_of(path) == []


@examples(100)
@given(st.data())
def test_any_torn_tail_is_cut_off(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    write(path, RECORDS)
    whole = path.read_bytes()
    ends = [16]
    for _, content in RECORDS:
        ends.append(ends[-1] + 28 + len(content))
    assert ends[-1] == len(whole)
    length = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:length])
    num_whole = sum(end <= length for end in ends[1:])
    with CertLog(path) as log:
        assert log.read_range(0) == RECORDS[:num_whole]
        assert log.cut_bytes == max(0, length - ends[num_whole])
        log.append(9, b"nine")
    assert content_of(path) == [*RECORDS[:num_whole], (9, b"nine")]


@examples(100)
@given(st.integers(16, 16 + 3 * 28 + 505 - 1), st.integers(0, 7))
def test_no_flipped_bit_is_believed(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    write(path, RECORDS)
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)
    found = content_of(path)
    assert found == RECORDS[: len(found)]
    assert len(found) < len(RECORDS)


def test_damage_while_open_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with CertLog(path) as log:
        log.append(1, b"content")
        data = path.read_bytes()
        path.write_bytes(data[:-1] + b"x")
        with pytest.raises(LogCorruptError, match="round 1"):
            log.read(1)


def test_another_file_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"something else entirely")
    with pytest.raises(LogCorruptError, match="no round log"):
        CertLog(path)
    assert path.read_bytes() == b"something else entirely"


@pytest.mark.parametrize("step", ["append", "appended"])
def test_a_failed_append_leaves_the_log_as_it_was(tmp_path: Path, step: str) -> None:
    full = [False]

    def hook(name: str) -> None:
        if full[0] and name == step:
            raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "log"
    with CertLog(path, hook=hook) as log:
        log.append(1, b"one")
        full[0] = True
        # What looks like a record inside a record must not surface when a shorter one replaces it.
        inner = path.read_bytes()[16:]
        with pytest.raises(OSError, match="No space"):
            log.append(2, b"2" * 3 + inner * 3)
        assert log.read_range(0) == [(1, b"one")]
        full[0] = False
        log.append(2, b"two")
    assert content_of(path) == [(1, b"one"), (2, b"two")]


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_log_that_does_not_open_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"something else")
    before = open_descriptors()
    with pytest.raises(LogCorruptError):
        CertLog(tmp_path / "log")
    assert open_descriptors() == before
