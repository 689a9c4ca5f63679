"""Where peers were last reached: kept in memory for dialling, and on disk to find the swarm again."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from talkoot.dht.identity import key_of_peer_id, peer_id_of
from talkoot.dht.multiaddr import Address, addresses_of

logger = logging.getLogger(__name__)

MAX_PEERS = 4096
"""Most peers whose addresses are remembered; the oldest are forgotten first."""
MAX_ADDRESSES = 8
"""Most addresses of one peer."""
MAX_SAVED = 64
"""Most peers in the file."""
_MAX_FILE_BYTES = 256 * 1024

_Saved: TypeAlias = Annotated[
    dict[str, Annotated[list[str], Meta(max_length=MAX_ADDRESSES)]], Meta(max_length=MAX_SAVED)
]


class AddressBook:
    """Dialable addresses by peer; the last added first."""

    def __init__(self, prefer: Callable[[bytes], bool] = lambda _peer: False) -> None:
        """`prefer`: peers that newer ones do not push out of the file, nor out of `recent`."""
        self._prefer = prefer
        self._addresses: dict[bytes, tuple[Address, ...]] = {}

    def add(self, peer: bytes, texts: Sequence[str]) -> int:
        """Remember addresses; returns how many were refused (ill-formed, or of another peer)."""
        good, refused = addresses_of(peer, texts)
        if good:
            known = self._addresses.pop(peer, ())
            self._addresses[peer] = tuple(dict.fromkeys((*good, *known)))[:MAX_ADDRESSES]
        while len(self._addresses) > MAX_PEERS:
            others = (known for known in self._addresses if not self._prefer(known))
            self._addresses.pop(next(others, peer))
        return refused

    def of(self, peer: bytes) -> tuple[Address, ...]:
        """The known addresses of a peer, newest first."""
        return self._addresses.get(peer, ())

    def recent(self, count: int) -> list[bytes]:
        """Peers by the time of the last addition, newest first, after the preferred ones."""
        newest = list(reversed(self._addresses))
        return sorted(newest, key=lambda peer: not self._prefer(peer))[:count]

    def newest(self) -> dict[bytes, tuple[Address, ...]]:
        """What `to_json` saves; equal to another answer if only the order of the peers has changed."""
        return {peer: self.of(peer) for peer in self.recent(MAX_SAVED)}

    def load(self, path: Path) -> None:
        """Add what was saved; a missing or damaged file is as good as an empty one."""
        try:
            with path.open("rb") as file:
                saved = msgspec.json.decode(file.read(_MAX_FILE_BYTES), type=_Saved)
            for peer_id, texts in reversed(saved.items()):
                self.add(key_of_peer_id(peer_id), texts)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logger.warning("the file of known peers %s is ignored: %s", path, error)

    def to_json(self) -> bytes:
        """The most recent peers, as `load` reads them."""
        saved = {peer_id_of(peer): [str(each) for each in found] for peer, found in self.newest().items()}
        return msgspec.json.encode(saved)


def save(path: Path, data: bytes) -> None:
    """Replace the file: write new, fsync, rename. Blocks; raises OSError."""
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
