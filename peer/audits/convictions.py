"""Whom we hold proofs against, and whom we do not trust with a part for a while: pure bookkeeping.

A proof convicts for everybody, since everybody verifies it alone. That a reducer could not produce what it
claims to have is seen by one auditor only, who may lie: it is an opinion, and stays here.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from talkoot.averaging.proof import Offence
from talkoot.dht.identity import key_of_peer_id, peer_id_of

ROLE_ROUNDS = 8
"""Rounds for which a reducer that could not produce its slices gets no part when we lead."""

GRACE_ROUNDS = 2
"""Rounds after which a proof may be expected to be known to all: then rosters that ignore it are refused."""

MAX_CONVICTED = 1000
"""Keys that are remembered; the oldest is forgotten first, and is banned all the same."""


class Conviction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """That there was a proof."""

    peer: Annotated[str, Meta(max_length=64)]
    """The PeerID of whom it convicts."""
    since: Annotated[int, Meta(ge=0, le=2**53)]
    """The round in which it was verified here."""
    offence: Offence


_Convictions = Annotated[list[Conviction], Meta(max_length=MAX_CONVICTED)]


class Convictions:
    """By key."""

    def __init__(self) -> None:
        self._convicted: dict[bytes, Conviction] = {}
        self._until: dict[bytes, int] = {}

    def convict(self, key: bytes, offence: Offence, running: int) -> None:
        """A proof was verified here, in this round."""
        made = Conviction(peer=peer_id_of(key), since=running, offence=offence)
        self._convicted.setdefault(key, made)
        while len(self._convicted) > MAX_CONVICTED:
            del self._convicted[next(iter(self._convicted))]

    def doubt(self, key: bytes, running: int) -> None:
        """It did not produce what it claims to have."""
        self._until = {other: until for other, until in self._until.items() if until >= running}
        self._until[key] = running + ROLE_ROUNDS

    def __contains__(self, key: bytes) -> bool:
        return key in self._convicted

    def since(self, key: bytes) -> int:
        """The round in which a convicted key's proof was verified."""
        return self._convicted[key].since

    def offence(self, key: bytes) -> Offence | None:
        """What it was convicted of, if it was."""
        one = self._convicted.get(key)
        return one.offence if one is not None else None

    @property
    def convicted(self) -> frozenset[bytes]:
        """All keys against which there was a proof."""
        return frozenset(self._convicted)

    def barred(self, running: int) -> frozenset[bytes]:
        """Who gets no part from us in this round."""
        return self.convicted | {key for key, until in self._until.items() if until >= running}

    def known_to_all(self, running: int) -> frozenset[bytes]:
        """Against whom there was a proof long enough ago."""
        return frozenset(key for key, one in self._convicted.items() if one.since + GRACE_ROUNDS <= running)

    # -- on disk -------------------------------------------------------------------------------------

    def encode(self) -> bytes:
        """JSON, one conviction a line. Opinions are forgotten with the process."""
        lines = b",\n".join(msgspec.json.encode(one) for one in self._convicted.values())
        return b"[\n" + lines + b"\n]\n"


def decode_convictions(data: bytes) -> Convictions:
    """What `Convictions.encode` wrote. Raises ValueError, also for what somebody else wrote."""
    made = Convictions()
    try:
        listed = msgspec.json.decode(data, type=_Convictions)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    for one in listed:
        made._convicted[key_of_peer_id(one.peer)] = one
    return made
