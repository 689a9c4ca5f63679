"""Small files read back; what cannot be read or written is said in the operator's words."""

from pathlib import Path

import pytest

from talkoot.dht.errors import ConfigError
from talkoot.peer.small_files import MAX_SMALL_FILE_BYTES, read_small, write_small


def test_they_read_back(tmp_path: Path) -> None:
    path = tmp_path / "small"
    assert read_small(path) is None
    for data in (b"", b"text", bytes(MAX_SMALL_FILE_BYTES)):
        write_small(path, data)
        assert read_small(path) == data


def test_one_byte_too_many(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(bytes(MAX_SMALL_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match=f"longer than {MAX_SMALL_FILE_BYTES} bytes"):
        read_small(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory"):
        read_small(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot write .*: No such file or directory"):
        write_small(tmp_path / "none" / "small", b"")
