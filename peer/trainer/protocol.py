"""Messages between the daemon and its trainer, over a socketpair: length-prefixed msgpack, bounded.

The daemon sends `Setup` once, then requests with a number; the trainer answers each with the same number and
sends events in between. Vectors never travel here: they lie in files of `numel` little-endian float32 that
both sides map.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

MAX_MESSAGE_BYTES = 64 * 1024
"""Longest message in either direction."""

PREFIX = struct.Struct("<I")

Mode = Literal["start", "rebase", "rewarm", "replace"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerSpec:
    """What a trainer is started with."""

    manifest_path: Path
    """The canonical bytes of the sealed manifest."""
    state_dir: Path
    """Folder of the trainer's own files: token cache, snapshots, saved local work."""
    peer: bytes
    """Our raw public key: it chooses our windows of the data."""
    device: str = "auto"
    """`auto` (cuda, then mps, then cpu) or a torch device such as `cuda:1`."""
    threads: int = 0
    """CPU threads; 0: one for each physical core."""
    memory_limit_bytes: int = 0
    """Most memory of the device (on a CPU: of the process) for training; 0: what is free."""
    nice: int = 0
    """Niceness added to the daemon's, 0 to 19."""
    power: float = 1.0
    """Share of the time in which it works, over 0 to 1."""
    headroom_bytes: int = 0
    """Memory of a GPU that stays free for others."""
    share_gpu: bool = False
    """Do not mind other trainers on the same GPU."""
    data_paths: tuple[str, ...] = ()
    """Files or globs of the operator that replace `data.paths` of the manifest."""
    base_dir: Path | None = None
    """Folder that relative paths of the manifest start from; None: the folder of `manifest_path`."""

    def __post_init__(self) -> None:
        if len(self.peer) != 32:
            raise ValueError("peer must be a raw public key of 32 bytes")
        if not 0 <= self.nice <= 19:
            raise ValueError("nice must be 0 to 19")
        if not 0 <= self.threads <= 1024:
            raise ValueError("threads must be 0 to 1024")
        if self.memory_limit_bytes < 0:
            raise ValueError("memory_limit_bytes must be 0 or more")
        if not 0 < self.power <= 1:
            raise ValueError("power must be over 0, and 1 at most")
        if self.headroom_bytes < 0:
            raise ValueError("headroom_bytes must be 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What may be changed in a running trainer; fields as in `TrainerSpec`."""

    power: float = 1.0
    threads: int = 0
    nice: int = 0
    memory_limit_bytes: int = 0
    headroom_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Adopted:
    """The trainer now works from the outer parameters that it was given."""

    steps: int
    """Local steps since the last snapshot, kept across the change."""
    eval_loss: float | None
    """Held-out loss of the outer parameters, nats a token; None: not asked for, or nothing is held out."""
    resumed: bool = False
    """Saved local work of an earlier process was taken up."""
    position: int = 0
    """Windows of this round's sequence that were drawn before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The local parameters after one step. The file stays as it is until the next snapshot but one."""

    path: Path
    steps: int
    """Inner steps since the snapshot before, or since local = outer."""
    tokens: int
    loss: float | None
    """Mean training loss over the last few steps, nats a token."""
    seconds: float
    """Time spent inside those steps."""


Unfinished = Literal["", "busy", "budget", "data", "memory", "held"]
"""Why an audit came to nothing: something else was wanted of the trainer; its time was used up; no documents
are held out; memory is short; it makes no steps now. Empty: it did not."""

MAX_AUDIT_WINDOWS = 1024
"""Most windows of one audit: two losses of each have to fit into one message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditTask:
    """A slice of somebody's contribution, to be judged by what it does to the loss."""

    outer: Path
    """Outer parameters that the contribution started from."""
    piece: Path
    """The decoded slice: little-endian float32."""
    start: int
    """Element of the vector at which it begins."""
    numel: int
    """Elements of the slice."""
    scale: float
    """Times which it is subtracted from the parameters."""
    seed: int
    """63 bits that choose the held-out windows."""
    windows: int
    """Most of them."""
    fewest: int
    """With fewer there is no result."""
    budget_s: float
    """Time that it may take."""

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.windows <= MAX_AUDIT_WINDOWS:
            raise ValueError(f"windows must be from fewest to {MAX_AUDIT_WINDOWS}")
        if self.start < 0 or self.numel < 1:
            raise ValueError("start must be 0 or more, numel 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Audited:
    """What an audit measured."""

    before: tuple[float, ...]
    """Loss of the outer parameters on each window, nats a token."""
    after: tuple[float, ...]
    """The same without the slice; on the same windows."""
    seconds: float
    """What it took, whatever came of it."""
    unfinished: Unfinished = ""
    """Not empty: there are no losses."""


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready", forbid_unknown_fields=True):
    """Model and data are loaded; the trainer waits for `adopt`."""

    device: str
    micro_batch: int
    corpus_hash: bytes
    """32 bytes: what this peer reads, so that others can see whether it is the same."""
    train_tokens: int
    """0: not known (streaming)."""
    held_out_tokens: int
    notice: str = ""
    """A line to show, such as the licence of a data set."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GPU as the trainer sees it; None where nothing tells."""

    index: int
    """Among those that the process sees."""
    used_bytes: int
    """By whomever."""
    limit_bytes: int
    """What the trainer may use."""
    utilization: float | None = None
    """Share of the time in which it was busy."""
    celsius: float | None = None
    joules: float | None = None
    """Since the process began."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress", forbid_unknown_fields=True):
    """How far the training is; at most one in half a second. Also the sign of life."""

    steps: int
    """Since the last snapshot."""
    tokens: int
    """Since the last snapshot."""
    loss: float | None
    """Mean over the steps since the last report, nats a token."""
    steps_per_second: float
    """Smoothed rate while training."""
    inner_seconds: float
    """Time inside inner steps since this process's first one."""
    total_seconds: float
    """Wall-clock time since this process's first inner step."""
    busy_seconds: float = 0.0
    """Of that, when it did not rest for the sake of `TrainerSpec.power`, nor wait for us."""
    steps_total: int
    """In this process."""
    tokens_total: int
    """In this process."""
    grad_norm: float | None
    """Before clipping, of the last step."""
    lr: float
    micro_batch: int
    skipped: int = 0
    """Steps not taken because the gradient was not finite, in this process."""
    position: int = 0
    """Windows drawn of this round's sequence."""
    memory_bytes: int = 0
    """Most device memory used (on a CPU: resident memory)."""
    gpus: tuple[Gpu, ...] = ()
    """Now and then: its figures."""


class Crashed(msgspec.Struct, frozen=True, kw_only=True):
    """The process ended by itself or does not react any more."""

    reason: str
    will_retry: bool
    errno: int = 0
    """Of the error of the operating system that was to blame; 0: none."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed", forbid_unknown_fields=True):
    """It cannot work with this configuration, data or memory: no use to start it again as it is."""

    reason: str
    errno: int = 0
    """Of the error of the operating system that was to blame; 0: none."""


TrainerEvent = Ready | Progress | Crashed | Failed


class Setup(msgspec.Struct, frozen=True, kw_only=True, tag="setup", forbid_unknown_fields=True):
    """The first message to a trainer: its `TrainerSpec`, with paths as text."""

    manifest_path: str
    state_dir: str
    peer: bytes
    device: str
    threads: int
    memory_limit_bytes: int
    nice: int
    power: float
    headroom_bytes: int
    share_gpu: bool
    data_paths: tuple[str, ...]
    base_dir: str | None

    @classmethod
    def of(cls, spec: TrainerSpec) -> "Setup":
        """The message for `spec`."""
        return cls(
            manifest_path=str(spec.manifest_path),
            state_dir=str(spec.state_dir),
            peer=spec.peer,
            device=spec.device,
            threads=spec.threads,
            memory_limit_bytes=spec.memory_limit_bytes,
            nice=spec.nice,
            power=spec.power,
            headroom_bytes=spec.headroom_bytes,
            share_gpu=spec.share_gpu,
            data_paths=spec.data_paths,
            base_dir=None if spec.base_dir is None else str(spec.base_dir),
        )

    def spec(self) -> TrainerSpec:
        """What `of` was given."""
        return TrainerSpec(
            manifest_path=Path(self.manifest_path),
            state_dir=Path(self.state_dir),
            peer=self.peer,
            device=self.device,
            threads=self.threads,
            memory_limit_bytes=self.memory_limit_bytes,
            nice=self.nice,
            power=self.power,
            headroom_bytes=self.headroom_bytes,
            share_gpu=self.share_gpu,
            data_paths=self.data_paths,
            base_dir=None if self.base_dir is None else Path(self.base_dir),
        )


class AdoptRequest(msgspec.Struct, frozen=True, kw_only=True, tag="adopt", forbid_unknown_fields=True):
    """Work from the outer parameters in the file `outer`."""

    number: int
    outer: str
    round: int
    digest: str
    global_step: int
    mode: Mode
    evaluate: int = 0


class SnapshotRequest(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot", forbid_unknown_fields=True):
    """Write the local parameters to a file."""

    number: int


class HoldRequest(msgspec.Struct, frozen=True, kw_only=True, tag="hold", forbid_unknown_fields=True):
    """Make no steps (`on`), or go on with them. Nothing is forgotten; there is no answer."""

    on: bool


class TuneRequest(msgspec.Struct, frozen=True, kw_only=True, tag="tune", forbid_unknown_fields=True):
    """Go on with these; see `Tuning`. There is no answer."""

    power: float
    threads: int
    nice: int
    memory_limit_bytes: int
    headroom_bytes: int

    @classmethod
    def of(cls, tuning: Tuning) -> "TuneRequest":
        """The message for `tuning`."""
        return cls(
            power=tuning.power,
            threads=tuning.threads,
            nice=tuning.nice,
            memory_limit_bytes=tuning.memory_limit_bytes,
            headroom_bytes=tuning.headroom_bytes,
        )


class AuditRequest(msgspec.Struct, frozen=True, kw_only=True, tag="audit", forbid_unknown_fields=True):
    """Measure what a slice does to the loss; see `AuditTask`. Whatever else is asked meanwhile ends it."""

    number: int
    outer: str
    piece: str
    start: int
    numel: int
    scale: float
    seed: int
    windows: int
    fewest: int
    budget_s: float

    @classmethod
    def of(cls, number: int, task: AuditTask) -> "AuditRequest":
        """The message for `task`."""
        return cls(
            number=number,
            outer=str(task.outer),
            piece=str(task.piece),
            start=task.start,
            numel=task.numel,
            scale=task.scale,
            seed=task.seed,
            windows=task.windows,
            fewest=task.fewest,
            budget_s=task.budget_s,
        )

    def task(self) -> AuditTask:
        """What `of` was given. Raises ValueError for what is none."""
        return AuditTask(
            outer=Path(self.outer),
            piece=Path(self.piece),
            start=self.start,
            numel=self.numel,
            scale=self.scale,
            seed=self.seed,
            windows=self.windows,
            fewest=self.fewest,
            budget_s=self.budget_s,
        )


class StopRequest(msgspec.Struct, frozen=True, kw_only=True, tag="stop", forbid_unknown_fields=True):
    """End, after saving local work if `save`."""

    save: bool


class AdoptReply(msgspec.Struct, frozen=True, kw_only=True, tag="adopted", forbid_unknown_fields=True):
    """Answer to `AdoptRequest`."""

    number: int
    steps: int
    eval_loss: float | None
    resumed: bool
    position: int


class SnapshotReply(
    msgspec.Struct, frozen=True, kw_only=True, tag="snapshot_reply", forbid_unknown_fields=True
):
    """Answer to `SnapshotRequest`."""

    number: int
    path: str
    steps: int
    tokens: int
    loss: float | None
    seconds: float


class AuditReply(msgspec.Struct, frozen=True, kw_only=True, tag="audit_reply", forbid_unknown_fields=True):
    """Answer to `AuditRequest`; see `Audited`."""

    number: int
    before: tuple[float, ...]
    after: tuple[float, ...]
    seconds: float
    unfinished: Unfinished


Reply = AdoptReply | SnapshotReply | AuditReply
"""What a request is answered with if it can be done."""


class RequestFailed(
    msgspec.Struct, frozen=True, kw_only=True, tag="request_failed", forbid_unknown_fields=True
):
    """The request could not be done (a full disk, a file of another size); training goes on as before."""

    number: int
    reason: str
    errno: int = 0
    """Of the error of the operating system that was to blame; 0: none."""


Command = Setup | AdoptRequest | SnapshotRequest | AuditRequest | HoldRequest | TuneRequest | StopRequest
Answer = Ready | Progress | Failed | Reply | RequestFailed


def encode(message: Command | Answer) -> bytes:
    """One message with its length in front. Raises ValueError above `MAX_MESSAGE_BYTES`."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_MESSAGE_BYTES:
        raise ValueError(f"message of {len(body)} bytes; at most {MAX_MESSAGE_BYTES} fit")
    return PREFIX.pack(len(body)) + body


def body_length(prefix: bytes) -> int:
    """Length of the message behind `prefix`. Raises ValueError above `MAX_MESSAGE_BYTES`."""
    (length,) = PREFIX.unpack(prefix)
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(f"message of {length} bytes announced; at most {MAX_MESSAGE_BYTES} are read")
    return int(length)


_commands = msgspec.msgpack.Decoder(Command)
_answers = msgspec.msgpack.Decoder(Answer)


def decode_command(body: bytes) -> Command:
    """Parse one message to the trainer. Raises ValueError (msgspec's errors are of that type)."""
    try:
        command: Command = _commands.decode(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return command


def decode_answer(body: bytes) -> Answer:
    """Parse one message from the trainer. Raises ValueError."""
    try:
        answer: Answer = _answers.decode(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return answer
