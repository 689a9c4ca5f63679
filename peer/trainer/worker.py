"""The trainer process: `python -m talkoot.peer.trainer.worker FD`, started by the daemon only.

It listens between steps, trains whenever it has parameters, and ends when it is told to or when the daemon is
gone. It never talks to the network.

A snapshot does not wait for the end of a step: parameters change at that end only, so between two
micro-batches they are those after the last finished one.
"""

import ctypes
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from talkoot.dht.errors import ConfigError
from talkoot.peer.trainer import claim, protocol, workplace
from talkoot.peer.trainer.engine import NoMemory
from talkoot.peer.trainer.gpu import GpuMeter, meter_of
from talkoot.peer.trainer.halting import Halted, Halting, block_nudges
from talkoot.peer.trainer.layout import require_match
from talkoot.peer.trainer.link import DaemonGone, Link
from talkoot.peer.trainer.niceness import renice
from talkoot.peer.trainer.pacing import Pace
from talkoot.peer.trainer.session import Session

PROGRESS_S = 0.5
"""Shortest time between two progress reports."""

IDLE_S = 60.0
"""How long one wait for a message lasts when there is nothing to train."""

PR_SET_PDEATHSIG = 1


class Worker:
    """Serves one daemon."""

    def __init__(
        self, link: Link, session: Session, gpu: GpuMeter | None = None, *, power: float = 1.0
    ) -> None:
        """`power` is the share of the time in which it works."""
        self._link = link
        self._session = session
        self._gpu = gpu
        self._began: float | None = None  # monotonic time of the first step
        self._reported_at = time.monotonic()
        self._rate_at = self._reported_at
        self._rate_steps = 0
        self._rate = 0.0
        self._held = False
        self._stepping = False
        self.halting = Halting(link)
        self.pace = Pace(self._reported_at, power)
        self._busy_before = 0.0
        """When the first step began."""
        session.engine.pulse = self._pulse
        session.engine.unchanged = self.halting.unchanged

    def run(self) -> None:
        """Until told to stop. Raises DaemonGone, NoMemory, ConfigError."""
        while True:
            training = self._session.work is not None and not self._held
            if training:
                self._rest()
            command = self._link.receive(timeout_s=0 if training else IDLE_S)
            if not training:
                self.pace.idle(time.monotonic())
            if isinstance(command, protocol.StopRequest):
                if command.save:
                    self.save()
                    self._report_last()
                return
            with suppress(Halted):
                if command is not None:
                    self._obey(command)
                elif training:
                    self._train()

    def save(self) -> None:
        """Keep local work for the next process, or say that it is lost."""
        try:
            self._session.save()
        except OSError as error:
            sys.stderr.write(f"local work since the last round is lost, it cannot be saved: {error}\n")

    def _train(self) -> None:
        if self._began is None:
            self._began = self._reported_at = self._rate_at = time.monotonic()
            self.pace.worked(self._began)
            self._busy_before = self.pace.busy_s
        self._stepping = True
        try:
            self._session.step()
        finally:
            self._stepping = False
        if time.monotonic() - self._reported_at >= PROGRESS_S:
            self._session.read()
            self._report(time.monotonic())

    def _obey(self, command: protocol.Command) -> None:
        match command:
            case protocol.AdoptRequest():
                self._answer(command.number, lambda: self._adopt(command))
            case protocol.SnapshotRequest():
                self._answer(command.number, lambda: self._snapshot(command))
            case protocol.AuditRequest():
                self._answer(command.number, lambda: self._audit(command))
            case protocol.HoldRequest(on=on):
                self._held = on
                self._reported_at = self._rate_at = time.monotonic()
                self._rate_steps = self._session.totals.steps
            case protocol.TuneRequest():
                self._tune(command)
            case _:
                raise ValueError(f"unexpected {type(command).__name__}")

    def _tune(self, command: protocol.TuneRequest) -> None:
        self.pace.change(command.power)
        renice(command.nice)
        self._session.engine.tune(
            threads=command.threads,
            memory_limit_bytes=command.memory_limit_bytes,
            headroom_bytes=command.headroom_bytes,
        )

    def _rest(self) -> None:
        """As long as the pace says, unless something else is wanted: then the rest of it comes later."""
        if self.pace.power < 1:
            self._session.engine.settle()
        self.pace.worked(time.monotonic())
        while (due_s := self.pace.due_s) > 0:
            began = time.monotonic()
            waiting = self._link.peek(timeout_s=min(due_s, PROGRESS_S))
            now = time.monotonic()
            self.pace.rested(now)
            self._session.rested(now - began)
            if waiting is not None and not (self._stepping and self._obey_inside(waiting)):
                return
            self._report_sometimes()

    def _obey_inside(self, waiting: protocol.Command) -> bool:
        """In a step only what changes no parameters can be done: whether this was."""
        work = self._session.work
        if isinstance(waiting, protocol.TuneRequest) or (
            isinstance(waiting, protocol.SnapshotRequest) and work is not None and work.steps
        ):
            with self.halting.changed():
                self._obey(waiting)
            self._link.receive(timeout_s=0)  # not before: a step may be made again for want of memory
            self.pace.worked(time.monotonic())
            return True
        return False

    def _answer(self, number: int, action: Callable[[], protocol.Answer]) -> None:
        """Send what `action` gives, or why it could not be done."""
        try:
            answer = action()
        except (OSError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            code = (error.errno or 0) if isinstance(error, OSError) else 0
            answer = protocol.RequestFailed(number=number, reason=str(error)[:500], errno=code)
        self._link.send(answer)

    def _adopt(self, command: protocol.AdoptRequest) -> protocol.Answer:
        adopted = self._session.adopt(
            Path(command.outer),
            round_=command.round,
            digest=command.digest,
            global_step=command.global_step,
            mode=command.mode,
            evaluate=command.evaluate,
        )
        return protocol.AdoptReply(
            number=command.number,
            steps=adopted.steps,
            eval_loss=adopted.eval_loss,
            resumed=adopted.resumed,
            position=adopted.position,
        )

    def _snapshot(self, command: protocol.SnapshotRequest) -> protocol.Answer:
        if self._session.work is None:
            return protocol.RequestFailed(number=command.number, reason="no parameters were adopted yet")
        taken = self._session.snapshot()
        return protocol.SnapshotReply(
            number=command.number,
            path=str(taken.path),
            steps=taken.steps,
            tokens=taken.tokens,
            loss=taken.loss,
            seconds=taken.seconds,
        )

    def _audit(self, command: protocol.AuditRequest) -> protocol.Answer:
        if self._session.work is None or self._held:
            return protocol.AuditReply(
                number=command.number, before=(), after=(), seconds=0.0, unfinished="held"
            )
        done = self._session.audit(command.task(), lambda: self._link.peek() is not None)
        return protocol.AuditReply(
            number=command.number,
            before=done.before,
            after=done.after,
            seconds=done.seconds,
            unfinished=done.unfinished,
        )

    def _pulse(self) -> None:
        """Inside a long step or evaluation: a sign of life (the last figures). In a step also a snapshot,
        other limits, and a rest; and the end, where the trainer is to stop."""
        self.halting.look(stepping=self._stepping)
        if self._stepping:
            waiting = self._link.peek()
            if waiting is None or self._obey_inside(waiting):
                self._rest()
        self._report_sometimes()

    def _report_sometimes(self) -> None:
        now = time.monotonic()
        if self._session.work is not None and now - self._reported_at >= 10 * PROGRESS_S:
            self._report(now)

    def _report_last(self) -> None:
        """What it has come to in the end."""
        if self._session.work is not None and self._began is not None:
            with suppress(DaemonGone):
                self._report(time.monotonic())

    def _report(self, now: float) -> None:
        work, totals, last = self._session.work, self._session.totals, self._session.last
        assert work is not None
        elapsed = now - self._rate_at
        if totals.steps > self._rate_steps and elapsed > 0:
            rate = (totals.steps - self._rate_steps) / elapsed
            self._rate = rate if not self._rate else 0.7 * self._rate + 0.3 * rate
            self._rate_at, self._rate_steps = now, totals.steps
        self._reported_at = now
        self._link.send(
            protocol.Progress(
                steps=work.steps,
                tokens=work.tokens,
                loss=last.loss,
                steps_per_second=self._rate,
                inner_seconds=totals.inner_seconds,
                total_seconds=0.0 if self._began is None else now - self._began,
                busy_seconds=self.pace.busy_s - self._busy_before,
                steps_total=totals.steps,
                tokens_total=totals.tokens,
                grad_norm=last.grad_norm,
                lr=self._session.lr,
                micro_batch=self._session.engine.micro.size,
                skipped=last.skipped,
                position=work.position,
                memory_bytes=self._session.engine.memory_bytes(),
                gpus=self._gpu.read(now) if self._gpu is not None else (),
            )
        )


def open_session(spec: protocol.TrainerSpec) -> tuple[Session, protocol.Ready]:
    """Load everything that `spec` names. Raises ConfigError, NoMemory, OSError."""
    manifest = workplace.load_manifest(spec.manifest_path)
    spec.state_dir.mkdir(parents=True, exist_ok=True)
    engine = workplace.make_engine(
        manifest,
        device=spec.device,
        threads=spec.threads,
        memory_limit_bytes=spec.memory_limit_bytes,
        headroom_bytes=spec.headroom_bytes,
    )
    require_match(engine.layout, manifest)
    corpus = workplace.make_corpus(manifest, spec, engine.vocab_size)
    engine.probe(manifest.data.sequence_length)
    ready = protocol.Ready(
        device=engine.device,
        micro_batch=engine.micro.size,
        corpus_hash=corpus.hash,
        train_tokens=corpus.train_tokens,
        held_out_tokens=corpus.held_out_tokens,
        notice=corpus.notice,
    )
    return Session(manifest, engine, corpus, state_dir=spec.state_dir, peer=spec.peer), ready


def _open(spec: protocol.TrainerSpec) -> tuple[Session, protocol.Ready]:
    try:
        return open_session(spec)
    except OSError as error:
        raise ConfigError(
            f"cannot prepare the training data in {spec.state_dir}: {error.strerror or error}"
        ) from error


def _gpu_of(spec: protocol.TrainerSpec) -> str | None:
    """Which one others must keep off."""
    if spec.share_gpu:
        return None
    return claim.uuid_of(workplace.load_manifest(spec.manifest_path).model.kind, spec.device)


def serve(link: Link, spec: protocol.TrainerSpec) -> None:
    """Work for the daemon until the end. What cannot work is told; crashes go up. Raises DaemonGone."""
    try:
        with claim.claimed(_gpu_of(spec), spec.state_dir.parent):
            session, ready = _open(spec)
            link.send(ready)
            meter = meter_of(session.engine.device, spec.memory_limit_bytes)
            worker = Worker(link, session, meter, power=spec.power)
            worker.halting.obey_nudges(worker.save)
            worker.run()
    except NoMemory as error:
        words = f"{error}; free some, or raise --memory-limit, or take a machine or device with more"
        link.send(protocol.Failed(reason=" ".join(words.split())[:500], errno=errno.ENOMEM))
    except ConfigError as error:
        code = (error.__cause__.errno or 0) if isinstance(error.__cause__, OSError) else 0
        link.send(protocol.Failed(reason=" ".join(str(error).split())[:500], errno=code))


def die_with_parent() -> None:
    """Linux: be killed when the daemon dies, even in the middle of a step. Elsewhere the socket tells."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(arguments: list[str]) -> int:
    """Entry point; `arguments` is the inherited socket's descriptor."""
    die_with_parent()
    block_nudges()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to handle
    link = Link(socket.socket(fileno=int(arguments[0])))
    try:
        setup = link.receive(timeout_s=IDLE_S)
        if not isinstance(setup, protocol.Setup):
            return 2
        os.nice(setup.nice)
        serve(link, setup.spec())
    except DaemonGone:
        return 0
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # its memory is waited for: what an interpreter tidies up takes seconds of a busy machine
