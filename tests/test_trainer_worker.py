"""The trainer's loop, in this process, with a socket to a daemon that is played by the test."""

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from trainer_help import local_of, make_manifest, make_session, write_vector

from talkoot.peer.trainer import halting, protocol
from talkoot.peer.trainer.layout import Flat
from talkoot.peer.trainer.link import Link
from talkoot.peer.trainer.session import Session
from talkoot.peer.trainer.worker import Worker


class Daemon:
    """The other end of a worker's socket. What is asked for arrives between two micro-batches of a step."""

    def __init__(self, session: Session, *, power: float = 1.0) -> None:
        self._sock, self._theirs = socket.socketpair()
        self._sock.settimeout(10)
        self.session = session
        self.worker = Worker(Link(self._theirs), session, power=power)
        self.answers: list[tuple[int, protocol.Answer]] = []  # with the micro-batches that were done by then
        self._pulse = session.engine.pulse
        self._done = 0
        self._asked: list[protocol.Command] = []
        self._last_step: int | None = None
        session.engine.pulse = self._on_pulse

    def ask(self, *commands: protocol.Command) -> None:
        """They arrive with the next pulse."""
        self._asked.extend(commands)

    def stop_after(self, steps: int) -> None:
        """It stops at its end of the last of them."""
        self._last_step = steps - 1

    def _on_pulse(self) -> None:
        self._done += 1
        if self.session.totals.steps == self._last_step:
            self._last_step = None
            self.ask(protocol.StopRequest(save=False))
        while self._asked:
            self._sock.sendall(protocol.encode(self._asked.pop(0)))
        self._pulse()
        self._collect()

    def _collect(self) -> None:
        self._sock.setblocking(False)
        try:
            data = self._sock.recv(1 << 20)
        except BlockingIOError:
            return
        finally:
            self._sock.settimeout(10)
        while data:
            length = protocol.body_length(data[: protocol.PREFIX.size])
            body, data = data[protocol.PREFIX.size :][:length], data[protocol.PREFIX.size + length :]
            self.answers.append((self._done, protocol.decode_answer(body)))

    def run(self) -> None:
        """Until it is told to stop."""
        with self._sock, self._theirs:
            self.worker.run()
            self._collect()


def _make(kind: str, folder: Path, *, step_ms: int = 0) -> Session:
    folder.mkdir()
    session = make_session(make_manifest(kind, step_ms=step_ms), folder)
    write_vector(folder / "outer", session.engine.layout.numel, 0)
    session.adopt(folder / "outer", round_=0, digest="aa", global_step=0, mode="start")
    session.engine.micro.size = 1  # four micro-batches, so four pulses a step
    return session


def _only(answers: list[tuple[int, protocol.Answer]]) -> tuple[int, protocol.SnapshotReply]:
    found = [(done, answer) for done, answer in answers if isinstance(answer, protocol.SnapshotReply)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("kind", ["numpy", "transformers"])
def test_a_snapshot_does_not_wait_for_the_step_in_progress(kind: str, tmp_path: Path) -> None:
    between = _make(kind, tmp_path / "between")
    between.step()
    reference = np.fromfile(between.snapshot().path, dtype="<f4")
    between.step()
    daemon = Daemon(_make(kind, tmp_path / "inside"))
    daemon.session.step()  # finished; the worker makes the second
    daemon.ask(protocol.SnapshotRequest(number=7), protocol.StopRequest(save=False))
    daemon.run()
    done, reply = _only(daemon.answers)
    assert (done, reply.number, reply.steps, reply.tokens) == (5, 7, 1, 4 * 16)
    assert np.fromfile(reply.path, dtype="<f4").tobytes() == reference.tobytes()
    assert local_of(daemon.session).tobytes() == local_of(between).tobytes()
    assert daemon.session.work is not None
    assert between.work is not None
    assert (daemon.session.work.steps, daemon.session.work.position) == (1, between.work.position)


def test_a_snapshot_without_a_finished_step_waits_for_one(tmp_path: Path) -> None:
    daemon = Daemon(_make("numpy", tmp_path / "inside"))
    daemon.ask(protocol.SnapshotRequest(number=7), protocol.StopRequest(save=False))
    daemon.run()
    _, reply = _only(daemon.answers)
    assert reply.steps == 1
    assert np.fromfile(reply.path, dtype="<f4").tobytes() == local_of(daemon.session).tobytes()


def test_what_came_before_a_snapshot_is_obeyed_before_it(tmp_path: Path) -> None:
    daemon = Daemon(_make("numpy", tmp_path / "inside"))
    daemon.session.step()
    write_vector(tmp_path / "other", daemon.session.engine.layout.numel, 1)
    other = str(tmp_path / "other")
    adopt = protocol.AdoptRequest(
        number=6, outer=other, round=1, digest="bb", global_step=1, mode="rebase", evaluate=0
    )
    daemon.ask(adopt, protocol.SnapshotRequest(number=7), protocol.StopRequest(save=False))
    daemon.run()
    replies = protocol.AdoptReply | protocol.SnapshotReply
    numbers = [answer.number for _, answer in daemon.answers if isinstance(answer, replies)]
    assert numbers == [6, 7]
    assert _only(daemon.answers)[1].steps == 2
    base = np.fromfile(tmp_path / "other", dtype="<f4")
    assert not np.array_equal(np.fromfile(_only(daemon.answers)[1].path, dtype="<f4"), base)


def test_nothing_is_taken_inside_an_evaluation(tmp_path: Path) -> None:
    """The engine holds other parameters meanwhile."""
    daemon = Daemon(_make("transformers", tmp_path / "inside"))
    daemon.session.step()
    other = tmp_path / "other"
    write_vector(other, daemon.session.engine.layout.numel, 1)
    daemon.ask(protocol.SnapshotRequest(number=7), protocol.StopRequest(save=False))
    daemon.session.adopt(other, round_=1, digest="bb", global_step=1, mode="rebase", evaluate=4)
    assert not daemon.answers
    local = local_of(daemon.session)
    daemon.run()
    _, reply = _only(daemon.answers)
    assert reply.steps == 1
    assert np.fromfile(reply.path, dtype="<f4").tobytes() == local.tobytes()


def test_a_snapshot_that_lacks_memory_is_taken_when_the_step_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(_make("numpy", tmp_path / "inside"))
    daemon.session.engine.micro.size = 2
    daemon.session.step()
    chunks, failures = daemon.session.engine.chunks, [MemoryError("short of it")]

    def short_once() -> Iterator[Flat]:
        if failures:
            raise failures.pop()
        return chunks()

    monkeypatch.setattr(daemon.session.engine, "chunks", short_once)
    daemon.ask(protocol.SnapshotRequest(number=7), protocol.StopRequest(save=False))
    daemon.run()
    _, reply = _only(daemon.answers)
    assert (reply.number, reply.steps, daemon.session.engine.micro.size) == (7, 1, 1)


@pytest.mark.parametrize(("step_ms", "steps"), [(5, 60), (300, 2)])
def test_a_paced_trainer_rests_between_short_steps_and_inside_of_long_ones(
    step_ms: int, steps: int, tmp_path: Path
) -> None:
    daemon = Daemon(_make("numpy", tmp_path / "inside", step_ms=step_ms), power=0.25)
    daemon.stop_after(steps)
    daemon.run()
    busy_s, rested_s = daemon.worker.pace.busy_s, daemon.session.totals.rested_seconds
    assert busy_s >= daemon.session.totals.inner_seconds >= steps * step_ms / 1000
    assert rested_s + daemon.worker.pace.due_s == pytest.approx(3 * busy_s, rel=0.05)
    assert rested_s > 3 * busy_s * (steps - 1) / steps - 0.2  # the last one ends with the stop
    assert daemon.session.work is not None
    assert daemon.session.work.seconds == pytest.approx(daemon.session.totals.inner_seconds + rested_s)


def test_a_rest_ends_for_what_is_asked_and_another_pace_holds_at_once(tmp_path: Path) -> None:
    daemon = Daemon(_make("numpy", tmp_path / "inside", step_ms=200), power=0.01)
    tuning = protocol.Tuning(power=1.0, threads=1)
    daemon.ask(protocol.TuneRequest.of(tuning), protocol.SnapshotRequest(number=7))
    daemon.stop_after(2)
    daemon.run()  # would take minutes
    assert _only(daemon.answers)[1].steps == 1
    assert daemon.worker.pace.power == 1.0


def test_a_stop_does_not_wait_for_the_rest(tmp_path: Path) -> None:
    daemon = Daemon(_make("numpy", tmp_path / "inside", step_ms=200), power=0.01)
    daemon.ask(protocol.StopRequest(save=True))
    daemon.run()
    assert daemon.session.totals.steps == 1


@pytest.mark.parametrize("kind", ["numpy", "transformers"])
def test_a_step_is_given_up_when_the_worker_is_to_stop(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the finished steps have left is saved, and goes on as if nothing had been."""
    monkeypatch.setattr(halting, "GRACE_S", 0.0)
    session = _make(kind, tmp_path / "given-up")
    session.step()
    before = {name: vector.copy() for name, vector in session.engine.state().items()}
    daemon = Daemon(session)
    daemon.ask(protocol.StopRequest(save=True))
    daemon.run()
    assert daemon._done == 1  # micro-batches of the second step
    assert session.work is not None
    assert (session.work.steps, session.work.position) == (1, 4)
    fresh = make_session(make_manifest(kind), tmp_path / "given-up")
    outer = tmp_path / "given-up" / "outer"
    assert fresh.adopt(outer, round_=0, digest="aa", global_step=0, mode="start").resumed
    assert fresh.work == session.work
    for name, vector in fresh.engine.state().items():
        assert name.startswith("random") or np.array_equal(vector, before[name]), name


def test_a_step_that_is_about_to_end_does(tmp_path: Path) -> None:
    daemon = Daemon(_make("numpy", tmp_path / "ends"))
    daemon.ask(protocol.StopRequest(save=True))
    daemon.run()
    last = daemon.answers[-1][1]
    assert isinstance(last, protocol.Progress)
    assert (last.steps, last.steps_total) == (1, 1)  # what it has come to is told


def test_an_evaluation_is_given_up_when_the_worker_is_to_stop(tmp_path: Path) -> None:
    daemon = Daemon(_make("transformers", tmp_path / "evaluates"))
    session, later = daemon.session, tmp_path / "later"
    write_vector(later, session.engine.layout.numel, 1)
    before = local_of(session)
    request = protocol.AdoptRequest(
        number=1, outer=str(later), round=1, digest="bb", global_step=1, mode="rebase", evaluate=8
    )
    daemon._sock.sendall(protocol.encode(request))
    daemon.ask(protocol.StopRequest(save=True))
    daemon.run()
    assert daemon._done == 1
    assert session.work is not None
    assert session.work.round == 0
    assert np.array_equal(local_of(session), before)
