"""One daemon and one swarm for a state directory; small files survive crashes; secrets stay private."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from talkoot.dht.errors import ConfigError
from talkoot.peer.files import atomic_write
from talkoot.peer.statedir import StateDir, default_path

SWARM = bytes(range(32))


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "some" / "peer")
    state.prepare()
    return state


def test_the_default_is_where_the_system_keeps_state() -> None:
    path = default_path("second")
    assert path.name == "second"
    assert "talkoot" in path.parts


def test_only_this_user_can_read(state: StateDir) -> None:
    assert state.path.stat().st_mode & 0o777 == 0o700
    with state.lock():
        state.announce_api(1234)
        state.claim(SWARM)
        for path in state.path.iterdir():
            assert path.stat().st_mode & 0o077 == 0, path


def test_an_existing_directory_is_closed_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    state = StateDir(tmp_path)
    state.prepare()
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    state.prepare()


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match="choose another --state-dir"):
        StateDir(tmp_path).prepare()
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_state_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot use the state directory"):
        StateDir(tmp_path / "file").prepare()
    with pytest.raises(ConfigError, match="cannot use the state directory"):
        StateDir(tmp_path / "file" / "below").prepare()


def test_a_second_daemon_is_refused(state: StateDir) -> None:
    with state.lock():
        second = StateDir(state.path)
        second.prepare()
        with pytest.raises(ConfigError) as refused, second.lock():
            pytest.fail("two daemons in one directory")
    assert str(refused.value) == (
        f"{state.path} is in use by process {os.getpid()}: stop it or choose another --state-dir"
    )
    with state.lock():
        pass


HOLDER = """
import sys
from pathlib import Path
from talkoot.peer.statedir import StateDir
state = StateDir(Path(sys.argv[1]))
with state.lock():
    state.announce_api(1)
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.processes
def test_the_lock_dies_with_its_process(state: StateDir) -> None:
    command = [sys.executable, "-c", HOLDER, str(state.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ConfigError, match=f"by process {holder.pid}"), state.lock():
            pytest.fail("two daemons in one directory")
        holder.kill()
    assert state.api_file.exists()
    with state.lock():
        assert not state.api_file.exists()


def test_a_directory_belongs_to_one_swarm(state: StateDir) -> None:
    assert state.swarm_id is None
    state.claim(SWARM)
    state.claim(SWARM)
    assert state.swarm_id == SWARM
    with pytest.raises(ConfigError, match=f"belongs to swarm {SWARM.hex()[:12]}, not to 010101"):
        state.claim(bytes([1]) * 32)
    assert state.swarm_id == SWARM


@pytest.mark.parametrize("marker", [b"", b"00", b"\xff\xfe", b"x" * 64, b"0" * 300_000])
def test_a_damaged_marker_is_no_permission(state: StateDir, marker: bytes) -> None:
    state.swarm_file.write_bytes(marker)
    with pytest.raises(ConfigError, match="damaged"):
        state.claim(SWARM)
    assert state.swarm_file.read_bytes() == marker


def test_the_manifest_is_kept(state: StateDir) -> None:
    assert state.load_manifest() is None
    state.save_manifest(b"canonical")
    assert state.load_manifest() == b"canonical"


def test_the_api_is_announced_while_the_lock_is_held(state: StateDir) -> None:
    with state.lock():
        token = state.announce_api(4711)
        assert json.loads(state.api_file.read_bytes()) == {"port": 4711, "pid": os.getpid()}
        assert state.token_file.read_text() == token
        assert len(token) >= 40
        assert state.announce_api(4711) != token
    assert not state.api_file.exists()
    assert not state.token_file.exists()


def test_missing_disk_is_said_with_figures(state: StateDir) -> None:
    state.require_free(1)
    with pytest.raises(ConfigError, match=r"needs 1,000,000,000,000 MB of disk, .* MB are free"):
        state.require_free(10**18)


def test_what_cannot_be_written_is_the_operators(state: StateDir) -> None:
    state.swarm_file.with_name(".swarm.tmp").mkdir()
    with pytest.raises(ConfigError, match="cannot write"):
        state.claim(SWARM)


@pytest.mark.parametrize("step", ["file written", "file renamed", "file durable"])
def test_an_atomic_write_leaves_old_or_new(tmp_path: Path, step: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def hook(name: str) -> None:
        if name == step:
            raise OSError(errno.EIO, "input/output error")

    with pytest.raises(OSError, match="input/output"):
        atomic_write(path, b"new", hook=hook)
    assert path.read_bytes() == (b"old" if step == "file written" else b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_an_atomic_write_replaces_what_a_crash_left(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").write_bytes(b"half of a longer content")
    atomic_write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
