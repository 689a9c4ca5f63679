"""`talkoot verify`: what holds, what does not, and what cannot be known. Hostile files are noticed."""

import json
import os
import shutil
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import pytest
from checkpoint_rig import write
from state_rig import FOUNDERS, MANIFEST, NEWCOMER, advance, found, make_manifest
from typer.testing import CliRunner

from talkoot.averaging.certificate import Signature
from talkoot.cli.main import app
from talkoot.dht.errors import ConfigError
from talkoot.peer import manifest_file
from talkoot.peer.checkpoint_file import CheckpointDamagedError, NotACheckpointError, open_checkpoint
from talkoot.peer.checkpoint_write import write_checkpoint
from talkoot.peer.checkpoints import source_of
from talkoot.peer.holdings import Holdings, open_holdings
from talkoot.peer.statedir import StateDir
from talkoot.peer.verify import Report, verify


def swarm_at(path: Path) -> Holdings:
    """A founded swarm after three rounds, with all that a daemon leaves."""
    paths = StateDir(path)
    paths.prepare()
    paths.claim(MANIFEST.swarm_id)
    paths.save_manifest(MANIFEST.canonical())
    holdings = found(path)
    for _ in range(3):
        advance(holdings)
    holdings.write_voter_journal(b"voted")
    return holdings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with a checkpoint in it; tests leave it as it was."""
    path = tmp_path_factory.mktemp("verify") / "state"
    holdings = swarm_at(path)
    write(holdings, path / "checkpoints")
    holdings.close()
    return path


def results(report: Report) -> dict[str, str]:
    return {check.name: check.result for check in report.checks}


def words(report: Report) -> str:
    return "\n".join(f"{check.name}: {check.words}" for check in report.checks)


def checkpoint_in(made: Path) -> Path:
    return made / "checkpoints" / "round-00000003.safetensors"


# -- what holds --------------------------------------------------------------------------------------


def test_a_checkpoint_in_its_state_directory(made: Path) -> None:
    report = verify(checkpoint_in(made))
    assert report.ok
    assert results(report) == {
        "format": "ok",
        "model": "not checked",
        "swarm": "ok",
        "digest": "ok",
        "signatures": "ok",
        "chain": "ok",
    }
    assert "signed by 3 of 3 voters, 3 of them founders of the swarm, which are a quorum" in words(report)
    assert "from the founders in the manifest on" in words(report)
    assert report.facts["rounds"] == 3
    assert report.facts["swarm"] == MANIFEST.swarm.name


def test_a_checkpoint_alone(made: Path, tmp_path: Path) -> None:
    report = verify(Path(shutil.copy(checkpoint_in(made), tmp_path / "x")))
    assert report.ok
    assert results(report)["signatures"] == "ok"
    assert results(report)["chain"] == "not checked"


def test_a_checkpoint_that_lacks_the_certificate_before(made: Path, tmp_path: Path) -> None:
    holdings = swarm_at(tmp_path / "state")
    source = source_of(holdings, MANIFEST)
    write_checkpoint(replace(source, contents=replace(source.contents, before=None)), tmp_path / "x")
    report = verify(tmp_path / "x")
    assert report.ok
    assert results(report)["signatures"] == "not checked"


def test_a_state_directory(made: Path) -> None:
    report = verify(made)
    assert report.ok
    assert results(report) == {
        "format": "ok",
        "swarm": "ok",
        "digest": "ok",
        "snapshot": "ok",
        "log": "ok",
        "signatures": "ok",
        "chain": "ok",
        "journal": "ok",
        "checkpoints": "not checked",
    }


def test_the_first_state_of_a_swarm(tmp_path: Path) -> None:
    holdings = found(tmp_path / "state")
    write_checkpoint(source_of(holdings, MANIFEST), tmp_path / "x")
    assert "first state of the swarm" in words(verify(tmp_path / "x"))


def test_a_weak_head_is_named_so(tmp_path: Path) -> None:
    holdings = swarm_at(tmp_path)
    advance(holdings, by=FOUNDERS[:1], weak=True)
    report = verify(tmp_path)
    assert report.ok
    assert "may be rolled back" in words(report)


def test_nothing_is_changed_or_locked(made: Path) -> None:
    """Also beside a running daemon, whose log may end in an append that is under way."""
    before = {path: path.stat() for path in made.rglob("*")}
    with StateDir(made).lock():
        assert verify(made).ok
    for path, was in before.items():
        assert path.name == "lock" or path.stat().st_mtime_ns == was.st_mtime_ns


def test_a_daemon_that_commits_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holdings = swarm_at(tmp_path)
    from talkoot.peer import verify_state

    real = verify_state._tree
    done = 0

    def tree(*arguments: object) -> object:
        nonlocal done
        if (done := done + 1) < 3:
            advance(holdings)
            advance(holdings)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(verify_state, "_tree", tree)
    assert results(verify(tmp_path))["digest"] == "ok"
    assert done == 3 + 1  # and the snapshot


# -- what does not -----------------------------------------------------------------------------------


@contextmanager
def flipped(path: Path, position: int, bit: int) -> Iterator[None]:
    """One bit of a file is another."""
    with path.open("r+b", buffering=0) as file:
        before = os.pread(file.fileno(), 1, position)
        os.pwrite(file.fileno(), bytes([before[0] ^ 1 << bit]), position)
        try:
            yield
        finally:
            os.pwrite(file.fileno(), before, position)


def holds(path: Path) -> bool:
    try:
        return verify(path).ok
    except NotACheckpointError:
        return False


def test_a_bit_of_a_checkpoint_at_250_positions(made: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(checkpoint_in(made), tmp_path / "x"))
    random, size = Random(1), path.stat().st_size
    start = open_checkpoint(path).data_start
    places = [random.randrange(start) for _ in range(170)] + [
        random.randrange(start, size) for _ in range(80)
    ]
    for place in [*range(8), start - 1, start, size - 1, *places]:
        with flipped(path, place, random.randrange(8)):
            assert not holds(path), place
    assert holds(path)


@pytest.mark.parametrize(
    "name",
    [
        "outer/HEAD",
        "outer/SNAPSHOT",
        "manifest.bin",
        "rounds.log",
        "outer/{}/theta.f32",
        "outer/{}/momentum.f32",
        "journal",
    ],
)
def test_a_bit_of_a_state_directory_at_250_positions(made: Path, tmp_path: Path, name: str) -> None:
    state = Path(shutil.copytree(made, tmp_path / "state"))
    with open_holdings_at(state) as holdings:
        path = state / name.format(holdings.store.head.generation)
    random, size = Random(name), path.stat().st_size
    for place in [0, size - 1, *(random.randrange(size) for _ in range(40))]:
        with flipped(path, place, random.randrange(8)):
            assert not holds(state), place
    assert holds(state)


@contextmanager
def open_holdings_at(path: Path) -> Iterator[Holdings]:
    from state_rig import RULES

    holdings = open_holdings(StateDir(path), RULES)
    try:
        yield holdings
    finally:
        holdings.close()


def test_cut_short_at_any_length(made: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(checkpoint_in(made), tmp_path / "x"))
    size, start = path.stat().st_size, open_checkpoint(path).data_start
    for length in (size - 1, size - 8, start + 1, start, start - 1, start // 2, 9, 8, 7, 0):
        os.truncate(path, length)
        assert not holds(path), length
        shutil.copy(checkpoint_in(made), path)


def test_swapped_parts(made: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(checkpoint_in(made), tmp_path / "x"))
    data, start = path.read_bytes(), open_checkpoint(path).data_start
    half = start + 4 * MANIFEST.model.numel
    chunk = 1 << 20
    for changed in (
        data[:start] + data[half:] + data[start:half],  # momentum for parameters
        data[:start]
        + data[start + chunk : start + 2 * chunk]
        + data[start : start + chunk]
        + data[start + 2 * chunk :],
        data[:start] + bytes(len(data) - start),
    ):
        path.write_bytes(changed)
        assert results(verify(path))["digest"] == "failed"


def test_parts_of_another_state_of_the_same_swarm(made: Path, tmp_path: Path) -> None:
    holdings = swarm_at(tmp_path / "state")
    now = source_of(holdings, MANIFEST)
    advance(holdings)
    later = source_of(holdings, MANIFEST)
    for changes in (
        {"ledger": later.contents.ledger},
        {"certificate": later.contents.certificate},
        {"certificate": later.contents.certificate, "ledger": later.contents.ledger},
        {"before": later.contents.certificate},
    ):
        contents = replace(now.contents, **changes)
        data = open_checkpoint(checkpoint_in(made))
        body = checkpoint_in(made).read_bytes()[data.data_start :]
        path = tmp_path / "x"
        path.write_bytes(contents.header() + body)
        assert not verify(path).ok, changes


def test_another_swarms_manifest(made: Path, tmp_path: Path) -> None:
    contents = replace(open_checkpoint(checkpoint_in(made)).contents, manifest=make_manifest("other"))
    body = checkpoint_in(made).read_bytes()[open_checkpoint(checkpoint_in(made)).data_start :]
    (tmp_path / "x").write_bytes(contents.header() + body)
    assert results(verify(tmp_path / "x"))["swarm"] == "failed"


def test_another_model(made: Path, tmp_path: Path) -> None:
    names = (("weight", (MANIFEST.model.numel,)),)
    contents = replace(open_checkpoint(checkpoint_in(made)).contents, names=names)
    body = checkpoint_in(made).read_bytes()[open_checkpoint(checkpoint_in(made)).data_start :]
    (tmp_path / "x").write_bytes(contents.header() + body)
    with pytest.raises(CheckpointDamagedError, match="not those of the swarm's model"):
        open_checkpoint(tmp_path / "x")
    report = verify(tmp_path / "x")
    assert not report.ok
    assert len(report.checks) == 1


def test_forged_votes(made: Path, tmp_path: Path) -> None:
    contents = open_checkpoint(checkpoint_in(made)).contents
    body = checkpoint_in(made).read_bytes()[open_checkpoint(checkpoint_in(made)).data_start :]
    certificate = contents.certificate
    stranger = Signature(NEWCOMER.key, NEWCOMER.sign(b"x"))
    for votes in ((), certificate.votes[:1], (*certificate.votes[:2], stranger), certificate.votes[:1] * 3):
        forged = msgspec.structs.replace(certificate, votes=votes)
        (tmp_path / "x").write_bytes(replace(contents, certificate=forged).header() + body)
        assert results(verify(tmp_path / "x"))["signatures"] == "failed"


def test_a_chain_with_a_forged_link(made: Path, tmp_path: Path) -> None:
    state = Path(shutil.copytree(made, tmp_path / "state"))
    from talkoot.peer.certlog import CertLog

    with CertLog(state / "rounds.log") as log:
        records = log.read_range(0)
        log.truncate_from(2)
        certificate = open_checkpoint(checkpoint_in(made)).contents.before
        assert certificate is not None
        log.append(2, msgspec.structs.replace(certificate, votes=certificate.votes[:1]).encode())
        log.append(*records[3])
    assert results(verify(state))["chain"] == "failed"
    assert results(verify(checkpoint_in(state)))["chain"] == "failed"


def test_a_log_that_begins_later(made: Path, tmp_path: Path) -> None:
    state = Path(shutil.copytree(made, tmp_path / "state"))
    from talkoot.peer.certlog import CertLog

    with CertLog(state / "rounds.log") as log:
        records = log.read_range(0)
        log.truncate_from(0)
        for record in records[2:]:
            log.append(*record)
    report = verify(state)
    assert report.ok
    assert results(report)["chain"] == "not checked"
    assert "nothing here vouches" in words(report)


def test_run_does_not_take_a_checkpoint_for_a_manifest(made: Path) -> None:
    with pytest.raises(ConfigError, match="a checkpoint, not a manifest"):
        manifest_file.load(checkpoint_in(made))


def test_a_header_longer_than_the_file_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes((16 << 20).to_bytes(8, "little") + bytes(100))
    tracemalloc.start()
    try:
        with pytest.raises(NotACheckpointError):
            verify(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# -- the command -------------------------------------------------------------------------------------


def test_the_command_says_it_in_words_and_json(made: Path, tmp_path: Path) -> None:
    shell = CliRunner()
    answer = shell.invoke(app, ["verify", str(checkpoint_in(made))])
    assert answer.exit_code == 0
    assert answer.output.splitlines()[-1] == "verified"
    answer = shell.invoke(app, ["verify", str(made), "--json"])
    assert answer.exit_code == 0
    assert json.loads(answer.output)["ok"] is True
    path = Path(shutil.copy(checkpoint_in(made), tmp_path / "x"))
    with flipped(path, path.stat().st_size - 5, 3):
        answer = shell.invoke(app, ["verify", str(path), "--json"])
    assert answer.exit_code == 1
    assert json.loads(answer.output)["ok"] is False


def test_what_a_file_says_cannot_act_on_a_terminal(made: Path, tmp_path: Path) -> None:
    contents = replace(open_checkpoint(checkpoint_in(made)).contents, manifest=make_manifest("a\x1b[2Jb"))
    body = checkpoint_in(made).read_bytes()[open_checkpoint(checkpoint_in(made)).data_start :]
    (tmp_path / "x").write_bytes(contents.header() + body)
    answer = CliRunner().invoke(app, ["verify", str(tmp_path / "x")])
    assert answer.exit_code == 1
    assert "a [2Jb" in answer.output
    assert "\x1b" not in answer.output


def test_the_command_on_what_is_no_checkpoint(made: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    garbage = tmp_path / "garbage"
    garbage.write_bytes(bytes(1000))
    for path, text in (
        (tmp_path / "nothing", "No such file"),
        (empty, "no state directory"),
        (garbage, "no safetensors file"),
        (made / "outer" / "HEAD", "no safetensors file"),
        (Path(os.devnull), "no regular file"),
    ):
        answer = CliRunner().invoke(app, ["verify", str(path)])
        assert isinstance(answer.exception, ConfigError)  # exit code 2, one line
        assert text in str(answer.exception)
