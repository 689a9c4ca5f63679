"""Starting from a checkpoint file: an empty state directory becomes that of the swarm after the file's round.

`talkoot.peer.restorable` has looked at the file before. A process that is killed in between leaves no state,
and the next start begins again. Blocks on the disk. Nothing larger than a chunk is in memory.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from talkoot.averaging.digest import CHUNK_BYTES, StateTree, content_hash, leaf, tensor_bytes
from talkoot.averaging.voting import decode_journal
from talkoot.dht.errors import ConfigError
from talkoot.peer import unfinished
from talkoot.peer.checkpoint_file import CheckpointDamagedError, CheckpointFile, read_into
from talkoot.peer.files import atomic_write, fsync_directory, ignore_step
from talkoot.peer.head import HEAD
from talkoot.peer.holdings import VOTER, number_of
from talkoot.peer.installing import commit
from talkoot.peer.journal import Journal
from talkoot.peer.recollection import note
from talkoot.peer.restorable import Progress, last_known, require_finite
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import GENERATIONS, OuterStore
from talkoot.peer.sync import Branch
from talkoot.peer.trainer.layout import Flat
from talkoot.peer.trainer.tokenizer import MAX_TOKENIZER_BYTES, tokenizer_hash

log = logging.getLogger("talkoot.state")

LOG_AHEAD = "rounds.log.ahead"
"""A copy of a round log that knew of later rounds than the checkpoint."""


def restore(file: CheckpointFile, paths: StateDir, *, hook: Callable[[str], None] = ignore_step) -> None:
    """Make the checkpoint the state of a directory that has none; it must have been looked at before.

    The state is dated as the file. Raises ConfigError; then there is no state, as before.
    """
    ours = not paths.outer.exists()
    try:
        _restore(file, paths, hook)
    except (CheckpointDamagedError, OSError, ConfigError) as error:
        if ours:
            shutil.rmtree(paths.outer, ignore_errors=True)
        if isinstance(error, ConfigError):
            raise
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"cannot copy {file.path} to {paths.outer}: {words}") from error


def _restore(file: CheckpointFile, paths: StateDir, hook: Callable[[str], None]) -> None:
    contents, dated = file.contents, file.path.stat().st_mtime
    store = OuterStore.prepare(paths.outer, contents.numel, hook=hook)
    begun = unfinished.begun(paths.outer)
    other = begun is not None and begun[1] == GENERATIONS[0]  # what was downloaded may be of use once more
    staged = store.stage_generation(GENERATIONS[int(other)])
    told = Progress(file, "copied")
    with file.path.open("rb", buffering=0) as source:
        source.seek(file.data_start)
        theta = _copy(source, staged.theta, file.path, told)
        momentum = _copy(source, staged.momentum, file.path, told)
    tree = StateTree(theta=theta, momentum=momentum, ledger=content_hash(contents.ledger.encode()))
    if tree.digest != contents.certificate.value.digest:
        raise CheckpointDamagedError("it was changed meanwhile")
    hook("checkpoint copied")
    _forget(file, paths)
    _keep_log(file, paths)
    start = contents.before or contents.certificate
    chain = (contents.certificate,) if contents.before is not None else ()
    commit(paths, store, staged, tree, Branch(start, chain, contents.ledger))
    os.utime(paths.outer / HEAD, (dated, dated))
    log.info("the state after %d rounds is in %s", contents.ledger.round, paths.outer)


def _copy(source: Any, target: torch.Tensor, path: Path, told: Progress) -> tuple[bytes, ...]:
    """Fill a mapped vector from an unbuffered file; the hashes of its chunks."""
    found = []
    for start in range(0, len(target), CHUNK_BYTES // 4):
        told.more()
        values = target[start : start + CHUNK_BYTES // 4]
        piece = tensor_bytes(values)
        if read_into(source, piece) < len(piece):
            raise CheckpointDamagedError("it became shorter while it was read")
        require_finite(values, path)
        found.append(leaf(piece))
    return tuple(found)


def _forget(file: CheckpointFile, paths: StateDir) -> None:
    """Note that this peer may have signed more than it knows, unless its journal is about this very state."""
    journal, contents = Journal(paths.journal), file.contents
    entry = journal.read(VOTER)
    try:
        voted = decode_journal(entry) if entry is not None else None
    except ValueError:
        voted = None
    here = (contents.ledger.round, contents.certificate.value.digest)
    if journal.lost or voted is None or (voted.round, voted.prior) != here:
        note(journal, "restored")


def _keep_log(file: CheckpointFile, paths: StateDir) -> None:
    """What the log knows beyond the checkpoint stays in a copy."""
    if last_known(file, paths) > number_of(file.contents.certificate):
        shutil.copy2(paths.round_log, paths.path / LOG_AHEAD)
        fsync_directory(paths.path)


def bring_tokenizer(file: CheckpointFile, target: Path, places: Iterable[Path]) -> None:
    """Copy the swarm's tokenizer from the first of `places` that has it; else peers are asked for it.

    Raises ConfigError.
    """
    wanted = file.contents.manifest.data.tokenizer_hash
    if not wanted or target.exists():
        return
    for place in places:
        try:
            if not place.is_file() or place.stat().st_size > MAX_TOKENIZER_BYTES:
                continue
            data = place.read_bytes()
            if tokenizer_hash(data) == wanted:
                atomic_write(target, data)
                return
        except OSError as error:
            raise ConfigError(f"cannot copy {place} to {target}: {error.strerror or error}") from error


def parameters(file: CheckpointFile) -> torch.Tensor:
    """Its parameters, mapped. Raises ConfigError where a number is none, OSError."""
    values: Flat = np.memmap(file.path, "<f4", "c", file.data_start, (file.contents.numel,))
    theta = torch.from_numpy(values)
    for start in range(0, len(theta), CHUNK_BYTES // 4):
        require_finite(theta[start : start + CHUNK_BYTES // 4], file.path)
    return theta
