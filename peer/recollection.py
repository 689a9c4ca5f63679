"""Whether a voter knows what it signed before; see `talkoot.averaging.memory` for what follows.

A note in the journal outlives restarts. It goes with the next final round that this peer commits itself.
Until then memory is whole on what no earlier life can have seen: after a round that counted a contribution
of this life, as long as no state of others takes its place.
"""

from talkoot.averaging.certificate import Certificate, Contribution
from talkoot.averaging.memory import Memory
from talkoot.peer.holdings import Holdings
from talkoot.peer.journal import Journal

FORGOT = "forgot"
"""Key of the note in the journal."""


class Recollection:
    """The memory of one voter. Methods that write block on the disk."""

    def __init__(self, journal: Journal) -> None:
        """As the journal's note says."""
        self._journal = journal
        self._kept: Memory = _noted(journal)
        self._fresh = False

    @property
    def memory(self) -> Memory:
        """What joins say of it now."""
        return "whole" if self._fresh else self._kept

    def committed(self, certificate: Certificate, own: Contribution | None) -> bool:
        """A round was committed here, to which we sent `own`; True when `drop` is to be called."""
        self._fresh = self._fresh or (own is not None and own in certificate.value.cut)
        return certificate.kind == "final" and self._kept != "whole"

    def fetched(self) -> None:
        """The state came from others: an earlier life may have been there."""
        self._fresh = False

    def drop(self) -> None:
        """Memory is whole from now on. Raises OSError."""
        self._journal.discard(FORGOT)
        self._kept = "whole"


def note(journal: Journal, memory: Memory) -> None:
    """Write down that memory is not whole. Raises OSError."""
    journal.write(FORGOT, memory.encode("ascii"))


def _noted(journal: Journal) -> Memory:
    found = journal.read(FORGOT)
    if found is None:
        return "whole"
    return "restored" if found == b"restored" else "lost"


def recollect(holdings: Holdings, key: bytes, *, first: bool) -> Recollection:
    """What a peer that starts knows of what its `key` signed.

    `first`: its state directory was empty, and the state came from others. Raises OSError.
    """
    journal, voters = holdings.journal, holdings.ledger.voters
    if voters == (key,):  # nobody is there to contradict
        journal.discard(FORGOT)
    elif journal.lost and holdings.ledger.round > 0 and key in voters:
        note(journal, "restored" if first else "lost")
    elif first:
        journal.begin()
    return Recollection(journal)
