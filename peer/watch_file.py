"""What a node remembers of the others' contributions, in a file: bounded, checksummed, replaced whole.

    "talkoot watch 1\\n" | BLAKE3 of the rest | msgpack of [key, record] pairs, in the order they were seen

It holds opinions only, so one that is damaged is as good as none: everybody begins anew.
"""

import logging
from math import isfinite
from pathlib import Path
from typing import Annotated

import msgspec
from blake3 import blake3
from msgspec import Meta

from talkoot.averaging.history import LOUDEST, Track
from talkoot.averaging.watch import MAX_WATCHED, Record
from talkoot.dht.errors import ConfigError
from talkoot.peer.small_files import read_small, write_small

log = logging.getLogger("talkoot.watch")

HEAD = b"talkoot watch 1\n"
HASH_BYTES = 32

_Entries = Annotated[list[tuple[bytes, Record]], Meta(max_length=MAX_WATCHED)]


class WatchFileError(ValueError):
    """Bytes that are no such file."""


def encode(records: dict[bytes, Record]) -> bytes:
    """The file's content."""
    body = msgspec.msgpack.encode(list(records.items()))
    return HEAD + blake3(body).digest() + body


def decode(data: bytes) -> dict[bytes, Record]:
    """What `encode` was given. Raises WatchFileError for anything else."""
    body = data[len(HEAD) + HASH_BYTES :]
    if data != HEAD + blake3(body).digest() + body:
        raise WatchFileError("no such file, or not whole")
    try:
        entries = msgspec.msgpack.decode(body, type=_Entries)
    except (ValueError, RecursionError) as error:
        raise WatchFileError(str(error)) from error
    if not all(len(key) == 32 and _is_sane(record) for key, record in entries):
        raise WatchFileError("a number is out of range")
    return dict(entries)


def _is_sane(record: Record) -> bool:
    history = record.history
    numbers = (history.suspicion, record.norm, record.direction)
    return (
        all(map(_is_track, (history.norm, history.lag, history.every_lag)))
        and all(map(isfinite, numbers))
        and 0 <= history.suspicion <= 1
        and min(record.last, record.rounds) >= -1
        and len(record.like) in (0, 32)
        and len(record.signs) <= 3
    )


def _is_track(track: Track) -> bool:
    """Means of norms and cosines lie between -2 and `LOUDEST`."""
    return track.count >= 0 and -LOUDEST <= track.mean <= LOUDEST and 0 <= track.variance <= LOUDEST**2


def load(path: Path) -> dict[bytes, Record]:
    """What was remembered; nobody where there is no such file or it is damaged. Blocks."""
    try:
        data = read_small(path)
        return {} if data is None else decode(data)
    except (ConfigError, WatchFileError) as error:
        log.warning("%s is damaged: what was seen of other peers is learned again (%s)", path, error)
        return {}


def save(path: Path, data: bytes) -> None:
    """Keep what `encode` gave. Blocks. Raises ConfigError."""
    write_small(path, data)
