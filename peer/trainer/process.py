"""The daemon's side of the trainer: starts the subprocess, talks to it, repairs it. Never imports torch."""

import asyncio
import logging
import os
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from talkoot.dht.child import child
from talkoot.peer.disk import KINDS
from talkoot.peer.trainer import protocol
from talkoot.peer.trainer.halting import NUDGE
from talkoot.peer.trainer.process_meter import ProcessMeter
from talkoot.peer.trainer.protocol import (
    Adopted,
    Audited,
    AuditTask,
    Mode,
    Snapshot,
    TrainerEvent,
    TrainerSpec,
    Tuning,
)
from talkoot.peer.trainer.silence import Silence

log = logging.getLogger("talkoot.trainer")


class TrainerGone(Exception):  # noqa: N818 - reads well where it is caught
    """The trainer is not running, or ended before it answered."""


class TrainerRefused(Exception):  # noqa: N818 - likewise
    """The trainer could not do what was asked (a full disk, a file of another size); it goes on."""

    def __init__(self, reason: str, errno: int = 0) -> None:
        """`errno` of the system's error that was to blame; 0: none."""
        super().__init__(reason)
        self.errno = errno


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long things may take, in seconds."""

    start_s: float = 1800.0
    """From start to `Ready`: a large corpus is tokenized then."""
    silence_s: float = 45.0
    """Without a sign of life, nor CPU time used, while it trains or owes an answer."""
    busy_silence_s: float = 600.0
    """Same while it computes; and until the first progress report: compilation may be under way."""
    backoff_s: float = 1.0
    """Pause before the first restart; doubles with each crash."""
    max_backoff_s: float = 60.0
    """Longest pause, and the time that a process must live for the backoff to begin anew."""
    nudge_s: float = 2.5
    """How long an orderly stop waits for the end of a micro-batch."""
    kill_s: float = 2.0
    """Between SIGTERM and SIGKILL."""


COMMAND = (sys.executable, "-m", "talkoot.peer.trainer.worker")

MAX_LINE = 500
"""Characters of one line of the trainer's stderr that are logged."""

KEPT_LINES = 20
"""Lines kept to explain a crash."""

LOOK_S = 1.0
"""Between two looks at whether it still reacts."""


class _Life:
    """One run of the subprocess."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self.reader = reader
        self.writer = writer
        self.pending: dict[int, asyncio.Future[protocol.Reply]] = {}
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.heard = time.monotonic()
        self.meter = ProcessMeter(process.pid)
        self.ready = False
        self.training = False
        self.held = False
        self.progressed = False
        self.failed: protocol.Failed | None = None
        self.wedged: str | None = None

    def silence_allowed_s(self, limits: Limits) -> float | None:
        """How long it may say nothing now; None: it waits for us."""
        if not self.ready:
            return limits.start_s
        return limits.busy_silence_s if (self.training and not self.held) or self.pending else None

    def end(self, reason: str) -> None:
        """Fail all requests that it owes an answer to."""
        for future in self.pending.values():
            if not future.done():
                future.set_exception(TrainerGone(reason))
                future.exception()  # whoever asked may be gone as well
        self.pending.clear()


class TrainerProcess:
    """A supervised trainer. All methods belong to one event loop.

    After each `Ready` event the caller adopts with mode "start"; until then nothing is trained.
    """

    def __init__(
        self,
        spec: TrainerSpec,
        on_event: Callable[[TrainerEvent], None],
        *,
        limits: Limits | None = None,
        on_line: Callable[[str], None] | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """`on_event` is called from the event loop and must not block; `on_line` gets lines of stderr.

        `command` is started with the descriptor of its socket as last argument.
        """
        self._command = tuple(command)
        self._spec = spec
        self._on_event = on_event
        self._limits = limits or Limits()
        self._on_line = on_line or (lambda line: log.info("trainer: %s", line))
        self._life: _Life | None = None
        self._numbers = 0
        self._stopping = False
        self._held = False
        self._ended = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._life.process.pid if self._life else None

    async def run(self) -> None:
        """Start it, and again after each crash, until `stop`, a `Failed` event or cancellation.

        When this ends in any way, the child is gone. Raises OSError when no process can be started at all,
        unless that may pass (no descriptors are left, say): then it counts as a crash.
        """
        self._stopping = False
        self._ended.clear()
        backoff_s = self._limits.backoff_s
        try:
            while not self._stopping:
                began, code = time.monotonic(), 0
                try:
                    reason = await self._live()
                except OSError as error:
                    if error.errno not in KINDS:
                        raise
                    reason, code = error.strerror, error.errno
                if reason is None or self._stopping:
                    return
                if time.monotonic() - began >= self._limits.max_backoff_s:
                    backoff_s = self._limits.backoff_s
                level = logging.INFO if code else logging.WARNING  # the disk has its own warning
                log.log(level, "trainer ended: %s; next start in %.0f s", reason, backoff_s)
                self._on_event(protocol.Crashed(reason=reason, will_retry=True, errno=code))
                with suppress(TimeoutError):
                    async with asyncio.timeout(backoff_s):
                        await self._ended.wait()  # set by stop
                backoff_s = min(2 * backoff_s, self._limits.max_backoff_s)
        finally:
            self._ended.set()

    async def adopt(
        self,
        outer: Path,
        *,
        round: int,  # noqa: A002 - the word of the design
        digest: str,
        global_step: int,
        mode: Mode,
        evaluate: int = 0,
    ) -> Adopted:
        """Give it new outer parameters, taken up at its next step boundary.

        `start`: local = outer, unless there is saved local work: then that goes on, rebased as below if it is
        of another outer state than `digest` of `round`, with AdamW cold if that is more than a round away.
        `rebase`: local = outer + (local - base), where base is the latest snapshot, or the parameters adopted
        before when there was none; the optimiser goes on. `rewarm`: the same, but AdamW starts cold and its
        rate comes back over 50 steps. `replace`: local = outer, and AdamW starts cold.
        `evaluate`: held-out windows on which `outer` is measured.
        The file must not be changed in place while it is adopted; renaming over it is fine.
        Raises TrainerGone, TrainerRefused.
        """
        reply = await self._request(
            lambda number: protocol.AdoptRequest(
                number=number,
                outer=str(outer),
                round=round,
                digest=digest,
                global_step=global_step,
                mode=mode,
                evaluate=evaluate,
            )
        )
        assert isinstance(reply, protocol.AdoptReply)
        return Adopted(
            steps=reply.steps, eval_loss=reply.eval_loss, resumed=reply.resumed, position=reply.position
        )

    async def snapshot(self) -> Snapshot:
        """The local parameters after the last finished step, or after the first one if that is being made.

        It does not wait for the step in between, which belongs to the next snapshot; counters restart at 0.

        Raises TrainerGone, TrainerRefused.
        """
        reply = await self._request(lambda number: protocol.SnapshotRequest(number=number))
        assert isinstance(reply, protocol.SnapshotReply)
        return Snapshot(
            path=Path(reply.path),
            steps=reply.steps,
            tokens=reply.tokens,
            loss=reply.loss,
            seconds=reply.seconds,
        )

    async def audit(self, task: AuditTask) -> Audited:
        """What a slice of a contribution does to the loss, on held-out windows; no steps are made meanwhile.

        Training goes on bit for bit as it would have. Whatever else is asked of the trainer meanwhile ends
        the audit at its next batch. Its files must be there until the answer; whether `task.outer` was
        changed meanwhile is for the caller to know.
        Raises TrainerGone, TrainerRefused.
        """
        reply = await self._request(lambda number: protocol.AuditRequest.of(number, task))
        assert isinstance(reply, protocol.AuditReply)
        return Audited(
            before=reply.before, after=reply.after, seconds=reply.seconds, unfinished=reply.unfinished
        )

    def hold(self, on: bool) -> None:
        """Make no steps for now, or go on with them; also after a restart."""
        self._held = on
        if self._life is not None and not self._life.writer.is_closing():
            self._send_hold(self._life)

    def tune(self, tuning: Tuning) -> None:
        """Go on with these at its next micro-batch; also after a restart."""
        if (changed := replace(self._spec, **asdict(tuning))) == self._spec:
            return
        self._spec = changed
        if self._life is not None and not self._life.writer.is_closing():
            self._life.writer.write(protocol.encode(protocol.TuneRequest.of(tuning)))

    def _send_hold(self, life: _Life) -> None:
        life.held, life.heard = self._held, time.monotonic()
        life.writer.write(protocol.encode(protocol.HoldRequest(on=self._held)))

    async def stop(self, *, save: bool, timeout_s: float) -> None:
        """End it and wait until it is gone: politely for `timeout_s`, then SIGTERM, then SIGKILL. A step that
        takes long is given up.

        `save`: keep local work for the next start; one that has taken up no state has none, and is ended at
        once, in the middle of its loading. Nothing happens when it does not run.
        """
        self._stopping = True
        life = self._life
        if life is None:
            self._ended.set()  # out of the backoff
            return
        if not life.training:
            timeout_s = 0.0
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(timeout_s):
                life.writer.write(protocol.encode(protocol.StopRequest(save=save)))
                await life.writer.drain()
                await self._gone(life, nudge=save)
        await self._end_process(life.process)
        await self._ended.wait()

    async def _gone(self, life: _Life, *, nudge: bool) -> None:
        """Wait until it is, and do not let one micro-batch delay that."""
        if nudge:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.nudge_s):
                    await life.process.wait()
                return
            with suppress(ProcessLookupError):
                life.process.send_signal(NUDGE)
        await life.process.wait()

    async def _request(self, make: Callable[[int], protocol.Command]) -> protocol.Reply:
        life = self._life
        if life is None or self._stopping:
            raise TrainerGone("the trainer is not running")
        self._numbers += 1
        number = self._numbers
        future = asyncio.get_running_loop().create_future()
        life.pending[number] = future
        life.heard = time.monotonic()
        try:
            life.writer.write(protocol.encode(make(number)))
            await life.writer.drain()
            reply: protocol.Reply = await future
        except ConnectionError as error:
            raise TrainerGone("the trainer ended") from error
        finally:
            life.pending.pop(number, None)
        return reply

    async def _live(self) -> str | None:
        """One life of the process. Returns why it ended, or None when there is no use to start it again."""
        async with self._started() as life:
            try:
                async with asyncio.TaskGroup() as group:
                    watchdog = group.create_task(self._watch(life))
                    logger = group.create_task(self._log_stderr(life))
                    reason = await self._listen(life)
                    if reason is None:  # end of stream: it is about to be gone
                        await self._end_process(life.process, grace_s=self._limits.kill_s)
                    watchdog.cancel()
                    if reason is not None:
                        await self._end_process(life.process)
                    await asyncio.wait([logger], timeout=1.0)  # children of its own may hold stderr open
                    logger.cancel()
            except* _Wedged as wedged:
                life.wedged = str(wedged.exceptions[0])
            if life.failed is None:
                return life.wedged or reason or _explain(life)
            if life.failed.errno in KINDS:
                raise OSError(life.failed.errno, life.failed.reason)
            self._on_event(life.failed)
            return None

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[_Life]:
        """A running process with our `Setup` sent; at the end of the scope it is dead and reaped."""
        ours, theirs = socket.socketpair()
        async with AsyncExitStack() as running:
            with ExitStack() as until_connected:
                until_connected.enter_context(ours)
                with theirs:
                    starting = child(
                        *self._command,
                        str(theirs.fileno()),
                        pass_fds=(theirs.fileno(),),
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=asyncio.subprocess.DEVNULL,
                        stderr=asyncio.subprocess.PIPE,
                        env=self._environment(),
                        start_new_session=True,  # Ctrl-C in the terminal is ours
                    )
                    process = await running.enter_async_context(starting)
                reader, writer = await asyncio.open_connection(
                    sock=ours, limit=2 * protocol.MAX_MESSAGE_BYTES
                )
                until_connected.pop_all()  # the writer closes it from now on
            life = _Life(process, reader, writer)
            self._life = life
            try:
                writer.write(protocol.encode(protocol.Setup.of(self._spec)))
                if self._held:
                    self._send_hold(life)
                yield life
            finally:
                self._life = None
                life.end("the trainer ended")
                writer.close()

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        environment |= {
            "TRANSFORMERS_VERBOSITY": "error",
            "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
            "OPENBLAS_NUM_THREADS": "1",  # numpy's; torch has its own
            "PYTHONUNBUFFERED": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(self._spec.state_dir / "compiled"),  # not the machine's /tmp
        }
        if self._spec.threads:
            environment["OMP_NUM_THREADS"] = str(self._spec.threads)
        return environment

    async def _listen(self, life: _Life) -> str | None:
        """Take messages until the end of the stream (None) or until they make no sense (why)."""
        try:
            while True:
                prefix = await life.reader.readexactly(protocol.PREFIX.size)
                body = await life.reader.readexactly(protocol.body_length(prefix))
                life.heard = time.monotonic()
                self._take(life, protocol.decode_answer(body))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except ValueError as error:
            return f"malformed message: {error}"

    def _take(self, life: _Life, answer: protocol.Answer) -> None:
        match answer:
            case protocol.Ready():
                life.ready = True
                self._on_event(answer)
            case protocol.Progress():
                life.progressed = True
                self._on_event(answer)
            case protocol.Failed():
                life.failed = answer
            case protocol.RequestFailed():
                future = life.pending.get(answer.number)
                if future is not None and not future.done():
                    future.set_exception(TrainerRefused(answer.reason, answer.errno))
            case _:
                life.training = True
                future = life.pending.get(answer.number)
                if future is not None and not future.done():
                    future.set_result(answer)

    async def _watch(self, life: _Life) -> None:
        """Raises _Wedged when it does not react any more."""
        silence = Silence(idle_s=self._limits.silence_s)
        while True:
            await asyncio.sleep(LOOK_S)
            look = life.meter.look(life.heard)
            allowed_s = life.silence_allowed_s(self._limits)
            why = silence.look(look, allowed_s=allowed_s, idles=not life.progressed)
            if why is not None:
                raise _Wedged(why)

    async def _log_stderr(self, life: _Life) -> None:
        """Log what it writes, line by line, each cut to `MAX_LINE` characters."""
        assert life.process.stderr is not None
        held = b""
        while data := await life.process.stderr.read(4096):
            *lines, held = (held + data).split(b"\n")
            held = held[: 4 * MAX_LINE]
            for line in lines:
                self._log_line(life, line)
        self._log_line(life, held)

    def _log_line(self, life: _Life, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()[:MAX_LINE]
        if text:
            life.lines.append(text)
            self._on_line(text)

    async def _end_process(self, process: asyncio.subprocess.Process, *, grace_s: float = 0.0) -> None:
        """Wait `grace_s`, then SIGTERM, then SIGKILL; returns when it is reaped."""
        for signal_it, wait_s in (
            (None, grace_s),
            (process.terminate, self._limits.kill_s),
            (process.kill, None),
        ):
            if process.returncode is not None:
                return
            if signal_it is not None:
                with suppress(ProcessLookupError):
                    signal_it()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await process.wait()


class _Wedged(Exception):  # noqa: N818 - internal signal
    """The trainer does not react."""


def _explain(life: _Life) -> str:
    code = life.process.returncode
    how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return f"{how}: {life.lines[-1]}" if life.lines else how
