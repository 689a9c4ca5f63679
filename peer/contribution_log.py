"""Our own contributions since the last final round: to be sent again, counted late, or taken back.

A final round is for good, so with it the log begins anew; as long as rounds are only weak, another branch
may be adopted and with it another answer to what was counted. The encoded bytes of the newest
`MAX_KEPT` contributions are kept (all of them together at most `MAX_BYTES_PER_ELEMENT` times the number of
parameters, but always the newest one); of older ones the signed header, of at most `MAX_HEADERS`.
All of them lie on the disk, once saved; the newest one in memory, too. What is not needed any more stays
there until the next save, since what was saved before it may still name it. Calls block on the disk.
"""

import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from talkoot.averaging.certificate import Certificate, CertificateError, Contribution
from talkoot.averaging.contribution import (
    ENTRY_BYTES,
    Chunks,
    LocalContribution,
    decode_index,
    encoded_bytes,
)
from talkoot.averaging.digest import content_hash
from talkoot.averaging.rotation import contribution_codec
from talkoot.averaging.rules import Rules
from talkoot.peer.disk import fault_of
from talkoot.peer.files import fsync_directory

log = logging.getLogger("talkoot.work")

CertificateOf = Callable[[int], Certificate | None]
"""The certificate of a round on the chain that we follow, None where it is not known."""

MAX_KEPT = 8
"""Contributions whose bytes are kept: more rounds than the norm cap lets through in one are not worth it."""

MAX_BYTES_PER_ELEMENT = 10
"""Bytes that all kept contributions may take, for each parameter: 8 of them with int8, 2 with fp32."""

MAX_HEADERS = 1024
"""Contributions that are remembered at all."""


@dataclass(slots=True, eq=False)
class Entry:
    """One contribution of ours."""

    header: Contribution
    local: LocalContribution | None
    """Its bytes, while they are in memory."""
    on_disk: bool = False
    counted: bool = False
    """Whether the chain that we follow counts it."""
    live: bool = True
    """False: what it was made of is not in our books any more, whatever becomes of it."""

    @property
    def kept(self) -> bool:
        """Whether its bytes are still to be had."""
        return self.local is not None or self.on_disk


class Dropped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Up to where contributions were forgotten. While the chain has this value, nothing is missed."""

    round: int
    value_hash: bytes


class ContributionLog:
    """Entries ascend by the time at which they were made."""

    def __init__(self, folder: Path, rules: Rules) -> None:
        """Bytes go to `folder`, which is created when it is needed."""
        self._folder = folder
        self._rules = rules
        self.entries: list[Entry] = []
        self.dropped: Dropped | None = None
        """The newest contribution that was forgotten for want of room."""

    def find(self, prior: bytes) -> Entry | None:
        """Our contribution for an outer state: there is never a second one."""
        return next((entry for entry in self.entries if entry.header.prior == prior), None)

    def add(self, local: LocalContribution) -> Entry:
        """Remember a new contribution, in memory."""
        entry = Entry(local.header, local)
        self.entries.append(entry)
        self._bound()
        return entry

    def _bound(self) -> None:
        room = MAX_BYTES_PER_ELEMENT * self._rules.numel
        kept = 0
        for entry in reversed(self.entries):
            if not entry.kept:
                continue
            kept += 1
            room -= encoded_bytes(self._rules, entry.header.codec)
            if kept > 1 and (kept > MAX_KEPT or room < 0):
                self._forget_bytes(entry)

    @staticmethod
    def _forget_bytes(entry: Entry) -> None:
        entry.local = None
        entry.on_disk = False  # `sweep` removes the file

    def _path(self, entry: Entry) -> Path:
        return self._folder / entry.header.root.hex()

    # -- bytes ---------------------------------------------------------------------------------------

    def local(self, entry: Entry) -> LocalContribution | None:
        """A contribution with its bytes, or None when they are gone or damaged.

        Raises OSError for a fault of the disk that may pass.
        """
        if entry.local is None and entry.on_disk:
            entry.local = self._load(entry)
            if entry.local is None:
                self._forget_bytes(entry)
        return entry.local

    def _load(self, entry: Entry) -> LocalContribution | None:
        rules, header = self._rules, entry.header
        try:
            data = bytearray(self._path(entry).read_bytes())
            cut = rules.num_chunks * ENTRY_BYTES
            index = decode_index(memoryview(data)[:cut], header, rules.num_chunks)
        except (OSError, CertificateError) as error:
            if fault_of(error) is not None:
                raise
            log.warning("our contribution to round %d cannot be read: %s", header.round, error)
            return None
        chunks = Chunks(rules, contribution_codec(header), memoryview(data)[cut:])
        if chunks.nbytes != encoded_bytes(rules, header.codec) or any(
            content_hash(chunks[chunk]) != index.entries[chunk].hash for chunk in range(rules.num_chunks)
        ):
            log.warning("our contribution to round %d is damaged", header.round)
            return None
        return LocalContribution(header, index, chunks)

    def put_away(self, entry: Entry) -> None:
        """Keep a contribution's bytes on the disk only, if they are there."""
        if entry.on_disk:
            entry.local = None

    def _write(self, entry: Entry, local: LocalContribution) -> None:
        self._folder.mkdir(exist_ok=True, mode=0o700)
        with self._path(entry).open("wb") as file:
            file.write(local.index.encode())
            for chunk in range(self._rules.num_chunks):
                file.write(local.chunks[chunk])
            file.flush()
            os.fsync(file.fileno())

    # -- the end of a stretch of weak rounds, and of a process ---------------------------------------

    def drop(self, over: Callable[[Entry], bool]) -> None:
        """Forget, with their bytes, those entries that are `over` for good."""
        for entry in self.entries:
            if over(entry):
                self._forget_bytes(entry)
        self.entries = [entry for entry in self.entries if not over(entry)]
        self.dropped = None

    def void(self) -> None:
        """What the entries were made of is lost: they stay what they are to others, and no more."""
        for entry in self.entries:
            entry.live = False
        self.dropped = None

    def trim(self, certificate_of: CertificateOf) -> None:
        """Forget the oldest entries where there are too many."""
        while len(self.entries) > MAX_HEADERS:
            entry = self.entries.pop(0)
            self._forget_bytes(entry)
            certificate = certificate_of(entry.header.round)
            self.dropped = Dropped(entry.header.round, certificate.value.hash if certificate else b"")

    def is_gone(self, certificate_of: CertificateOf) -> bool:
        """Whether the chain has changed so far back that forgotten contributions may count differently."""
        if self.dropped is None:
            return False
        certificate = certificate_of(self.dropped.round)
        return certificate is None or certificate.value.hash != self.dropped.value_hash

    def save(self, keep: Entry | None = None) -> None:
        """Put all bytes on the disk, durably; those of `keep` stay in memory, too. Raises OSError."""
        for entry in self.entries:
            if entry.local is not None and not entry.on_disk:
                self._write(entry, entry.local)
                entry.on_disk = True
            if entry is not keep:
                self.put_away(entry)
        if self._folder.exists():
            fsync_directory(self._folder)

    def sweep(self) -> None:
        """Remove the files that no entry names. What cannot be removed is left to the next time."""
        known = {self._path(entry) for entry in self.entries if entry.on_disk}
        with suppress(OSError):
            for path in self._folder.iterdir():
                if path not in known:
                    path.unlink()

    def restore(self, entries: Iterable[Entry], dropped: Dropped | None) -> None:
        """Take up what was saved; other files in the folder are removed."""
        self.entries, self.dropped = list(entries), dropped
        self.sweep()
