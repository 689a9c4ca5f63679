"""Public names of peers (`talkoot.peer.public_name`) as this one last heard them, kept for the leaderboard.

Each came in an announcement that its peer had signed, which the file does not prove to anybody else.
"""

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import key_of_peer_id, peer_id_of
from talkoot.dht.records import PeerRecord
from talkoot.peer import clock
from talkoot.peer.public_name import is_name, split_version
from talkoot.peer.small_files import read_small, write_small

log = logging.getLogger("talkoot.node")

MAX_NAMES = 1024
"""Names that are kept; the one heard first goes first."""

WRITE_EVERY_S = 60.0
"""However often names change."""


class Names:
    """The names of one swarm's peers. One for a node, on its event loop."""

    def __init__(self, path: Path) -> None:
        """Reads the file; what is not to be had of it is heard again."""
        self._path = path
        self._names: dict[bytes, str] = {}
        with suppress(ConfigError):
            self._names = read_names(path)
        self._changed = False
        self._written_s = -math.inf

    def note(self, records: Mapping[bytes, PeerRecord]) -> None:
        """What peers announce now. The name of one that gives none any more is forgotten."""
        for key, record in records.items():
            _, name = split_version(record.version)
            if name == self._names.get(key):
                continue
            self._changed = True
            self._names.pop(key, None)
            if name is not None:
                self._names[key] = name
        for key in list(self._names)[: max(0, len(self._names) - MAX_NAMES)]:
            del self._names[key]

    def news(self) -> bytes | None:
        """What is to be written now, if anything; for `write`, in a thread."""
        now = clock.now()
        if not self._changed or now < self._written_s + WRITE_EVERY_S:
            return None
        self._changed, self._written_s = False, now
        names = {peer_id_of(key): name for key, name in self._names.items()}
        return msgspec.json.format(msgspec.json.encode(names), indent=1) + b"\n"

    def write(self, data: bytes) -> None:
        """Write the file; where the disk refuses, the next change is another chance."""
        try:
            write_small(self._path, data)
        except ConfigError as error:
            log.info("%s; names are kept in memory only", error)


def read_names(path: Path) -> dict[bytes, str]:
    """Names by key; none where the file is missing or damaged. Raises ConfigError where it cannot be read."""
    data = read_small(path)
    try:
        listed = msgspec.json.decode(data, type=dict[str, str]) if data is not None else {}
        return {
            key_of_peer_id(peer): name for peer, name in list(listed.items())[:MAX_NAMES] if is_name(name)
        }
    except (ValueError, RecursionError):
        return {}
