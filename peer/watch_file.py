"""What a node remembers of the others' contributions, in a file: bounded, checksummed, replaced whole.

    "talkoot watch 1\\n" | BLAKE3 of the rest | msgpack of a row for each peer, in the order they were seen

It holds opinions only, so one that is damaged is as good as none: everybody begins anew.
"""

import logging
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Annotated

import msgspec
from blake3 import blake3
from msgspec import Meta

from talkoot.averaging.history import LOUDEST, History, Track
from talkoot.averaging.reasons import SIGNS, Sign
from talkoot.averaging.watch import MAX_WATCHED, Record
from talkoot.dht.errors import ConfigError
from talkoot.peer.small_files import read_small, write_small

log = logging.getLogger("talkoot.watch")

HEAD = b"talkoot watch 1\n"
HASH_BYTES = 32

Numbers = tuple[int, float, float]
"""Of a track: count, mean, variance."""


class Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One peer, in about 150 bytes."""

    key: bytes
    norm_track: Numbers
    lag_track: Numbers
    every_lag_track: Numbers
    suspicion: float
    last: int
    rounds: int
    suspected: bool
    norm: float
    direction: float
    signs: tuple[Sign, ...]
    like: bytes


_Rows = Annotated[list[Row], Meta(max_length=MAX_WATCHED)]


class WatchFileError(ValueError):
    """Bytes that are no such file."""


def encode(records: Mapping[bytes, Record]) -> bytes:
    """The file's content."""
    body = msgspec.msgpack.encode([_row(key, record) for key, record in records.items()])
    return HEAD + blake3(body).digest() + body


def decode(data: bytes) -> dict[bytes, Record]:
    """What `encode` was given. Raises WatchFileError for anything else."""
    body = data[len(HEAD) + HASH_BYTES :]
    if data != HEAD + blake3(body).digest() + body:
        raise WatchFileError("no such file, or not whole")
    try:
        rows = msgspec.msgpack.decode(body, type=_Rows)
    except (ValueError, RecursionError) as error:
        raise WatchFileError(str(error)) from error
    if not all(map(_is_sane, rows)):
        raise WatchFileError("a number is out of range")
    return {row.key: _record(row) for row in rows}


def _row(key: bytes, record: Record) -> Row:
    history = record.history
    tracks = (history.norm, history.lag, history.every_lag)
    norm, lag, every_lag = ((track.count, track.mean, track.variance) for track in tracks)
    return Row(
        key=key,
        norm_track=norm,
        lag_track=lag,
        every_lag_track=every_lag,
        suspicion=history.suspicion,
        last=record.last,
        rounds=record.rounds,
        suspected=record.suspected,
        norm=record.norm,
        direction=record.direction,
        signs=record.signs,
        like=record.like,
    )


def _record(row: Row) -> Record:
    norm, lag, every_lag = Track(*row.norm_track), Track(*row.lag_track), Track(*row.every_lag_track)
    return Record(
        history=History(norm, lag, every_lag, row.suspicion),
        last=row.last,
        rounds=row.rounds,
        suspected=row.suspected,
        norm=row.norm,
        direction=row.direction,
        signs=row.signs,
        like=row.like,
    )


def _is_sane(row: Row) -> bool:
    return (
        len(row.key) == 32
        and all(map(_is_track, (row.norm_track, row.lag_track, row.every_lag_track)))
        and all(map(isfinite, (row.norm, row.direction)))
        and 0 <= row.suspicion <= 1
        and min(row.last, row.rounds) >= 0
        and len(row.like) in (0, 32)
        and len(row.signs) <= len(SIGNS)
    )


def _is_track(numbers: Numbers) -> bool:
    """Means of norms and cosines lie between -2 and `LOUDEST`."""
    count, mean, variance = numbers
    return count >= 0 and -LOUDEST <= mean <= LOUDEST and 0 <= variance <= LOUDEST**2


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
