"""The leaderboard of a running node: who contributed what, summed up over the certificates that it holds.

The sums are those of `talkoot leaderboard`, which checks every certificate; a node checked each when it
committed or fetched it, so here they are only added up, new ones to those before.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from talkoot.averaging.certificate import decode_certificate
from talkoot.dht.identity import peer_id_of
from talkoot.peer import clock
from talkoot.peer.certlog import LogCorruptError
from talkoot.peer.credit import Board
from talkoot.peer.log_reading import LogReader
from talkoot.peer.names import read_names
from talkoot.peer.statedir import StateDir

FRESH_S = 1.0
"""However often somebody asks, the log is looked at once in so long."""


def board_as_json(board: Board, names: Mapping[bytes, str]) -> dict[str, Any]:
    """Which rounds, and all rows in order, with names where peers gave them."""
    return {
        "rounds": board.num_rounds,
        "first_round": board.first,
        "last_round": board.last,
        "digest": board.head.hex(),
        "fingerprint": board.fingerprint.hex(),
        "peers": [
            {
                "rank": row.rank,
                "peer_id": peer_id_of(row.key),
                "public_name": names.get(row.key),
                "credit": row.credit,
                "tokens": row.tokens,
                "steps": row.steps,
                "rounds": row.rounds,
                "weak_rounds": row.weak,
                "last_round": row.last_round,
            }
            for row in board.rows()
        ],
    }


class Leaderboard:
    """One for a daemon. The log may be cut while it runs: where it follows another branch."""

    def __init__(self, paths: StateDir) -> None:
        """Touches nothing."""
        self._paths = paths
        self._lock = asyncio.Lock()
        self._made: tuple[float, dict[str, Any]] | None = None
        self._board = Board()
        self._newest: tuple[int, bytes] | None = None
        """Place and content of the record that was added last."""

    async def now(self) -> dict[str, Any]:
        """As `board_as_json`; no rounds where there is no state yet. Raises ValueError for a damaged log."""
        async with self._lock:
            if self._made is None or clock.now() >= self._made[0] + FRESH_S:
                self._made = clock.now(), await asyncio.to_thread(self._look)
            return self._made[1]

    def _look(self) -> dict[str, Any]:
        try:
            self._add_new()
        except FileNotFoundError:
            self._board, self._newest = Board(), None
        except (LogCorruptError, OSError) as error:
            raise ValueError(f"the rounds on the disk cannot be read: {error}") from error
        return board_as_json(self._board, read_names(self._paths.names))

    def _add_new(self) -> None:
        if self._newest is None or not self._go_on(*self._newest):
            self._board, self._newest = Board(), None
            reader = LogReader(self._paths.round_log)
            self._add(reader, iter(reader))

    def _go_on(self, place: int, content: bytes) -> bool:
        """Add what follows the record that was added last; False where it is not there any more. The file is
        opened once, so that no other branch comes between."""
        reader = LogReader(self._paths.round_log, place)
        records = iter(reader)
        last = next(records, None)
        if last is None or last[1] != content:
            return False
        self._add(reader, records)
        return True

    def _add(self, reader: LogReader, records: Iterator[tuple[int, bytes]]) -> None:
        for _, content in records:
            self._board.add(decode_certificate(content))
            self._newest = reader.place, content
