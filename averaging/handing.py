"""Handing out the pieces of a sparse exchange: what a holder sends, to whom, and how much at once.

Few pieces are under way from a peer at once: `WINDOW[0]` at first, more as long as the median member
announces them soon. The pieces of its own blob a peer hands out unasked, each to one member only, which
then serves the others: first to those whose pieces are passed on, so that a slow relay gets little. So one
upload of its blob is enough. All else is served as asked for, members in turn. A blob that is small enough
is handed to everyone at once.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from talkoot.averaging.fetcher import Place
from talkoot.averaging.known import Known, turn_of
from talkoot.averaging.messages import Asked, MessageError

WINDOW = (2, 8)
"""Fewest and most pieces under way at once."""

SOON_S = 0.5
"""A piece that is announced within this was sent soon: the link can carry more at once."""

LATE = 4.0
"""A piece that takes so many times longer than usual does not hold up others any more."""

MAX_ALONE = 2
"""Pieces of our blob that one member may have alone while others wait for what we pass on."""

MIN_LATE_S = 0.25


@dataclass(frozen=True, slots=True)
class Serve:
    """Send a piece, and the index before it if need be."""

    to: bytes
    blob: int
    piece: int
    index: bool


class Handing:
    """What one member owes to others."""

    def __init__(self, known: Known, own: int | None, patience_s: float) -> None:
        """`own` is the number of our blob, None if we contribute nothing."""
        self._known = known
        self._own = own
        self._patience_s = patience_s
        self._usual_s = patience_s / (2 * LATE)
        """How long a piece is under way to the median member."""
        self._took: dict[bytes, float] = {}
        """And to each member, lately."""
        self._window = WINDOW[0]
        self._eager = known.eager
        self._queues: dict[bytes, list[Asked]] = {}
        self._turn: deque[bytes] = deque(known.others)
        self._serving: dict[tuple[bytes, int, int], float] = {}
        """(member, blob, piece) -> when it was sent."""
        self._stalled: set[bytes] = set()
        """Members that did not take what they were sent, and were not heard of since."""
        self._indexed: set[tuple[bytes, int]] = set()
        """(member, blob): it was sent the index."""
        self._own_first = True
        self._seen = 0.0
        """When `serve` last looked."""
        root = known.blobs[own].header.root if own is not None else b""
        self._receivers = sorted(known.others, key=lambda key: (key in known.clients, turn_of(root, key)))

    # -- events --------------------------------------------------------------------------------------

    def heard(self, member: bytes, news: Sequence[int], now: float) -> None:
        """A member named pieces: those need not be sent to it (any more)."""
        self._stalled.discard(member)
        for item in [item for item in self._serving if item[0] == member]:
            if news[item[1]] >> item[2] & 1:
                self._taken(member, now - self._serving.pop(item))
        if member in self._queues:
            has = self._known.has[member]
            left = [item for item in self._queues[member] if not has[item.blob] >> item.piece & 1]
            self._queues[member] = left

    def _taken(self, member: bytes, seconds: float) -> None:
        """A piece was under way for so long. That one member is slow says nothing about our uplink."""
        before_s = self._took.get(member, seconds)
        self._took[member] = before_s + 0.5 * (seconds - before_s)
        self._usual_s = median_low(self._took.values())
        step = 1 if self._usual_s <= SOON_S else -1
        self._window = min(max(self._window + step, WINDOW[0]), WINDOW[1])

    def want(self, member: bytes, pieces: Sequence[Asked]) -> None:
        """A member asks for pieces, in place of those that it asked for before. Raises MessageError."""
        if member not in self._known.has:
            raise MessageError("out_of_order", "a request of a member that did not say what it holds")
        for item in pieces:
            held = self._known.is_piece(item.blob, item.piece)
            if not held or not self._known.blobs[item.blob].held >> item.piece & 1:
                raise MessageError("unasked", "a request for a piece that we did not name")
        self._stalled.discard(member)
        self._queues[member] = [
            item for item in pieces if (member, item.blob, item.piece) not in self._serving
        ]

    def waiting(self, member: bytes) -> list[Place]:
        """What a member asked for and is not under way."""
        return [(item.blob, item.piece) for item in self._queues.get(member, ())]

    def lost(self, peer: bytes) -> None:
        """A member is gone."""
        self._queues.pop(peer, None)
        self._serving = {item: since for item, since in self._serving.items() if item[0] != peer}

    def keep_own(self, counted: bool) -> None:
        """The cut is fixed; a blob that is not in it is not handed out any more."""
        if not counted:
            self._own = None

    # -- serving -------------------------------------------------------------------------------------

    @property
    def next_tick(self) -> float | None:
        """When something under way becomes late, or counts as lost."""
        late_s, lost_s = self._late_s, 2 * self._patience_s
        dues = [
            since + late_s if since + late_s > self._seen else since + lost_s
            for since in self._serving.values()
        ]
        return min(dues, default=None)

    @property
    def _late_s(self) -> float:
        return max(MIN_LATE_S, LATE * self._usual_s)

    def serve(self, now: float) -> list[Serve]:
        """What is to be sent now."""
        self._seen = now
        for item, since in list(self._serving.items()):
            if now >= since + 2 * self._patience_s:
                del self._serving[item]
                self._stalled.add(item[0])
        out: list[Serve] = []
        while (chosen := self._next(now)) is not None:
            self._own_first = not self._own_first
            self._serving[chosen.to, chosen.blob, chosen.piece] = now
            self._indexed.add((chosen.to, chosen.blob))
            out.append(chosen)
        return out

    def _next(self, now: float) -> Serve | None:
        """Own pieces and requests in turn, as long as there are both; own ones first on a slow uplink."""
        if self._eager and (own := self._own_piece()) is not None:
            return own
        if sum(1 for since in self._serving.values() if now < since + self._late_s) >= self._window:
            return None
        if self._own_first or self._usual_s > SOON_S:
            return self._own_piece(MAX_ALONE) or self._requested() or self._own_piece()
        return self._requested() or self._own_piece()

    def _may_send(self, member: bytes) -> bool:
        """Whether one member may get one more piece: no single one takes all places."""
        if member not in self._known.has or member in self._stalled:
            return False
        share = max(1, self._window // len(self._known.has))
        return self._eager or sum(1 for item in self._serving if item[0] == member) < share

    def _requested(self) -> Serve | None:
        for _ in range(len(self._turn)):
            member = self._turn[0]
            self._turn.rotate(-1)
            queue = self._queues.get(member)
            if queue and self._may_send(member):
                item = queue.pop(0)
                return self._serve(member, item.blob, item.piece, item.index)
        return None

    def _serve(self, member: bytes, blob: int, piece: int, index: bool) -> Serve:
        return Serve(member, blob, piece, index or not self._has_index(member, blob))

    def _has_index(self, member: bytes, blob: int) -> bool:
        return (member, blob) in self._indexed or bool(self._known.has[member][blob])

    def _own_piece(self, max_alone: int | None = None) -> Serve | None:
        """The next piece of our blob that nobody has, and who is to get it.

        With `max_alone`: a member that has so many of our pieces alone gets no more.
        """
        own = self._own
        if own is None:
            return None
        due = None if self._eager else self._due(own)
        if due == 0:
            return None
        there = [member for member in self._receivers if member in self._known.has]
        relays = [member for member in there if member not in self._known.clients]
        spread = self._spread(own)
        best: tuple[int, bytes, int] | None = None
        for member in there if self._eager or not relays else relays:
            alone = (self._known.has[member][own] & ~spread).bit_count()
            if (max_alone is not None and alone >= max_alone) or (best is not None and alone >= best[0]):
                continue
            if self._may_send(member) and (mask := self._due(own, member) if due is None else due):
                best = alone, member, (mask & -mask).bit_length() - 1
        return self._serve(best[1], own, best[2], False) if best is not None else None

    def _due(self, own: int, member: bytes | None = None) -> int:
        """Pieces of our blob that this member, or else anybody, has not got yet."""
        under_way = 0
        for to, blob, piece in self._serving:
            if blob == own and member in (None, to):
                under_way |= 1 << piece
        taken = self._known.union(own, self._known.has) if member is None else self._known.has[member][own]
        return self._known.layout.all & ~taken & ~under_way

    def _spread(self, own: int) -> int:
        """Pieces of our blob that at least two members have."""
        once = twice = 0
        for masks in self._known.has.values():
            twice |= once & masks[own]
            once |= masks[own]
        return twice
