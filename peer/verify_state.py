"""Checks a state directory offline; see `talkoot.peer.verify`."""

from pathlib import Path

from talkoot.averaging.certificate import Certificate, CertificateError, decode_certificate
from talkoot.averaging.digest import StateTree, content_hash
from talkoot.averaging.ledger import Ledger, LedgerError, decode_ledger
from talkoot.dht.errors import ConfigError
from talkoot.peer import invite
from talkoot.peer.certlog import LogCorruptError
from talkoot.peer.checkpoint_file import CheckpointDamagedError, NotACheckpointError, file_leaves
from talkoot.peer.checkpoints import stored
from talkoot.peer.generation import MOMENTUM, THETA
from talkoot.peer.head import HEAD, SNAPSHOT, Head, StoreCorruptError, read_head
from talkoot.peer.holdings import number_of
from talkoot.peer.invite import Anchor
from talkoot.peer.journal import Journal
from talkoot.peer.log_reading import LogReader
from talkoot.peer.manifest import Manifest, from_canonical
from talkoot.peer.small_files import read_small
from talkoot.peer.statedir import StateDir
from talkoot.peer.verify import Report, check_ledger, digest_check, facts_of
from talkoot.peer.verify_chain import Check, check_log, check_signatures
from talkoot.peer.verify_records import check_records

MAX_TRIES = 5
"""How often a running daemon may commit while its state is read."""


def verify_state(path: Path) -> Report:
    """What a daemon would start from. Raises NotACheckpointError, OSError."""
    paths = StateDir(path)
    if not (paths.outer / HEAD).exists():
        raise NotACheckpointError("no state directory with an outer state in it, and no checkpoint")
    facts: dict[str, str | int] = {}
    checks: list[Check] = []
    try:
        manifest = manifest_in(paths)
        head = read_head(paths.outer)
        if head is None:
            raise NotACheckpointError("its outer state went away")
        certificate, ledger = _parsed(head)
        facts = facts_of(manifest, ledger, certificate)
        checks.append(Check("format", "ok", "manifest and HEAD fit their checksums"))
        checks.append(check_ledger(ledger, certificate, manifest))
        checks.append(_digest(paths.outer, head, manifest))
        checks += _snapshot(paths.outer, manifest)
        checks += _chain(paths, certificate, manifest)
        checks += check_records(paths.records, paths.round_log)
    except (DamagedError, StoreCorruptError) as error:
        checks.append(Check("format", "failed", str(error)))
    checks.append(_journal(paths))
    checks += _others(paths)
    return Report(str(path), "state", facts, checks)


class DamagedError(Exception):
    """A part without which nothing else can be looked at."""


def manifest_in(paths: StateDir) -> Manifest:
    """The sealed manifest of a state directory. Raises DamagedError."""
    try:
        data, swarm = paths.load_manifest(), paths.swarm_id
        if data is None:
            raise DamagedError(f"{paths.manifest_file.name} is missing")
        manifest = from_canonical(data)
    except (ConfigError, ValueError) as error:
        raise DamagedError(f"{paths.manifest_file.name}: {error}") from error
    if manifest.swarm_id != swarm:
        raise DamagedError(f"{paths.manifest_file.name} is not that of the swarm in {paths.swarm_file.name}")
    return manifest


def _parsed(head: Head) -> tuple[Certificate, Ledger]:
    try:
        return decode_certificate(head.certificate), decode_ledger(head.ledger)
    except (CertificateError, LedgerError) as error:
        raise DamagedError(f"HEAD: {error}") from error


def _digest(outer: Path, head: Head, manifest: Manifest) -> Check:
    """Read the committed generation; again if a daemon has committed meanwhile."""
    for _ in range(MAX_TRIES):
        certificate, _ledger = _parsed(head)
        try:
            check = digest_check(
                _tree(outer / head.generation, head, manifest.model.numel).digest, certificate
            )
        except (CheckpointDamagedError, OSError) as error:
            check = Check("digest", "failed", f"{head.generation}: {error}")
        after = read_head(outer)
        if after is None or (after.generation, after.digest) == (head.generation, head.digest):
            return check
        head = after
    return Check("digest", "not checked", "a daemon commits rounds faster than they can be read")


def _snapshot(outer: Path, manifest: Manifest) -> list[Check]:
    """The state that is kept for others to download, if there is one."""
    check = Check("snapshot", "not checked", "a daemon replaces it faster than it can be read")
    for _ in range(MAX_TRIES):
        try:
            kept = read_head(outer, SNAPSHOT)
            if kept is None:
                return []
            certificate, _ledger = _parsed(kept)
            digest = _tree(outer / kept.generation, kept, manifest.model.numel).digest
            failure = (
                "" if digest == certificate.value.digest == kept.digest else "it does not have its digest"
            )
        except (CheckpointDamagedError, StoreCorruptError, DamagedError, OSError) as error:
            kept, failure = None, str(error)
        if failure:
            check = Check("snapshot", "failed", f"{failure}; it will not be given to anybody")
        elif kept is not None:
            return [Check("snapshot", "ok", f"of round {kept.round}, hashes to its certificate's digest")]
    return [check]


def _tree(folder: Path, head: Head, numel: int) -> StateTree:
    """Raises CheckpointDamagedError, OSError."""
    vectors = []
    for name in (THETA, MOMENTUM):
        with (folder / name).open("rb", buffering=0) as file:
            size = (folder / name).stat().st_size
            if size != 4 * numel:
                raise CheckpointDamagedError(f"{name} has {size} bytes instead of {4 * numel}")
            vectors.append(tuple(file_leaves(file, 0, size)))
    return StateTree(theta=vectors[0], momentum=vectors[1], ledger=content_hash(head.ledger))


def _chain(paths: StateDir, certificate: Certificate, manifest: Manifest) -> list[Check]:
    """The log's records, who signed the head, and how its voters came to vote."""
    try:
        log = _log(paths.round_log, number_of(certificate))
        before = _before(paths.round_log, certificate)
    except FileNotFoundError:
        log, before = Check("log", "not checked", f"there is no {paths.round_log.name}"), None
    except (LogCorruptError, CertificateError) as error:
        return [Check("log", "failed", str(error)), check_signatures(certificate, None, manifest)]
    return [
        log,
        check_signatures(certificate, before, manifest),
        check_log(paths.round_log, certificate, manifest, anchor_in(paths)),
    ]


def _log(path: Path, head: int) -> Check:
    """Raises LogCorruptError, OSError."""
    for _ in range(MAX_TRIES):  # a daemon may be appending
        reader = LogReader(path)
        numbers = [number for number, _ in reader]
        if not reader.tail_bytes:
            break
    words = f"{len(numbers)} certificates" + (
        f", after {numbers[0]} to {numbers[-1]} rounds" if numbers else ""
    )
    if reader.tail_bytes:
        words += f"; {reader.tail_bytes} bytes after them are no whole record, and a start removes them"
        return Check("log", "failed", words)
    if not numbers or numbers[-1] < head - 1:
        return Check("log", "failed", f"{words}: it does not reach the outer state, which is after {head}")
    return Check("log", "ok", words)


def _before(log: Path, certificate: Certificate) -> Certificate | None:
    """The certificate of the round before, if the log has it."""
    wanted = number_of(certificate) - 1
    found = next((content for number, content in LogReader(log) if number == wanted), None)
    return decode_certificate(found) if found is not None else None


def anchor_in(paths: StateDir) -> Anchor | None:
    """What the invite that this peer joined with vouches for."""
    try:
        data = read_small(paths.invite_file)
        return invite.decode(data.decode()).anchor if data is not None else None
    except (ConfigError, ValueError):
        return None


def _journal(paths: StateDir) -> Check:
    if not paths.journal.exists():
        return Check("journal", "not checked", "there is none: this peer has not voted yet")
    if Journal(paths.journal).lost:
        words = "damaged: what this peer signed is not known, and it will not vote until the next final round"
        return Check("journal", "failed", words)
    return Check("journal", "ok", "fits its checksum")


def _others(paths: StateDir) -> list[Check]:
    files = stored(paths.checkpoints)
    if not files:
        return []
    names = ", ".join(path.name for _, path in files)
    return [Check("checkpoints", "not checked", f"verify them one by one: {names}")]
