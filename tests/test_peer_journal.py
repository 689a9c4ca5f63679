"""The voter's journal: what was acknowledged is read again, and damage is told apart from silence."""

import errno
from pathlib import Path

import pytest

from talkoot.peer.journal import Journal


def test_the_last_value_of_each_key_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    assert journal.lost
    assert journal.read("lock") is None
    journal.write("lock", b"1")
    journal.write("vote", b"\0\xff")
    journal.write("lock", b"2")
    again = Journal(path)
    assert not again.lost
    assert again.read("lock") == b"2"
    assert again.read("vote") == b"\0\xff"
    again.discard("lock")
    again.discard("never written")
    assert Journal(path).read("lock") is None
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_damaged_journal_is_lost_not_believed(tmp_path: Path, position: int) -> None:
    path = tmp_path / "journal"
    Journal(path).write("lock", b"value")
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    journal = Journal(path)
    assert journal.lost
    assert journal.read("lock") is None


@pytest.mark.parametrize("step", ["journal written", "journal renamed"])
def test_a_write_that_fails_says_so(tmp_path: Path, step: str) -> None:
    path = tmp_path / "journal"
    Journal(path).write("lock", b"old")

    def hook(name: str) -> None:
        if name == step:
            raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(path, hook=hook)
    with pytest.raises(OSError, match="No space"):
        journal.write("lock", b"new")
    assert journal.read("lock") == b"old"
    assert Journal(path).read("lock") in (b"old", b"new")


def test_a_journal_stays_small(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with pytest.raises(ValueError, match="at most"):
        journal.write("big", bytes(17 << 20))
    assert journal.read("big") is None
