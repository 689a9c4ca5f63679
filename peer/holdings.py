"""What a peer holds of its swarm: the outer state, the certificates that led to it, and a voter's journal.

Everything here blocks on the disk or computes for long: the node calls it in worker threads, one call at a
time.
"""

import logging
from pathlib import Path

import torch

from talkoot.averaging.certificate import Certificate, decode_certificate
from talkoot.averaging.digest import StateTree, state_tree
from talkoot.averaging.ledger import Ledger, decode_ledger
from talkoot.averaging.outer import outer_step
from talkoot.averaging.rules import Rules
from talkoot.averaging.voting import Journal as VoterJournal
from talkoot.averaging.voting import decode_journal
from talkoot.peer.certlog import CertLog
from talkoot.peer.generation import Generation
from talkoot.peer.journal import Journal
from talkoot.peer.roundlog import Kept, LogLimits, RoundLog
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore

log = logging.getLogger("talkoot.state")

VOTER = "voter"
"""Key of the voter's entry in the journal."""

CONTRIBUTED = "contributed"
"""Key under which the outer states are remembered for which we sent a contribution: 32 bytes each."""

MAX_CONTRIBUTED = 64
"""Outer states after a final round that are remembered so."""


def number_of(certificate: Certificate) -> int:
    """A certificate's number in the log: committed rounds after it, 0 for the genesis."""
    return certificate.value.round + 1


class Holdings:
    """Open holdings. `head`, `ledger` and `tree` always belong together."""

    def __init__(self, paths: StateDir, store: OuterStore, rules: Rules) -> None:
        """Use `open_holdings`, `found` or a download."""
        self.store = store
        self.rules = rules
        self.journal = Journal(paths.journal)
        self.log = CertLog(paths.round_log)
        if self.log.cut_bytes:
            log.warning("%s: the last %d bytes were damaged and are gone", self.log.path, self.log.cut_bytes)
        self.head: Certificate
        self.ledger: Ledger
        self.tree: StateTree
        self._folder = paths.records
        self.records: RoundLog | None = None
        """What the last rounds were made of; None before `keep_records`, and where the disk refuses it."""
        self._staged: tuple[Generation, StateTree] | None = None
        self._load(state_tree(store.theta, store.momentum, store.head.ledger))

    def _load(self, tree: StateTree) -> None:
        head = self.store.head
        self.head = decode_certificate(head.certificate)
        self.ledger = decode_ledger(head.ledger)
        self.tree = tree
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
    def theta_path(self) -> Path:
        """The file that the trainer reads the outer parameters from."""
        return self.store.current.theta_path

    def apply(self, aggregate_P: torch.Tensor, ledger: Ledger) -> bytes:
        """Take the outer step into the staged generation; returns the digest of what is staged."""
        self._staged = None
        staged = self.store.stage()
        outer_step(
            self.store.theta,
            self.store.momentum,
            aggregate_P,
            learning_rate=self.rules.outer_learning_rate,
            momentum=self.rules.outer_momentum,
            theta_out_P=staged.theta,
            momentum_out_P=staged.momentum,
        )
        tree = state_tree(staged.theta, staged.momentum, ledger.encode())
        self._staged = (staged, tree)
        return tree.digest

    def commit(self, certificate: Certificate, ledger: Ledger) -> None:
        """Make the staged state the outer state. Raises OSError; then the head is what it was."""
        assert self._staged is not None
        staged, tree = self._staged
        assert tree.digest == certificate.value.digest
        self._install(staged, tree, certificate, ledger)

    def _install(self, staged: Generation, tree: StateTree, certificate: Certificate, ledger: Ledger) -> None:
        self.store.commit(
            staged,
            round=ledger.round,
            digest=certificate.value.digest,
            ledger=ledger.encode(),
            certificate=certificate.encode(),
        )
        self.log.truncate_from(number_of(certificate))
        self.log.append(number_of(certificate), certificate.encode())
        self.head, self.ledger, self.tree = certificate, ledger, tree
        self._staged = None

    def stage_download(self) -> Generation:
        """Room for a downloaded state."""
        self._staged = None
        return self.store.stage()

    def hold_download(self, staged: Generation, ledger: Ledger, digest: bytes) -> bool:
        """Keep a downloaded result staged, as `apply` does; False when its digest is another."""
        tree = state_tree(staged.theta, staged.momentum, ledger.encode())
        if tree.digest != digest:
            return False
        self._staged = (staged, tree)
        return True

    def state(self, digest: bytes) -> tuple[StateTree, torch.Tensor, torch.Tensor] | None:
        """Tree, theta and momentum of the outer state, or of the staged one, that has this digest."""
        if digest == self.digest:
            return self.tree, self.store.theta, self.store.momentum
        if self._staged is not None and digest == self._staged[1].digest:
            staged, tree = self._staged
            return tree, staged.theta, staged.momentum
        return None

    def install_download(
        self, staged: Generation, certificate: Certificate, ledger: Ledger, chain: list[Certificate]
    ) -> None:
        """Make a downloaded, verified state the outer state. `chain` are the certificates that lead to it.

        Raises ValueError when the bytes do not have the certified digest, OSError.
        """
        if not self.hold_download(staged, ledger, certificate.value.digest):
            raise ValueError("the downloaded state does not have the certified digest")
        self.install_held(certificate, ledger, chain)

    def install_held(self, certificate: Certificate, ledger: Ledger, chain: list[Certificate]) -> None:
        """Make what `hold_download` took the outer state, as `install_download` does. Raises OSError."""
        assert self._staged is not None
        staged, tree = self._staged
        assert tree.digest == certificate.value.digest
        if chain:
            self.log.truncate_from(number_of(chain[0]))
            for link in chain:
                if number_of(link) < number_of(certificate):
                    self.log.append(number_of(link), link.encode())
        self._install(staged, tree, certificate, ledger)
        if self.records is not None:
            self.records.keep_only(self._on_chain)

    def certificate_of(self, round_number: int) -> Certificate | None:
        """The certificate of a round of the chain that we hold, if it is in the log."""
        data = self.log.read(round_number + 1)
        return decode_certificate(data) if data is not None else None

    def certificates(self, first: int) -> list[Certificate]:
        """Certificates from log number `first` on, as many as one answer may hold."""
        records = self.log.read_range(first, max_records=256, max_bytes=2 << 20)
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


def open_holdings(paths: StateDir, rules: Rules) -> Holdings:
    """The holdings in a state directory. Raises StoreMissingError, StoreCorruptError, ValueError, OSError."""
    return Holdings(paths, OuterStore.open(paths.outer, rules.numel), rules)
