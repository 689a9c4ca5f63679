"""State directories that cannot be used: one line each, exit code 2, and nothing in them is changed."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bad_input_rig import draft, ended, found_in, invite_to, refused, sealed_of, tree

from talkoot.dht.identity import Identity
from talkoot.peer.statedir import StateDir

Capsys = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a swarm was founded; tests work on copies."""
    return found_in(tmp_path_factory.mktemp("founded"))


@pytest.fixture
def state(founded: Path, tmp_path: Path) -> Path:
    """A copy of the founder's state directory."""
    shutil.copytree(founded / "state", tmp_path / "state")
    return tmp_path / "state"


def spoil_key(path: Path, how: str) -> None:
    path.unlink()
    match how:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path, 0o600)
        case "open":
            path.write_bytes(Identity.generate().libp2p_bytes())
            path.chmod(0o644)
        case "rsa":
            path.write_bytes(b"\x08\x00\x12" + bytes(600))
        case "pem":
            path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
        case "halves":
            path.write_bytes(Identity.generate().libp2p_bytes()[:-32] + Identity.generate().key)
        case "empty":
            path.touch()
    if how != "open":
        path.chmod(0o600 if how != "directory" else 0o700)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("directory", "Is a directory"),
        ("pipe", "no regular file"),
        ("open", "other users can read the key file"),
        ("rsa", "holds an RSA key: move it away"),
        ("pem", "holds no Ed25519 key: move it away"),
        ("halves", "is damaged"),
        ("empty", "holds no Ed25519 key: move it away"),
    ],
)
def test_key_files(capsys: Capsys, state: Path, how: str, words: str) -> None:
    spoil_key(state / "identity.key", how)
    outcome = refused(capsys, "run", "--state-dir", state)
    assert outcome.code == 2
    assert str(state / "identity.key") in outcome.line
    assert words in outcome.line


def test_a_state_directory_that_is_a_file(capsys: Capsys, founded: Path, tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    outcome = refused(capsys, "run", founded / "swarm.toml", "--state-dir", tmp_path / "state")
    assert (outcome.code, "cannot use the state directory" in outcome.line) == (2, True)


def test_a_directory_with_other_files(capsys: Capsys, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "thesis.tex").touch()
    outcome = refused(capsys, "run", draft(tmp_path / "swarm"), "--state-dir", tmp_path / "state")
    assert (outcome.code, "choose another --state-dir" in outcome.line) == (2, True)
    assert set(tree(tmp_path / "state")) == {"thesis.tex"}


def test_a_state_directory_that_cannot_be_made(capsys: Capsys, founded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    shutil.copytree(founded / "state", folder)
    below = folder / "below"
    with read_only(folder):
        outcome = refused(capsys, "run", founded / "swarm.toml", "--state-dir", below)
    assert outcome.code == 2
    assert f"cannot use the state directory {below}: Read-only file system" in outcome.line


def test_a_state_on_a_disk_that_is_read_only_waits_until_that_is_over(
    capsys: Capsys, founded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "state"
    shutil.copytree(founded / "state", folder)
    pauses: list[float] = []

    def wait(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("talkoot.peer.daemon.time.sleep", wait)
    with read_only(folder):
        code, lines = ended(capsys, "run", founded / "swarm.toml", "--state-dir", folder)
    assert (code, len(pauses)) == (130, 3)
    (told,) = [line for line in lines if "waiting until that is over" in line]
    assert "the disk is read-only" in told


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """As long as this lasts nobody, not even root, can write in `folder`."""
    bind = ["mount", "--bind", str(folder), str(folder)]
    if subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("only root can make a directory read-only for itself")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_state_directory_in_use(capsys: Capsys, state: Path) -> None:
    with StateDir(state).lock():
        outcome = refused(capsys, "run", "--state-dir", state)
    assert outcome.code == 2
    assert f"is in use by process {os.getpid()}: stop it or choose another --state-dir" in outcome.line


def test_a_state_directory_of_nobody(capsys: Capsys, tmp_path: Path) -> None:
    outcome = refused(capsys, "run", "--state-dir", tmp_path / "state")
    assert outcome.code == 2
    assert "holds no swarm yet: give a manifest (talkoot init) or --join INVITE" in outcome.line


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def garble(path: Path) -> None:
    path.write_bytes(b"\xff\xfenonsense")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("outer/HEAD", cut, "does not fit its checksum; move"),
        ("outer/HEAD", flip, "does not fit its checksum; move"),
        ("outer/HEAD", garble, "does not fit its checksum; move"),
        ("outer/a/theta.f32", cut, "bytes instead of"),
        ("outer/a/theta.f32", flip, "does not have the digest of its certificate"),
        ("outer/a/momentum.f32", Path.unlink, "is missing"),
        ("rounds.log", garble, "is no round log"),
        ("manifest.bin", cut, "manifest.bin is damaged"),
        ("manifest.bin", flip, "manifest"),
        ("swarm", garble, "it should hold one swarm id"),
        ("invite", garble, "invite is damaged: give the invite again with --join"),
        ("data_base", garble, "data_base is damaged: give the manifest again"),
    ],
)
def test_damaged_files(
    capsys: Capsys, state: Path, name: str, spoil: Callable[[Path], None], words: str
) -> None:
    path = state / name
    path.touch()
    spoil(path)
    before = tree(state)
    outcome = refused(capsys, "run", "--state-dir", state, "--profile", "test")
    assert outcome.code == 2
    assert words in outcome.line
    assert "move" in outcome.line or "again" in outcome.line or "damaged" in outcome.line
    assert tree(state).items() >= before.items()


def test_a_damaged_invitation(capsys: Capsys, founded: Path, tmp_path: Path) -> None:
    paths = StateDir(tmp_path / "state")
    paths.prepare()
    paths.claim(sealed_of(founded).swarm_id)
    paths.save_manifest(sealed_of(founded).canonical())
    paths.invite_file.write_text(invite_to(founded))
    paths.admission_file.write_bytes(b"nonsense")
    outcome = refused(capsys, "run", "--state-dir", paths.path, "--profile", "test")
    assert outcome.code == 2
    assert "our invitation does not hold" in outcome.line
    assert "ask a founder for a new one" in outcome.line


def test_what_a_killed_daemon_left(capsys: Capsys, state: Path) -> None:
    (state / "api.json").write_text('{"port": 9, "pid": 999999999}')
    (state / "api.token").write_text("x")
    assert refused(capsys, "status", "--state-dir", state).code == 3


def test_a_manifest_that_cannot_be_read(capsys: Capsys, state: Path) -> None:
    garble(state / "manifest.bin")
    for command in (["export", str(state / "out")], ["generate", "hello"]):
        outcome = refused(capsys, *command, "--state-dir", state)
        assert (outcome.code, "damaged" in outcome.line) == (2, True)
