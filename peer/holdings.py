"""What a peer holds of its swarm: the outer state, the certificates that led to it, and a voter's journal.

Everything here blocks on the disk or computes for long: the node calls it in worker threads, one call at a
time.
"""

import logging
import threading
from contextlib import ExitStack
from pathlib import Path

import torch

from talkoot.averaging.certificate import Certificate, decode_certificate
from talkoot.averaging.digest import StateTree
from talkoot.averaging.ledger import Ledger, decode_ledger
from talkoot.averaging.outer import outer_step
from talkoot.averaging.rules import Rules
from talkoot.averaging.voting import Journal as VoterJournal
from talkoot.averaging.voting import decode_journal
from talkoot.peer.certlog import CertLog
from talkoot.peer.generation import Generation
from talkoot.peer.hashing import hash_state
from talkoot.peer.head import Head
from talkoot.peer.journal import Journal
from talkoot.peer.manifest import State
from talkoot.peer.roundlog import Kept, LogLimits, RoundLog
from talkoot.peer.served import Served
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore

log = logging.getLogger("talkoot.state")

VOTER = "voter"
"""Key of the voter's entry in the journal."""

CONTRIBUTED = "contributed"
"""Key under which the outer states are remembered for which we sent a contribution: 32 bytes each."""

KEPT_TIMES = 4
"""A snapshot that somebody is downloading is kept for so many times `State.snapshot_rounds` at most.

By default that is 8 rounds: whoever has it at the end replays the 7 that the log of rounds holds at `int8`.
"""

MAX_BATCH = 256
"""Most certificates that one answer holds."""

MAX_CONTRIBUTED = 64
"""Outer states after a final round that are remembered so."""


def number_of(certificate: Certificate) -> int:
    """A certificate's number in the log: committed rounds after it, 0 for the genesis."""
    return certificate.value.round + 1


class Holdings:
    """Open holdings. `head`, `ledger` and `tree` always belong together."""

    def __init__(self, paths: StateDir, store: OuterStore, rules: Rules, keep: State | None = None) -> None:
        """Use `open_holdings`, `found` or a download."""
        self.store = store
        self.rules = rules
        self.keep = keep or State()
        self.journal = Journal(paths.journal)
        until_open = ExitStack()
        self.log = until_open.enter_context(CertLog(paths.round_log))
        if self.log.cut_bytes:
            log.warning("%s: the last %d bytes were damaged and are gone", self.log.path, self.log.cut_bytes)
        self.head: Certificate
        self.ledger: Ledger
        self._folder = paths.records
        self.records: RoundLog | None = None
        """What the last rounds were made of; None before `keep_records`, and where the disk refuses it."""
        self._staged: Served | None = None
        self._current: Served
        self._previous: Served | None = None
        """The state before the head, as long as nothing was staged in its place."""
        self._snapshot: Served | None = None
        """The snapshot, once its digest was computed in this process."""
        self._hashing = threading.Lock()
        self._damaged: Head | None = None
        """What SNAPSHOT named when its vectors did not have their digest."""
        self._snapshot_asked = -1
        """Our number of rounds when somebody last asked for the snapshot."""
        with until_open:
            self._load(hash_state(store.theta, store.momentum, store.head.ledger))
            self._keep_snapshot()
            until_open.pop_all()

    def _load(self, tree: StateTree) -> None:
        head = self.store.head
        self.head = decode_certificate(head.certificate)
        self.ledger = decode_ledger(head.ledger)
        self._current = Served(tree, self.store.current)
        if tree.digest != head.digest or self.head.value.digest != head.digest:
            raise ValueError("the outer state on disk does not have the digest of its certificate")
        number = number_of(self.head)
        data = self.log.read(number)
        if data is None or decode_certificate(data).value.hash != self.head.value.hash:
            self.log.truncate_from(number)  # died between store and log, or while it followed a branch
            self.log.append(number, head.certificate)

    def keep_records(self, limits: LogLimits) -> None:
        """Open the round log; records of rounds that are not on our chain are removed."""
        try:
            records = RoundLog(self._folder, limits)
            records.keep_only(self._on_chain)
        except OSError as error:
            log.warning("no records of rounds are kept: %s", error.strerror or error)
        else:
            self.records = records

    def _on_chain(self, kept: Kept) -> bool:
        certificate = self.certificate_of(kept.round)
        return certificate is not None and certificate.value.hash == kept.value_hash

    @property
    def digest(self) -> bytes:
        """Digest of the outer state."""
        return self.head.value.digest

    @property
    def tree(self) -> StateTree:
        """Leaf hashes of the outer state."""
        return self._current.tree

    @property
    def theta_path(self) -> Path:
        """The file that the trainer reads the outer parameters from."""
        return self.store.current.theta_path

    def apply(self, aggregate_P: torch.Tensor, ledger: Ledger) -> bytes:
        """Take the outer step into the staged generation; returns the digest of what is staged."""
        staged = self.stage_download()
        outer_step(
            self.store.theta,
            self.store.momentum,
            aggregate_P,
            learning_rate=self.rules.outer_learning_rate,
            momentum=self.rules.outer_momentum,
            theta_out_P=staged.theta,
            momentum_out_P=staged.momentum,
        )
        tree = hash_state(staged.theta, staged.momentum, ledger.encode())
        self._staged = Served(tree, staged)
        return tree.digest

    def commit(self, certificate: Certificate, ledger: Ledger) -> None:
        """Make the staged state the outer state.

        Raises OSError: call it again with the same arguments, which may do nothing but log what is committed.
        Raises DiskLost as `OuterStore.commit` does.
        """
        assert self._staged is not None
        assert self._staged.tree.digest == certificate.value.digest
        self._install(self._staged, certificate, ledger)

    def _install(self, staged: Served, certificate: Certificate, ledger: Ledger) -> None:
        self.store.commit(
            staged.generation,
            round=ledger.round,
            digest=certificate.value.digest,
            ledger=ledger.encode(),
            certificate=certificate.encode(),
        )
        self.log.truncate_from(number_of(certificate))
        self.log.append(number_of(certificate), certificate.encode())
        self._previous = self._current
        self.head, self.ledger, self._current = certificate, ledger, staged
        self._staged = None
        self._keep_snapshot()

    def is_whole(self) -> bool:
        """Whether the outer state, read again, still has its digest."""
        return self.store.compute_digest() == self.digest

    def stage_download(self) -> Generation:
        """Room for another state."""
        self._staged = None
        staged = self.store.stage()
        if self._previous is not None and self._previous.generation is staged:
            self._previous = None
        return staged

    @property
    def staged(self) -> tuple[Generation, StateTree] | None:
        """The state that waits to be committed, with its leaf hashes."""
        return (self._staged.generation, self._staged.tree) if self._staged is not None else None

    def hold_download(self, staged: Generation, tree: StateTree) -> None:
        """Keep a downloaded, verified result staged, as `apply` does."""
        self._staged = Served(tree, staged)

    def state(self, digest: bytes) -> Served | None:
        """The state with this digest: the outer one, that before, the staged one or the snapshot."""
        for served in (self._current, self._staged, self._previous, self._whole_snapshot()):
            if served is not None and served.tree.digest == digest:
                return served
        return None

    def _whole_snapshot(self) -> Served | None:
        """The snapshot, unless its place was given to another state since it was hashed."""
        kept, served = self.store.snapshot, self._snapshot
        whole = kept is not None and served is not None and served.tree.digest == kept.digest
        return served if whole else None

    def install_download(
        self,
        staged: Generation,
        tree: StateTree,
        certificate: Certificate,
        ledger: Ledger,
        chain: list[Certificate],
    ) -> None:
        """Make a downloaded state the outer state; every chunk of it was verified against `tree`.

        `chain` are the certificates that lead to it. Raises ValueError when the tree does not have the
        certified digest, OSError.
        """
        if tree.digest != certificate.value.digest:
            raise ValueError("the downloaded state does not have the certified digest")
        self.hold_download(staged, tree)
        self.install_held(certificate, ledger, chain)

    def install_held(self, certificate: Certificate, ledger: Ledger, chain: list[Certificate]) -> None:
        """Make what `hold_download` took the outer state, as `install_download` does. Raises OSError."""
        assert self._staged is not None
        assert self._staged.tree.digest == certificate.value.digest
        if chain:
            self.log.truncate_from(number_of(chain[0]))
            for link in chain:
                if number_of(link) < number_of(certificate):
                    self.log.append(number_of(link), link.encode())
        self._install(self._staged, certificate, ledger)
        if self.records is not None:
            self.records.keep_only(self._on_chain)

    # -- the snapshot --------------------------------------------------------------------------------

    def snapshot(self) -> tuple[Certificate, Ledger] | None:
        """Certificate and ledger of the state that is kept for others to download.

        The first time after a start this hashes all of it. Nothing is believed without its digest.
        """
        with self._hashing:
            kept = self.store.snapshot
            if kept is None or kept is self._damaged:
                return None
            if self._whole_snapshot() is None and not self._hash_snapshot(kept):
                return None
            return decode_certificate(kept.certificate), decode_ledger(kept.ledger)

    def _hash_snapshot(self, kept: Head) -> bool:
        """Whether the snapshot has its digest; from then on it is served."""
        generation = self.store.snapshot_generation
        served = Served(hash_state(generation.theta, generation.momentum, kept.ledger), generation)
        if kept is not self.store.snapshot:
            return False  # replaced while it was hashed
        if served.tree.digest != kept.digest:
            log.warning("the snapshot of round %d is damaged and not used", kept.round)
            self._damaged = kept
            return False
        self._snapshot = served
        return True

    def snapshot_asked_for(self, digest: bytes) -> None:
        """Somebody fetches a state: if it is the snapshot, it is kept a while longer."""
        if self._snapshot is not None and self._snapshot.tree.digest == digest:
            self._snapshot_asked = number_of(self.head)

    def _keep_snapshot(self) -> None:
        """Pin the head if its turn has come; on a disk that refuses there is no snapshot then."""
        every, number = self.keep.snapshot_rounds, number_of(self.head)
        if every == 0 or number % every or self.head.kind == "weak":
            return
        kept = self.store.snapshot
        if kept is not None and kept.digest == self.digest and kept.generation == self.store.head.generation:
            self._snapshot = self._current
            return
        if kept is not None and self._in_use(kept.round, number):
            log.info("the snapshot of round %d is kept on, since it is being downloaded", kept.round)
            return
        self._snapshot = None
        try:
            self.store.pin()
        except OSError as error:
            log.warning("no snapshot of round %d: %s", number, error)
            return
        self._snapshot = self._current

    def _in_use(self, kept: int, number: int) -> bool:
        young = number - kept < KEPT_TIMES * self.keep.snapshot_rounds
        return young and self._snapshot_asked >= number - 1

    # -- certificates --------------------------------------------------------------------------------

    def certificate_of(self, round_number: int) -> Certificate | None:
        """The certificate of a round of the chain that we hold, if it is in the log."""
        data = self.log.read(round_number + 1)
        return decode_certificate(data) if data is not None else None

    def certificates(self, first: int) -> list[Certificate]:
        """Certificates from log number `first` on, as many as one answer may hold."""
        records = self.log.read_range(first, max_records=MAX_BATCH, max_bytes=2 << 20)
        return [decode_certificate(data) for _, data in records]

    def unsettled_digest(self, number: int) -> bytes | None:
        """Our digest after `number` rounds, if that lies beyond our last final round: others may differ."""
        if self.head.kind != "weak" or number > number_of(self.head):
            return None
        if number <= number_of(self.last_final()):
            return None
        data = self.log.read(number)
        return decode_certificate(data).value.digest if data is not None else None

    def last_final(self) -> Certificate:
        """The newest certificate in the log that is not weak (or the oldest that is there).

        A peer that died while it followed another branch may lack some of the weak ones in between.
        """
        number = self.log.last
        oldest = self.head
        while number is not None and (data := self.log.read(number)) is not None:
            oldest = decode_certificate(data)
            if oldest.kind != "weak":
                break
            number = self.log.before(number)
        return oldest

    # -- the voter's memory --------------------------------------------------------------------------

    def voter_journal(self) -> VoterJournal | None:
        """What we voted in the running round before a restart."""
        data = self.journal.read(VOTER)
        return decode_journal(data) if data is not None else None

    def write_voter_journal(self, entry: bytes) -> None:
        """Durable on return. Raises OSError."""
        self.journal.write(VOTER, entry)

    def contributed(self) -> bool:
        """Whether a contribution for the running round left this peer, perhaps before a restart."""
        return self.digest in self._contributed()

    def _contributed(self) -> list[bytes]:
        data = self.journal.read(CONTRIBUTED) or b""
        return [data[start : start + 32] for start in range(0, len(data), 32)]

    def remember_contribution(self) -> None:
        """Durable on return: no second, different contribution for this prior digest. Raises OSError."""
        before = self._contributed() if self.head.kind == "weak" else []  # to others we never come back
        self.journal.write(CONTRIBUTED, b"".join([*before, self.digest][-MAX_CONTRIBUTED:]))

    def close(self) -> None:
        """Close the log."""
        self.log.close()


def open_holdings(paths: StateDir, rules: Rules, keep: State | None = None) -> Holdings:
    """The holdings in a state directory. Raises StoreMissingError, StoreCorruptError, ValueError, OSError."""
    return Holdings(paths, OuterStore.open(paths.outer, rules.numel), rules, keep)
