"""Whether a checkpoint may become the state of a directory.

Reads only; what speaks against it is a ConfigError of one line. Who starts from a file vouches for it by
doing so, where no invite, log or quorum of founders decides it.
"""

import logging
import time
from pathlib import Path

import torch

from talkoot.averaging.certificate import CertificateError, decode_certificate
from talkoot.averaging.digest import CHUNK_BYTES
from talkoot.averaging.quorum import quorum
from talkoot.dht.errors import ConfigError
from talkoot.peer import trust
from talkoot.peer.certlog import LogCorruptError
from talkoot.peer.checkpoint_file import (
    CheckpointDamagedError,
    CheckpointFile,
    NotACheckpointError,
    open_checkpoint,
)
from talkoot.peer.head import StoreCorruptError, read_head
from talkoot.peer.holdings import number_of
from talkoot.peer.invite import Anchor
from talkoot.peer.log_reading import LogReader
from talkoot.peer.residual import DISK_BYTES_PER_ELEMENT
from talkoot.peer.rules_of import founder_keys
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.sync import check_anchor
from talkoot.peer.verify import verify_open

log = logging.getLogger("talkoot.state")

PROGRESS_S = 2.0
"""Pause between two lines about how far a large file is."""


def read(path: Path) -> CheckpointFile:
    """Open a checkpoint and read its header. Raises ConfigError for what is none."""
    try:
        return open_checkpoint(path)
    except (NotACheckpointError, CheckpointDamagedError) as error:
        raise ConfigError(f"{path}: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error


def require_no_state(paths: StateDir) -> None:
    """Raise ConfigError where the directory holds a state: a checkpoint never takes its place."""
    if not OuterStore.exists(paths.outer):
        return
    try:
        head = read_head(paths.outer)
        held = "a state" if head is None else f"the state after {head.round} rounds"
    except (StoreCorruptError, OSError):
        held = "a damaged state"
    raise ConfigError(
        f"{paths.path} holds {held} already: run without --checkpoint to go on from it, or move "
        f"{paths.outer} away, or choose another --state-dir"
    )


def require_trust(file: CheckpointFile, paths: StateDir, anchor: Anchor | None, own_key: bytes) -> None:
    """Raise ConfigError for a checkpoint that an invite or our own log speaks against, that may be rolled
    back, or that is too old; otherwise who gives it vouches for it."""
    contents, path = file.contents, file.path
    if contents.certificate.kind == "weak":
        raise ConfigError(f"{path}: its last round is weak and may be rolled back: take an earlier one")
    anchored = _is_anchored(file, anchor)
    alone = contents.ledger.voters == (own_key,)
    try:
        trust.require_recent_checkpoint(contents.manifest, path, anchor, alone=alone, now=time.time())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    rounds, last = number_of(contents.certificate), last_known(file, paths)
    if last > rounds:
        log.warning("this peer knew of %d rounds, the checkpoint has %d", last, rounds)
    signers = {vote.voter for vote in contents.certificate.votes} & set(founder_keys(contents.manifest))
    most = len(signers) >= quorum(len(contents.manifest.swarm.founders))
    by = "the invite" if anchored else "a quorum of the founders" if most else "whoever gives it"
    log.info("starting from %s, after %d rounds: %s vouches for it", path, rounds, by)


def _is_anchored(file: CheckpointFile, anchor: Anchor | None) -> bool:
    """Whether the invite names one of the rounds that the file shows. Raises ConfigError if it differs."""
    if anchor is None:
        return False
    shown = (file.contents.certificate, file.contents.before)
    named = [link for link in shown if link is not None and number_of(link) == anchor.round]
    try:
        for link in named:
            check_anchor(link, anchor)
    except CertificateError as error:
        raise ConfigError(f"{file.path} is not of the past that the invite vouches for ({error})") from error
    return bool(named)


def last_known(file: CheckpointFile, paths: StateDir) -> int:
    """Rounds that the state directory's log knows of. Raises ConfigError where it contradicts the file."""
    target, last = file.contents.certificate, 0
    try:
        for number, content in LogReader(paths.round_log):
            last = number
            same = number != number_of(target)
            if not same and decode_certificate(content).value.hash != target.value.hash:
                raise ConfigError(
                    f"{paths.round_log} has another round {target.value.round} than {file.path}: one of the "
                    "two is not what it seems; choose another --state-dir to start from the file"
                )
    except (FileNotFoundError, LogCorruptError, CertificateError):
        pass  # what is damaged is kept aside and proves nothing
    except OSError as error:
        raise ConfigError(f"cannot read {paths.round_log}: {error.strerror}") from error
    return last


def require_room(file: CheckpointFile, paths: StateDir) -> None:
    """Raise ConfigError with both figures where the disk is too small."""
    numel = file.contents.numel
    paths.require_free(OuterStore.unallocated_bytes(paths.outer, numel) + DISK_BYTES_PER_ELEMENT * numel)


def require_whole(file: CheckpointFile) -> None:
    """Verify it as `talkoot verify` does. Raises ConfigError with the first thing that does not hold."""
    try:
        report = verify_open(file, Progress(file, "verified").more)
    except OSError as error:
        raise ConfigError(f"cannot read {file.path}: {error.strerror or error}") from error
    for check in report.checks:
        if check.result == "failed":
            raise ConfigError(f"{file.path} does not hold: {check.name}: {check.words}")


def require_finite(values: torch.Tensor, path: Path) -> None:
    """Raise ConfigError where a number is none, whoever signed it."""
    if not bool(torch.isfinite(values).all()):
        raise ConfigError(f"{path} has a number in it that is not finite: nothing can go on from it")


class Progress:
    """A line in the log every now and then."""

    def __init__(self, file: CheckpointFile, done: str) -> None:
        self._words = f"{file.path.name}: %.0f of %.0f MB {done}"
        self._total = 8 * file.contents.numel
        self._done, self._told = 0, time.monotonic()

    def more(self) -> None:
        """Another chunk begins."""
        if time.monotonic() - self._told >= PROGRESS_S:
            self._told = time.monotonic()
            log.info(self._words, self._done / 1e6, self._total / 1e6)
        self._done += CHUNK_BYTES
