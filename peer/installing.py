"""Putting a downloaded state into a state directory that has none, or one that cannot be used.

What such a directory still holds for certain serves as an anchor and as material: certificates that are
whole, and chunks that fit the hash tree.
"""

import logging
from dataclasses import dataclass

from talkoot.averaging.certificate import Certificate, CertificateError, decode_certificate
from talkoot.averaging.digest import StateTree
from talkoot.averaging.rules import Rules
from talkoot.peer import unfinished
from talkoot.peer.certlog import CertLog, LogCorruptError
from talkoot.peer.generation import Generation
from talkoot.peer.head import Head, StoreCorruptError, read_head
from talkoot.peer.holdings import Holdings, number_of, open_holdings
from talkoot.peer.manifest import State
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.sync import Branch

log = logging.getLogger("talkoot.state")


@dataclass(frozen=True, slots=True)
class Remains:
    """What is certain about a state that cannot be used."""

    head: Head | None
    """What HEAD says, if it fits its checksum."""
    final: Certificate | None
    """The newest final certificate that this peer has committed, if any is left: trust goes on from there."""


def remains_of(paths: StateDir) -> Remains:
    """Look what is left. Raises OSError."""
    try:
        head = read_head(paths.outer)
    except StoreCorruptError:
        head = None
    final = _decoded(head.certificate) if head is not None else None
    if final is not None and final.kind != "weak":
        return Remains(head, final)
    return Remains(head, _last_final(paths))


def _decoded(data: bytes | None) -> Certificate | None:
    try:
        return decode_certificate(data) if data is not None else None
    except CertificateError:
        return None


def _last_final(paths: StateDir) -> Certificate | None:
    try:
        with CertLog(paths.round_log) as certificates:
            number = certificates.last
            while number is not None:
                found = _decoded(certificates.read(number))
                if found is not None and found.kind != "weak":
                    return found
                number = certificates.before(number)
    except LogCorruptError:
        pass
    return None


def install(
    paths: StateDir,
    store: OuterStore,
    staged: Generation,
    tree: StateTree,
    branch: Branch,
    rules: Rules,
    keep: State,
) -> Holdings:
    """Commit a verified download into a store without a head. Raises OSError."""
    commit(paths, store, staged, tree, branch)
    return open_holdings(paths, rules, keep)


def commit(paths: StateDir, store: OuterStore, staged: Generation, tree: StateTree, branch: Branch) -> None:
    """As `install`, and open nothing. Raises OSError."""
    assert tree.digest == branch.head.value.digest
    _write_log(paths, branch)
    store.commit(
        staged,
        round=branch.ledger.round,
        digest=branch.head.value.digest,
        ledger=branch.ledger.encode(),
        certificate=branch.head.encode(),
    )
    unfinished.end(paths.outer)


def _write_log(paths: StateDir, branch: Branch) -> None:
    """The branch from its start on; certificates before it stay."""
    first = number_of(branch.start)
    try:
        with CertLog(paths.round_log) as certificates:
            known = _decoded(certificates.read(first))
            ours = known is not None and known.value.hash == branch.start.value.hash
            certificates.truncate_from(first if ours else 0)
            _append(certificates, branch)
    except LogCorruptError as error:
        aside = paths.round_log.with_name(paths.round_log.name + ".damaged")
        log.warning("%s: kept as %s", error, aside.name)
        paths.round_log.replace(aside)
        with CertLog(paths.round_log) as certificates:
            _append(certificates, branch)


def _append(certificates: CertLog, branch: Branch) -> None:
    for link in (branch.start, *branch.chain):
        certificates.append(number_of(link), link.encode())
