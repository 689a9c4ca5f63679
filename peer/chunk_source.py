"""One peer that gives chunks of a state: what it owes, how fast it brings it, when it is given up."""

import math
from collections import deque

from talkoot.averaging.digest import CHUNK_BYTES
from talkoot.dht.identity import peer_id_of
from talkoot.peer.assembly import Piece
from talkoot.peer.transfer import StateClient

MAX_WINDOW = 8
"""Chunks that one source is asked for ahead, at most; two at first, which show how fast it is."""

WINDOW_S = 0.5
"""A source is asked ahead for what it delivers in this time."""

PATIENCE_S = (5.0, 30.0)
"""Shortest and longest time without a byte of what is owed; between them `PATIENCE` times the usual time of
a chunk."""

PATIENCE = 10.0

FIRST_PATIENCE_S = 15.0
"""The same before its first chunk."""

LONGEST_S = 60.0
"""A chunk takes no longer, however steadily it comes: this is a quarter of the lowest limit of a node."""

SILENT_S = 0.5
"""Who brings nothing for so long brings nothing at present."""

TELLING = CHUNK_BYTES // 16
"""So much of a chunk tells how fast it comes."""


class Source:
    """Keeps the books of one peer. The caller asks and receives."""

    def __init__(self, client: StateClient) -> None:
        self.client = client
        self.name = peer_id_of(client.peer)
        self.owed: deque[Piece] = deque()
        """What it was asked for, in this order."""
        self.interval_s = 0.0
        """Usual time between two chunks while some are owed; 0: not measured."""
        self.since_s = 0.0
        """When it began to owe, or brought the last one."""
        self.heard_s = 0.0
        """When it began to owe, or brought the last byte, as far as we have looked."""
        self.busy = 0
        """How often it has put us off since."""
        self._arrived = client.bytes_arrived  # at the last look
        self._begun_s = 0.0  # when there was nothing yet of the chunk that comes now
        self._line_s = 0.0  # for so long it may be our own line that keeps it from bringing anything

    @property
    def window(self) -> int:
        """How many chunks it may owe."""
        if not self.interval_s:
            return 2
        return max(2, min(MAX_WINDOW, math.ceil(WINDOW_S / self.interval_s)))

    def look(self, now: float) -> int:
        """How many bytes it has brought since the last look."""
        before, self._arrived = self._arrived, self.client.bytes_arrived
        if self._arrived > before:
            self.heard_s = now
        if not self.client.bytes_waiting:
            self._begun_s = now
        return self._arrived - before

    def is_silent(self, now: float) -> bool:
        """Whether it brings nothing at present."""
        return not self.owed or now - self.heard_s > SILENT_S + self._line_s

    def to_come(self) -> int:
        """Bytes that it owes still, about."""
        return max(0, len(self.owed) * CHUNK_BYTES - self.client.bytes_waiting)

    def asked_for(self, piece: Piece, now: float, line_s: float) -> None:
        """It owes one more. Our own line takes `line_s` for what is owed already, by whomever."""
        self._line_s = line_s
        if not self.owed:
            self.since_s = self.heard_s = now
        self.owed.append(piece)

    def brought(self, now: float) -> Piece:
        """A chunk is here: this one."""
        pause_s = now - self.since_s
        self.interval_s = pause_s if not self.interval_s else 0.7 * self.interval_s + 0.3 * pause_s
        self.since_s = self.heard_s = self._begun_s = now
        self.busy = 0
        return self.owed.popleft()

    def put_off(self) -> Piece:
        """It has too much to do for the oldest one."""
        self.busy += 1
        return self.owed.popleft()

    def overdue(self, now: float) -> str | None:
        """Why it is not waited for any longer, if so."""
        patience_s = FIRST_PATIENCE_S
        if self.interval_s:
            patience_s = min(max(PATIENCE * self.interval_s, PATIENCE_S[0]), PATIENCE_S[1])
        if now - self.heard_s >= patience_s + self._line_s:
            return f"nothing came for {patience_s:.0f} s"
        if now - self.since_s >= LONGEST_S:
            return f"a chunk took more than {LONGEST_S:.0f} s"
        return None

    def needs_s(self, piece: Piece, now: float) -> float:
        """Seconds until it will bring what it owes, as far as one can tell: forever if it is silent, 0 while
        nothing tells."""
        passed_s, part = now - self.since_s, self.client.bytes_waiting
        if not self.is_silent(now) and part >= TELLING:
            left = max(0, (1 + self.owed.index(piece)) * CHUNK_BYTES - part)
            return left * (now - self._begun_s) / part
        if self.is_silent(now) and passed_s > 3 * self.interval_s + SILENT_S + self._line_s:
            return max(passed_s, self.interval_s)
        return (1 + self.owed.index(piece)) * self.interval_s
