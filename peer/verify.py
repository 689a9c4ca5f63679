"""Checks a checkpoint or a state directory offline: what holds, what does not, and what cannot be known.

Reads only, in pieces of a mebibyte, also beside a running daemon.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from talkoot.averaging.certificate import Certificate
from talkoot.averaging.ledger import Ledger
from talkoot.dht.errors import ConfigError
from talkoot.peer.checkpoint_file import (
    CheckpointDamagedError,
    CheckpointFile,
    NotACheckpointError,
    open_checkpoint,
)
from talkoot.peer.holdings import number_of
from talkoot.peer.manifest import Manifest
from talkoot.peer.statedir import StateDir
from talkoot.peer.verify_chain import Check, check_log, check_signatures

Kind = Literal["checkpoint", "state"]


class Report(msgspec.Struct, frozen=True):
    """What came of it."""

    path: str
    kind: Kind
    facts: dict[str, str | int]
    """Swarm, round and the like, as the file says."""
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(check.result != "failed" for check in self.checks)


def verify(path: Path) -> Report:
    """Check what is at `path`. Raises NotACheckpointError where there is nothing to check, OSError."""
    from talkoot.peer.verify_state import verify_state

    if path.is_dir():
        return verify_state(path)
    if path.exists() and not path.is_file():
        raise NotACheckpointError("no regular file")  # a pipe would be waited for
    return verify_checkpoint(path)


def verify_checkpoint(path: Path) -> Report:
    """A checkpoint file; its chain too where it lies in a state directory of its swarm.

    Raises NotACheckpointError, OSError.
    """
    try:
        file = open_checkpoint(path)
    except CheckpointDamagedError as error:
        return Report(str(path), "checkpoint", {}, [Check("format", "failed", str(error))])
    return verify_open(file)


def verify_open(file: CheckpointFile, before_each: Callable[[], None] = lambda: None) -> Report:
    """As `verify_checkpoint`; `before_each` is called for every mebibyte that is read. Raises OSError."""
    path, contents = file.path, file.contents
    checks = [
        _format(file),
        _model(file),
        check_ledger(contents.ledger, contents.certificate, contents.manifest),
    ]
    checks.append(_digest(file, before_each))
    checks.append(check_signatures(contents.certificate, contents.before, contents.manifest))
    log = log_beside(path, contents.manifest)
    if log is None:
        words = "no round log of this swarm beside it: whether these voters follow from the founders"
        checks.append(Check("chain", "not checked", f"{words} is not known"))
    else:
        checks.append(check_log(log, contents.certificate, contents.manifest, None))
    facts = facts_of(contents.manifest, contents.ledger, contents.certificate)
    return Report(str(path), "checkpoint", facts, checks)


def facts_of(manifest: Manifest, ledger: Ledger, certificate: Certificate) -> dict[str, str | int]:
    """What people ask for first."""
    return {
        "swarm": manifest.swarm.name,
        "swarm_id": manifest.swarm_id.hex(),
        "parameters": manifest.model.numel,
        "rounds": ledger.round,
        "tokens": ledger.tokens,
        "certificate": certificate.kind,
        "digest": certificate.value.digest.hex(),
    }


def check_ledger(ledger: Ledger, certificate: Certificate, manifest: Manifest) -> Check:
    """Whether ledger, certificate and manifest speak of the same."""
    value, swarm = certificate.value, manifest.swarm_id
    if not ledger.swarm == value.swarm == swarm:
        return Check("swarm", "failed", "manifest, ledger and certificate are of different swarms")
    if (ledger.round, ledger.voters) != (number_of(certificate), value.voters):
        return Check("swarm", "failed", "the ledger does not belong to the certificate")
    words = f"manifest, ledger and certificate of {manifest.swarm.name!r} ({swarm.hex()[:12]}) after round"
    return Check("swarm", "ok", f"{words} {value.round}")


def digest_check(digest: bytes, certificate: Certificate) -> Check:
    """Whether what was read is what the certificate names."""
    if digest != certificate.value.digest:
        return Check("digest", "failed", "parameters and momentum are not those that the certificate names")
    return Check("digest", "ok", "parameters, momentum and ledger hash to the certificate's digest")


def _format(file: CheckpointFile) -> Check:
    size = file.data_start + 8 * file.contents.numel
    return Check("format", "ok", f"safetensors, checkpoint of talkoot, {size} bytes, as talkoot writes it")


def _model(file: CheckpointFile) -> Check:
    if not file.contents.names:
        return Check("model", "not checked", "one flat vector, without names of parameters")
    words = f"{len(file.contents.names)} tensors with the names and shapes of the manifest's model"
    return Check("model", "ok", words)


def _digest(file: CheckpointFile, before_each: Callable[[], None]) -> Check:
    try:
        return digest_check(file.tree(before_each).digest, file.contents.certificate)
    except CheckpointDamagedError as error:
        return Check("digest", "failed", str(error))


def log_beside(path: Path, manifest: Manifest) -> Path | None:
    """The round log of the state directory that a checkpoint was written in, if it is there."""
    paths = StateDir(path.absolute().parent.parent)
    try:
        same = paths.swarm_id == manifest.swarm_id
    except ConfigError:
        same = False
    return paths.round_log if same and paths.round_log.exists() else None
