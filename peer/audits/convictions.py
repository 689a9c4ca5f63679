"""Whom we hold proofs against, and whom we do not trust with a part for a while: pure bookkeeping.

A proof convicts for everybody, since everybody verifies it alone. That a reducer could not produce what it
claims to have is seen by one auditor only, who may lie: it is an opinion, and stays here.
"""

ROLE_ROUNDS = 8
"""Rounds for which a reducer that could not produce its slices gets no part when we lead."""

GRACE_ROUNDS = 2
"""Rounds after which a proof may be expected to be known to all: then rosters that ignore it are refused."""

MAX_HELD_BYTES = 512 << 20
"""What the encoded proofs that are kept for others may add up to; the newest stays in any case."""

MAX_CONVICTED = 4096
"""Keys that are remembered; the oldest is forgotten first, and is banned all the same."""


class Convictions:
    """By key."""

    def __init__(self) -> None:
        self._since: dict[bytes, int] = {}
        self._until: dict[bytes, int] = {}
        self._proofs: dict[bytes, bytes] = {}

    def convict(self, key: bytes, proof: bytes, running: int) -> None:
        """A proof was verified here, in this round."""
        self._since.setdefault(key, running)
        self._proofs.setdefault(key, proof)
        while len(self._proofs) > 1 and sum(map(len, self._proofs.values())) > MAX_HELD_BYTES:
            del self._proofs[next(iter(self._proofs))]
        while len(self._since) > MAX_CONVICTED:
            del self._since[next(iter(self._since))]

    def doubt(self, key: bytes, running: int) -> None:
        """It did not produce what it claims to have."""
        self._until = {other: until for other, until in self._until.items() if until >= running}
        self._until[key] = running + ROLE_ROUNDS

    def __contains__(self, key: bytes) -> bool:
        return key in self._since

    @property
    def proofs(self) -> dict[bytes, bytes]:
        """Encoded proofs by offender, as far as they are kept."""
        return self._proofs

    @property
    def convicted(self) -> frozenset[bytes]:
        """All keys against which there was a proof."""
        return frozenset(self._since)

    def barred(self, running: int) -> frozenset[bytes]:
        """Who gets no part from us in this round."""
        return self.convicted | {key for key, until in self._until.items() if until >= running}

    def known_to_all(self, running: int) -> frozenset[bytes]:
        """Against whom there was a proof long enough ago."""
        return frozenset(key for key, since in self._since.items() if since + GRACE_ROUNDS <= running)
