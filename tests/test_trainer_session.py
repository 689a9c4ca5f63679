"""Local training between outer states, in this process: adopt, snapshot, rebase, resume with both engines."""

import errno
import random
from pathlib import Path

import numpy as np
import pytest
from trainer_help import local_of, make_manifest, make_session, write_vector

from talkoot.dht.errors import ConfigError
from talkoot.peer.trainer import localwork
from talkoot.peer.trainer.session import Session

Kinds = pytest.mark.parametrize("kind", ["numpy", "transformers"])


def _steps(session: Session, count: int) -> None:
    for _ in range(count):
        session.step()


def _start(
    session: Session, outer: Path, *, global_step: int = 0, round_: int = 0, digest: str = "aa"
) -> bool:
    adopted = session.adopt(outer, round_=round_, digest=digest, global_step=global_step, mode="start")
    return adopted.resumed


@Kinds
def test_a_round_counts_each_step_once(kind: str, tmp_path: Path) -> None:
    session = make_session(make_manifest(kind), tmp_path)
    numel = session.engine.layout.numel
    write_vector(tmp_path / "outer0", numel, 0)
    outer1 = write_vector(tmp_path / "outer1", numel, 1)
    assert not _start(session, tmp_path / "outer0")
    _steps(session, 5)
    taken = session.snapshot()
    snapshot = np.fromfile(taken.path, dtype="<f4")
    assert (taken.steps, taken.tokens) == (5, 5 * 4 * 16)
    assert taken.loss is not None
    assert snapshot.tobytes() == local_of(session).tobytes()
    _steps(session, 3)  # during the exchange
    local = local_of(session)
    adopted = session.adopt(
        tmp_path / "outer1", round_=1, digest="bb", global_step=5, mode="rebase", evaluate=8
    )
    assert (adopted.steps, adopted.position) == (3, 0)
    assert adopted.eval_loss is not None
    assert local_of(session).tobytes() == (outer1 + (local - snapshot)).tobytes()
    _steps(session, 1)
    assert session.snapshot().steps == 4


@Kinds
def test_rebasing_without_a_snapshot_keeps_all_local_work(kind: str, tmp_path: Path) -> None:
    session = make_session(make_manifest(kind), tmp_path)
    outer0 = write_vector(tmp_path / "outer0", session.engine.layout.numel, 0)
    outer1 = write_vector(tmp_path / "outer1", session.engine.layout.numel, 1)
    _start(session, tmp_path / "outer0")
    _steps(session, 3)
    local = local_of(session)
    (tmp_path / "outer0").unlink()  # the daemon keeps two generations only
    adopted = session.adopt(tmp_path / "outer1", round_=1, digest="bb", global_step=3, mode="rebase")
    assert adopted.steps == 3
    assert local_of(session).tobytes() == (outer1 + (local - outer0)).tobytes()


@Kinds
def test_replacing_resets_and_warms_up_again(kind: str, tmp_path: Path) -> None:
    session = make_session(make_manifest(kind), tmp_path)
    outer = write_vector(tmp_path / "outer0", session.engine.layout.numel, 0)
    _start(session, tmp_path / "outer0")
    _steps(session, 3)
    adopted = session.adopt(tmp_path / "outer0", round_=4, digest="cc", global_step=400, mode="replace")
    assert adopted.steps == 0
    assert local_of(session).tobytes() == outer.tobytes()
    assert not session.engine.state()["moment1"].any()
    _steps(session, 2)
    assert session.lr == pytest.approx(1e-2 * 2 / 50)


@Kinds
def test_saved_local_work_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    manifest = make_manifest(kind)
    straight = make_session(manifest, tmp_path)
    write_vector(tmp_path / "outer0", straight.engine.layout.numel, 0)
    _start(straight, tmp_path / "outer0")
    _steps(straight, 7)
    first = make_session(manifest, tmp_path)
    _start(first, tmp_path / "outer0")
    _steps(first, 4)
    first.save()
    second = make_session(manifest, tmp_path)
    adopted = second.adopt(tmp_path / "outer0", round_=0, digest="aa", global_step=0, mode="start")
    assert (adopted.resumed, adopted.steps, adopted.position) == (True, 4, 16)
    _steps(second, 3)
    assert local_of(second).tobytes() == local_of(straight).tobytes()
    assert second.engine.state()["moment2"].tobytes() == straight.engine.state()["moment2"].tobytes()


def test_a_snapshot_taken_before_the_stop_is_still_the_base(tmp_path: Path) -> None:
    manifest = make_manifest()
    first = make_session(manifest, tmp_path)
    write_vector(tmp_path / "outer0", first.engine.layout.numel, 0)
    outer1 = write_vector(tmp_path / "outer1", first.engine.layout.numel, 1)
    _start(first, tmp_path / "outer0")
    _steps(first, 3)
    base = np.fromfile(first.snapshot().path, dtype="<f4")
    _steps(first, 2)
    first.save()
    second = make_session(manifest, tmp_path)
    assert _start(second, tmp_path / "outer0")
    local = local_of(second)
    second.adopt(tmp_path / "outer1", round_=1, digest="bb", global_step=3, mode="rebase")
    assert local_of(second).tobytes() == (outer1 + (local - base)).tobytes()


@Kinds
@pytest.mark.parametrize("rounds", [1, 5])
def test_saved_work_of_an_earlier_state_is_brought_over(kind: str, rounds: int, tmp_path: Path) -> None:
    """The swarm moved on during the pause; the steps are the volunteer's work all the same."""
    manifest = make_manifest(kind)
    first = make_session(manifest, tmp_path)
    numel = first.engine.layout.numel
    outer0, outer1 = (write_vector(tmp_path / f"outer{number}", numel, number) for number in (0, 1))
    _start(first, tmp_path / "outer0")
    _steps(first, 4)
    local = local_of(first)
    first.save()
    moment = first.engine.state()["moment1"].copy()
    (tmp_path / "outer0").unlink()
    second = make_session(manifest, tmp_path)
    adopted = second.adopt(tmp_path / "outer1", round_=rounds, digest="bb", global_step=400, mode="start")
    assert (adopted.resumed, adopted.steps, adopted.position) == (True, 4, 0)
    assert local_of(second).tobytes() == (outer1 + (local - outer0)).tobytes()
    kept = second.engine.state()["moment1"]
    assert kept.tobytes() == moment.tobytes() if rounds == 1 else not kept.any()
    _steps(second, 2)
    assert second.lr == pytest.approx(1e-2 if rounds == 1 else 1e-2 * 2 / 50)
    assert second.snapshot().steps == 6
    third = make_session(manifest, tmp_path)  # killed after that: others may have counted those steps
    assert not _start(third, tmp_path / "outer1", round_=rounds, digest="bb")
    assert local_of(third).tobytes() == outer1.tobytes()


def test_what_a_contribution_holds_is_not_brought_over(tmp_path: Path) -> None:
    manifest = make_manifest()
    first = make_session(manifest, tmp_path)
    write_vector(tmp_path / "outer0", first.engine.layout.numel, 0)
    outer1 = write_vector(tmp_path / "outer1", first.engine.layout.numel, 1)
    _start(first, tmp_path / "outer0")
    _steps(first, 3)
    path = first.snapshot().path
    base = np.fromfile(path, dtype="<f4")
    _steps(first, 2)
    local = local_of(first)
    first.save()
    path.unlink()
    second = make_session(manifest, tmp_path)
    assert _start(second, tmp_path / "outer1", round_=3, digest="bb", global_step=9)
    assert second.work is not None
    assert second.work.steps == 2
    assert local_of(second).tobytes() == (outer1 + (local - base)).tobytes()


def test_work_that_is_brought_over_again_and_again_is_there_once(tmp_path: Path) -> None:
    """Each start is killed before its next snapshot: the file of the orderly stop still holds."""
    manifest = make_manifest()
    first = make_session(manifest, tmp_path)
    outer0 = write_vector(tmp_path / "outer0", first.engine.layout.numel, 0)
    _start(first, tmp_path / "outer0")
    _steps(first, 4)
    work = local_of(first) - outer0
    first.save()
    for number in range(1, 4):
        outer = write_vector(tmp_path / "outer", first.engine.layout.numel, number)
        killed = make_session(manifest, tmp_path)
        assert _start(killed, tmp_path / "outer", round_=number, digest=f"{number}")
        assert local_of(killed) == pytest.approx(outer + work, abs=1e-6)
        assert killed.work is not None
        assert killed.work.steps == 4
        _steps(killed, 1)


def test_saved_work_that_is_damaged_is_left(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Cut short, or with a bit flipped at 250 positions."""
    session = make_session(make_manifest(), tmp_path)
    outer = write_vector(tmp_path / "outer0", session.engine.layout.numel, 0)
    _start(session, tmp_path / "outer0")
    _steps(session, 2)
    session.save()
    saved = localwork.file_of(tmp_path / "trainer")
    whole = saved.read_bytes()
    chance = random.Random(5)
    spoiled = [whole[: chance.randrange(len(whole))] for _ in range(20)]
    for _ in range(250):
        at = chance.randrange(2048 if chance.random() < 0.3 else len(whole))  # the header is short
        spoiled.append(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
    for data in spoiled:
        saved.write_bytes(data)
        try:
            assert not _start(session, tmp_path / "outer0")
        except ConfigError as error:
            assert "another version" in str(error)  # noqa: PT017 - the number of the format was hit
        assert local_of(session).tobytes() == outer.tobytes()
        assert saved.read_bytes() == data
    assert "local work of before the stop is lost" in capfd.readouterr().err
    saved.write_bytes(whole)
    assert _start(session, tmp_path / "outer0")


def test_saved_work_of_another_format_is_refused_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(make_manifest(), tmp_path)
    write_vector(tmp_path / "outer0", session.engine.layout.numel, 0)
    _start(session, tmp_path / "outer0")
    with monkeypatch.context() as patch:
        patch.setattr(localwork, "FORMAT", "2")
        session.save()
    saved = localwork.file_of(tmp_path / "trainer")
    before = saved.read_bytes()
    with pytest.raises(ConfigError, match=r"format 2, this one reads 1\): start that version once more"):
        _start(session, tmp_path / "outer0")
    assert saved.read_bytes() == before


def test_a_snapshot_makes_saved_work_obsolete(tmp_path: Path) -> None:
    session = make_session(make_manifest(), tmp_path)
    write_vector(tmp_path / "outer0", session.engine.layout.numel, 0)
    _start(session, tmp_path / "outer0")
    _steps(session, 2)
    session.save()
    session.snapshot()  # others may count these steps from now on
    assert not _start(session, tmp_path / "outer0")


def test_mapped_snapshots_stay_as_they_were(tmp_path: Path) -> None:
    session = make_session(make_manifest(), tmp_path)
    numel = session.engine.layout.numel
    write_vector(tmp_path / "outer0", numel, 0)
    _start(session, tmp_path / "outer0")
    maps = []
    for _ in range(4):
        _steps(session, 1)
        path = session.snapshot().path
        maps.append((np.memmap(path, dtype="<f4", mode="r"), np.fromfile(path, dtype="<f4")))
    assert all(np.array_equal(mapped, copied) for mapped, copied in maps)


def test_a_vector_of_another_size_changes_nothing(tmp_path: Path) -> None:
    session = make_session(make_manifest(), tmp_path)
    write_vector(tmp_path / "outer0", session.engine.layout.numel, 0)
    write_vector(tmp_path / "short", 10, 0)
    _start(session, tmp_path / "outer0")
    _steps(session, 1)
    local = local_of(session)
    for name in ("short", "missing"):
        with pytest.raises((OSError, ValueError), match=name):
            session.adopt(tmp_path / name, round_=1, digest="bb", global_step=0, mode="rebase")
    assert local_of(session).tobytes() == local.tobytes()
    assert session.work is not None
    assert session.work.round == 0


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(make_manifest(), tmp_path)
    write_vector(tmp_path / "outer0", session.engine.layout.numel, 0)
    _start(session, tmp_path / "outer0")
    _steps(session, 2)
    session.save()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(localwork, "write_vector", full)
        with pytest.raises(OSError, match="No space"):
            session.snapshot()
        patch.setattr(localwork, "save_file", full)
        with pytest.raises(OSError, match="No space"):
            session.save()
    assert localwork.load(tmp_path / "trainer", digest="aa", round_=0) is not None
    assert session.snapshot().steps == 2


def test_the_schedule_follows_the_global_step(tmp_path: Path) -> None:
    session = make_session(make_manifest(total_steps=100, decay_steps=100, warmup_steps=0), tmp_path)
    write_vector(tmp_path / "outer0", session.engine.layout.numel, 0)
    _start(session, tmp_path / "outer0")
    _steps(session, 11)
    assert session.lr == pytest.approx(1e-2 * 0.9)
    session.snapshot()
    _steps(session, 2)
    session.adopt(tmp_path / "outer0", round_=1, digest="bb", global_step=60, mode="rebase")
    _steps(session, 1)
    assert session.lr == pytest.approx(1e-2 * 0.38)
