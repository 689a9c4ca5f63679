"""Audits in the trainer: paired losses of a slice, and a training that does not notice."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer_help import local_of, make_manifest, make_session, write_vector

from talkoot.peer.trainer.audit import audit
from talkoot.peer.trainer.engine import NoMemory
from talkoot.peer.trainer.layout import initial_weights
from talkoot.peer.trainer.link import Link
from talkoot.peer.trainer.protocol import (
    MAX_AUDIT_WINDOWS,
    PREFIX,
    Answer,
    AuditReply,
    AuditRequest,
    AuditTask,
    Command,
    HoldRequest,
    SnapshotReply,
    SnapshotRequest,
    StopRequest,
    body_length,
    decode_answer,
    encode,
)
from talkoot.peer.trainer.session import Session
from talkoot.peer.trainer.windows import Windows
from talkoot.peer.trainer.worker import Worker

Kinds = pytest.mark.parametrize("kind", ["numpy", "transformers"])


def _never() -> bool:
    return False


def _session(kind: str, folder: Path) -> Session:
    manifest = make_manifest(kind)
    folder.mkdir(exist_ok=True)
    session = make_session(manifest, folder)
    initial_weights(manifest).tofile(folder / "outer")
    session.adopt(folder / "outer", round_=0, digest="aa", global_step=0, mode="start")
    return session


def _task(folder: Path, piece: np.ndarray[Any, Any], start: int = 0, **fields: Any) -> AuditTask:
    piece.astype("<f4").tofile(folder / "piece")
    settings: dict[str, Any] = {"scale": 1.0, "seed": 5, "windows": 12, "fewest": 4, "budget_s": 1e9}
    return AuditTask(
        outer=folder / "outer",
        piece=folder / "piece",
        start=start,
        numel=piece.size,
        **(settings | fields),
    )


@Kinds
def test_what_an_audit_finds_is_what_the_loss_does(kind: str, tmp_path: Path) -> None:
    session = _session(kind, tmp_path)
    outer = np.fromfile(tmp_path / "outer", dtype="<f4")
    for _ in range(5):  # a small move: further away from random weights, the way back is no worse
        session.step()
    whole = outer - local_of(session)
    start, stop = outer.size // 4, outer.size
    found = session.audit(_task(tmp_path, whole[start:stop], start, scale=0.5), _never)
    windows = session._corpus.drawn(5, 12)
    moved = outer.copy()
    moved[start:stop] -= 0.5 * whole[start:stop]
    assert len(found.before) == len(found.after) == 12
    assert np.mean(found.before) == pytest.approx(session.engine.evaluate(outer, windows), rel=1e-5)
    assert np.mean(found.after) == pytest.approx(session.engine.evaluate(moved, windows), rel=1e-5)
    assert np.mean(found.after) < np.mean(found.before)
    flipped = session.audit(_task(tmp_path, -whole[start:stop], start, scale=0.5), _never)
    assert flipped.before == found.before
    assert np.mean(flipped.after) > np.mean(flipped.before)
    assert np.fromfile(tmp_path / "outer", dtype="<f4").tobytes() == outer.tobytes()


@Kinds
def test_training_does_not_notice_audits(kind: str, tmp_path: Path) -> None:
    states = []
    for name in ("with", "without"):
        session = _session(kind, tmp_path / name)
        numel = session.engine.layout.numel
        poison = write_vector(tmp_path / "noise", numel // 2, 3)
        for step in range(6):
            session.step()
            if name == "with":
                interrupt = step % 2 == 1
                done = session.audit(_task(tmp_path / name, poison, numel // 3), lambda: interrupt)  # noqa: B023
                assert done.unfinished == ("busy" if interrupt else "")
        work = session.work
        assert work is not None
        states.append((session.engine.state(), work.position, work.steps, session.engine.micro.size))
    (with_audits, *counted), (without, *others) = states
    assert counted == others
    assert with_audits.keys() == without.keys()
    for key, vector in with_audits.items():
        assert vector.tobytes() == without[key].tobytes(), key


def test_windows_follow_from_the_seed_and_are_held_out(tmp_path: Path) -> None:
    session = _session("numpy", tmp_path)
    corpus = session._corpus
    first, again, other = corpus.drawn(1, 8), corpus.drawn(1, 8), corpus.drawn(2, 8)
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert corpus.drawn(1, 5).tobytes() == first[:5].tobytes()
    held_out = np.fromfile(tmp_path / "trainer" / "tokens" / "held_out.bin", dtype=np.uint8).tobytes()
    assert all(bytes(window.astype(np.uint8)) in held_out for window in first)


def _asked(worker: Worker, ours: socket.socket, *commands: Command) -> list[Answer]:
    """What a worker answers to these, which arrive at once."""
    for command in commands:
        ours.sendall(encode(command))
    worker.run()
    data, answers = ours.recv(1 << 16), []
    while data:
        length = body_length(data[: PREFIX.size])
        answers.append(decode_answer(data[PREFIX.size :][:length]))
        data = data[PREFIX.size + length :]
    return answers


def test_whatever_else_is_asked_ends_an_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = _session("numpy", tmp_path)
    request = AuditRequest.of(7, _task(tmp_path, np.zeros(10, dtype=np.float32), windows=8))
    stop = StopRequest(save=False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        audited, taken = _asked(Worker(Link(theirs), session), ours, request, SnapshotRequest(number=8), stop)
        assert isinstance(audited, AuditReply)
        assert (audited.number, audited.unfinished, audited.before) == (7, "busy", ())
        assert isinstance(taken, SnapshotReply)
        real, batches = session.engine.window_losses, 0

        def ask_in_the_last_batch(windows: Windows) -> list[float]:
            nonlocal batches
            batches += 1
            if batches == 4:
                ours.sendall(encode(SnapshotRequest(number=9)) + encode(stop))
            return real(windows)

        monkeypatch.setattr(session.engine, "window_losses", ask_in_the_last_batch)
        whole, _ = _asked(Worker(Link(theirs), session), ours, request)
        assert isinstance(whole, AuditReply)
        assert (whole.unfinished, len(whole.before), len(whole.after)) == ("", 8, 8)
        (held,) = _asked(Worker(Link(theirs), session), ours, HoldRequest(on=True), request, stop)
        assert isinstance(held, AuditReply)
        assert held.unfinished == "held"


class _Ticking:
    """An engine whose every batch takes a second of a clock that is not the machine's."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches = 0
        self._real = session.engine.window_losses
        monkeypatch.setattr(session.engine, "window_losses", self._losses)
        monkeypatch.setattr("talkoot.peer.trainer.audit.time.monotonic", lambda: float(self.batches))

    def _losses(self, windows: Windows) -> list[float]:
        self.batches += 1
        return self._real(windows)


def test_time_decides_how_many_windows_are_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _session("numpy", tmp_path)  # batches of 4
    piece = np.zeros(10, dtype=np.float32)
    clock = _Ticking(session, monkeypatch)
    found = session.audit(_task(tmp_path, piece, windows=32, budget_s=6.0), _never)
    assert len(found.before) == len(found.after) == 12
    assert found.seconds == clock.batches == 6
    assert found.before == found.after
    short = session.audit(_task(tmp_path, piece, windows=32, fewest=16, budget_s=6.0), _never)
    assert (short.unfinished, short.before, short.seconds) == ("budget", (), 3)


def test_what_cannot_be_judged_is_said_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _session("transformers", tmp_path)
    local = local_of(session).tobytes()
    numel = session.engine.layout.numel
    task = _task(tmp_path, np.ones(8, dtype=np.float32), numel - 8)
    with pytest.raises(ValueError, match="slice up to element"):
        session.audit(_task(tmp_path, np.ones(9, dtype=np.float32), numel - 8), _never)
    (tmp_path / "piece").write_bytes(bytes(12))
    with pytest.raises(ValueError, match="12 bytes"):
        session.audit(task, _never)
    task = _task(tmp_path, np.ones(8, dtype=np.float32), numel - 8)

    def refuse(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(session.engine, "_model", refuse_model(session, refuse))
        assert session.audit(task, _never).unfinished == "memory"
    with monkeypatch.context() as patch:
        patch.setattr("talkoot.peer.trainer.audit.SPARE_BYTES", 1 << 60)
        assert session.audit(task, _never).unfinished == "memory"
    with monkeypatch.context() as patch:
        patch.setattr(session._corpus, "drawn", lambda _seed, _count: np.zeros((0, 17), dtype=np.int64))
        assert session.audit(task, _never).unfinished == "data"
    assert session.audit(task, _never).unfinished == ""
    assert local_of(session).tobytes() == local
    assert session.engine.micro.size == 4


def refuse_model(session: Session, refuse: Any) -> Any:
    """The session's model, whose forward pass fails."""

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            return getattr(session.engine._model, name)  # type: ignore[attr-defined]

        def eval(self) -> None:
            """Nothing."""

        def train(self) -> None:
            """Nothing."""

        def __call__(self, **_: object) -> None:
            refuse()

    return Refusing()


def test_the_largest_answer_fits_into_a_message() -> None:
    losses = tuple(float("nan") for _ in range(MAX_AUDIT_WINDOWS))
    reply = AuditReply(number=1, before=losses, after=losses, seconds=1.0, unfinished="")
    assert isinstance(decode_answer(encode(reply)[4:]), AuditReply)


def test_an_engine_that_runs_out_of_memory_means_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _session("numpy", tmp_path)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("talkoot.peer.trainer.numpy_model.losses", fail)
    task = _task(tmp_path, np.zeros(4, dtype=np.float32))
    assert audit(session.engine, session._corpus, task, _never).unfinished == "memory"
    with session.engine.elsewhere(np.zeros(4, dtype=np.float32)), pytest.raises(NoMemory):
        session.engine.window_losses(np.zeros((1, 17), dtype=np.int64))
