"""The records that a node believes: verified, unexpired, the newest of each owner, bounded. Pure.

What a node stores for others and what it reads from them is one table. A hostile node can therefore
neither bring back an older record, nor keep memory or the processor busy without limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from talkoot.dht import records
from talkoot.dht.errors import RemoteError
from talkoot.dht.records import PeerRecord, SignedRecord

MAX_OWNERS = 4096
"""Most owners in one directory."""
MAX_TABLE_BYTES = 3 * 2**20
"""Most bytes of envelopes: all of them have to fit into one answer of 4 MiB."""
VERIFY_BURST = 256
"""Signatures checked without a pause: about 30 ms on one core."""
VERIFY_RATE = 400.0
"""Signatures a second after that: about a twentieth of a core."""


class Rejections(Protocol):
    """Who counts refused records."""

    def reject(self, reason: str) -> None:
        """One record was refused."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A believed record and the bytes that prove it."""

    envelope: bytes
    signed: SignedRecord


class RecordTable:
    """Records of one swarm by owner. `now` is wall-clock time in seconds."""

    def __init__(self, swarm: bytes, rejected: Rejections) -> None:
        self.swarm = swarm
        self._rejected = rejected
        self._entries: dict[bytes, Entry] = {}
        self._bytes = 0
        self._credit = float(VERIFY_BURST)  # signatures that may be checked now
        self._credit_time = 0.0

    def accept(self, owner: bytes, envelope: bytes, now: float, *, local: bool = False) -> bool:
        """Take a record in; True if it is the one that the table holds afterwards.

        Counts the reason otherwise. `local` is our own, which costs no credit.
        """
        known = self._entries.get(owner)
        if known is not None and known.envelope == envelope:
            return now < known.signed.expires
        try:
            self._take(owner, envelope, now, known, local)
        except RemoteError as error:
            self._rejected.reject(error.reason)
            return False
        return True

    def peers(self, now: float) -> dict[bytes, PeerRecord]:
        """The unexpired records."""
        self._expire(now)
        return {owner: entry.signed.record for owner, entry in self._entries.items()}

    def entries(self, now: float) -> Iterator[tuple[bytes, Entry]]:
        """The unexpired records with their envelopes."""
        self._expire(now)
        return iter(list(self._entries.items()))

    @property
    def owners(self) -> list[bytes]:
        """Of all records that are held."""
        return list(self._entries)

    def envelope_of(self, owner: bytes) -> bytes | None:
        """The record of an owner as it came, expired or not."""
        entry = self._entries.get(owner)
        return entry.envelope if entry is not None else None

    def signed(self, owner: bytes) -> SignedRecord | None:
        """The record of an owner with its times, expired or not."""
        entry = self._entries.get(owner)
        return entry.signed if entry is not None else None

    def latest_expiration(self) -> float | None:
        """When the last of the records expires; None if there is none."""
        return max((entry.signed.expires for entry in self._entries.values()), default=None)

    def _take(self, owner: bytes, envelope: bytes, now: float, known: Entry | None, local: bool) -> None:
        signed = records.parse(envelope, owner=owner, swarm=self.swarm)
        records.check_time(signed, now)
        if known is not None and records.is_from_the_future(known.signed, now):
            known = None  # our clock was ahead when it was taken, and was set back: its time comes only later
        if known is not None and signed.issued <= known.signed.issued:
            raise RemoteError(owner, "stale", "older than the known record")
        if not local:
            self._spend(owner, now)
        records.check_signature(envelope, owner=owner)
        self._make_room(owner, len(envelope) - (len(known.envelope) if known else 0), now)
        # Now the owner may have been expired, and `known` with it.
        known = self._entries.get(owner)
        self._bytes += len(envelope) - (len(known.envelope) if known else 0)
        self._entries[owner] = Entry(envelope, signed)

    def _spend(self, owner: bytes, now: float) -> None:
        """Token bucket over signature checks, the only expensive part."""
        elapsed = max(0.0, now - self._credit_time)
        self._credit = min(float(VERIFY_BURST), self._credit + elapsed * VERIFY_RATE)
        self._credit_time = now
        if self._credit < 1:
            raise RemoteError(owner, "busy", "too many new records")
        self._credit -= 1

    def _make_room(self, owner: bytes, more_bytes: int, now: float) -> None:
        if self._fits(owner, more_bytes):
            return
        self._expire(now)
        if not self._fits(owner, more_bytes):
            raise RemoteError(owner, "busy", "the directory is full")

    def _fits(self, owner: bytes, more_bytes: int) -> bool:
        fits = self._bytes + more_bytes <= MAX_TABLE_BYTES
        return fits and (owner in self._entries or len(self._entries) < MAX_OWNERS)

    def _expire(self, now: float) -> None:
        for owner in [key for key, entry in self._entries.items() if entry.signed.expires <= now]:
            self._bytes -= len(self._entries.pop(owner).envelope)
