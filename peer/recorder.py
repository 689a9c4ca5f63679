"""Writes the records of rounds into the round log, after their commit and beside the next round."""

import asyncio
import logging

from talkoot.averaging.certificate import Value
from talkoot.averaging.encoded import Encoded
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.record import RecordError, RecordLayout
from talkoot.averaging.rules import Rules
from talkoot.peer.holdings import Holdings
from talkoot.peer.roundlog import RoundLog

log = logging.getLogger("talkoot.state")

MAX_WAITING = 2
"""Rounds whose bytes are kept in memory for a disk that is slower than the rounds."""


class Recorder:
    """One for a node."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._writing = asyncio.Lock()
        self._waiting = 0

    async def record(self, value: Value, before: Ledger, encoded: Encoded) -> None:
        """Keep what the committed round of this value was made of; `before` is the ledger before it.

        Never fails: a record that cannot be had or kept is not there for those who are behind.
        """
        records = self._holdings.records
        if records is None:
            return
        if self._waiting >= MAX_WAITING:
            log.warning("no record of round %d is kept: the disk is too slow", value.round)
            return
        self._waiting += 1
        try:
            async with self._writing:
                await asyncio.to_thread(write_record, records, value, before, self._holdings.rules, encoded)
        finally:
            self._waiting -= 1


def write_record(records: RoundLog, value: Value, before: Ledger, rules: Rules, encoded: Encoded) -> None:
    """What `Recorder.record` does. Blocks on the disk and hashes all of it."""
    try:
        layout = RecordLayout(value, before, rules)
        pieces = encoded.pieces(value, layout)
    except RecordError as error:
        log.info("no record of round %d is kept: %s", value.round, error)
        return
    records.write(value.round, value.hash, layout.num_bytes, pieces)
