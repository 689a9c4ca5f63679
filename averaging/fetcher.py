"""Fetching the pieces of a sparse exchange: whom to ask for what, and when to turn to somebody else.

A peer asks another for a few pieces at once, chosen among those that it named, from a place that the hash
of the blob's root and of our key gives, so that peers ask for different pieces. The owner of a blob hands
each piece out once of its own accord (`talkoot.averaging.handing`); it is asked, like clients and like
peers that kept us waiting in vain, only for *urgent* pieces: those that could not be had elsewhere in time.
A request that waits for its turn for long moves as soon as another holder is free.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from talkoot.averaging.known import Known, turn_of
from talkoot.averaging.messages import MAX_ASKED, Asked

PATIENT = 2.0
"""A request may take so many times longer than usual before another holder is asked."""

LONG_S = 0.5
"""A request has to wait for so long before the owner is asked for what a slow holder should pass on."""

PER_SECOND = 4
"""Pieces that a holder is asked for in addition for each second that answers usually take."""

SLOW = 3.0
"""A holder that takes so many times longer than usual is asked only for what nobody else has."""

Place = tuple[int, int]
"""(blob, piece)."""


@dataclass(slots=True)
class _Request:
    holder: bytes
    since: float
    waits: bool = False
    """The holder said that others come first."""


class Fetcher:
    """What one member lacks, and whom it asked. `take_changes` says which `Want` messages are due."""

    def __init__(self, known: Known, patience_s: float, now: float) -> None:
        self._known = known
        self._patience_s = patience_s
        self._wanted = [known.layout.all & ~blob.held for blob in known.blobs]
        self._urgent = [0] * len(known.blobs)
        self._news = [now] * len(known.blobs)
        """When each blob last made progress, here or elsewhere."""
        self._requests: dict[Place, _Request] = {}
        self._asked: dict[tuple[bytes, int], int] = {}
        """(holder, blob) -> pieces that it was ever asked for."""
        self._stalls: dict[bytes, int] = {}
        """How often in a row a holder let us wait in vain."""
        self._liars: set[bytes] = set()
        self._changed: set[bytes] = set()
        self._usual_s = 0.0
        """How long a request takes lately, whomever we ask."""
        self._took: dict[bytes, float] = {}
        """How long one takes with each holder."""
        numel = max(1, known.layout.num_pieces)
        turns = [turn_of(blob.header.root, known.key) for blob in known.blobs]
        self._start = [int.from_bytes(turn[:8], "little") % numel for turn in turns]
        self._order = sorted(range(len(known.blobs)), key=lambda number: turns[number])

    # -- events --------------------------------------------------------------------------------------

    def heard(self, holder: bytes, news: list[int], now: float) -> None:
        """A member named pieces that it did not name before."""
        for blob, mask in enumerate(news):
            if mask:
                self._news[blob] = now
        self._ask(holder, now)
        self._take_over(holder, now)
        self._turn_to_owners(now)

    def _take_over(self, holder: bytes, now: float) -> None:
        """Ask a holder that has nothing else for us for what waits elsewhere, as far as it may be asked."""
        for place, request in list(self._requests.items()):
            blob, piece = place
            has = self._known.has[holder][blob] >> piece & 1 and not self._is_last_resort(holder, blob)
            waits = request.waits and request.holder != holder and self._is_overdue(request, now)
            if has and waits and self._load(holder) < self._room(holder, now):
                self._move(place, holder, now)

    def _turn_to_owners(self, now: float) -> None:
        """What waits at a slow holder and nobody else passes on: its owner may be faster."""
        for place, request in list(self._requests.items()):
            owner = self._known.owners[place[0]]
            waited_s = now - request.since if request.waits else 0.0
            if waited_s < LONG_S or request.holder == owner or not self._is_slow(request.holder, now):
                continue
            fast = owner in self._known.has and owner in self._took and not self._is_slow(owner, now)
            if fast and self._load(owner) < self._room(owner, now):
                self._urgent[place[0]] |= 1 << place[1]
                self._move(place, owner, now)

    def must_wait(self, holder: bytes, place: Place, now: float) -> None:
        """A holder serves others first: turn to a free one, if there is any."""
        request = self._requests.get(place)
        if request is None or request.holder != holder:
            return
        request.waits = True
        others = [other for other in self._free_holders(*place, now) if other != holder]
        if others and self._is_overdue(request, now):
            self._move(place, others[0], now)

    def _move(self, place: Place, to: bytes, now: float) -> None:
        before = self._requests[place].holder
        self._withdraw(place)
        self._request(place, to, now)
        self._ask(before, now)

    def _is_overdue(self, request: _Request, now: float) -> bool:
        """Whether a request is better moved; too early, and its answer would often cross the withdrawal."""
        return now - request.since >= PATIENT * self._usual_s or self._is_slow(request.holder, now)

    def _is_slow(self, holder: bytes, now: float) -> bool:
        """Whether this holder takes much longer than is usual, as far as we know."""
        waiting = [now - request.since for request in self._requests.values() if request.holder == holder]
        took_s = max(self._took.get(holder, 0.0), *waiting, 0.0)
        return self._usual_s > 0 and took_s > SLOW * self._usual_s

    def _room(self, holder: bytes, now: float) -> int:
        """How many pieces a holder may be asked for at once: more where answers are long under way."""
        return 1 if self._is_slow(holder, now) else min(MAX_ASKED, 2 + int(PER_SECOND * self._usual_s))

    def arrived(self, sender: bytes, place: Place, now: float) -> None:
        """A piece is here, verified."""
        blob, piece = place
        self._wanted[blob] &= ~(1 << piece)
        self._news[blob] = now
        self._stalls.pop(sender, None)
        request = self._requests.pop(place, None)
        if request is not None:
            self._learn(request, sender, now)
            self._ask(request.holder, now)
        self._ask(sender, now)
        if sender in self._known.has:
            self._take_over(sender, now)
        self._turn_to_owners(now)

    def _learn(self, request: _Request, sender: bytes, now: float) -> None:
        """How long a request took."""
        if request.holder != sender:
            self._changed.add(request.holder)
            return
        seconds, before_s = now - request.since, self._took.get(sender)
        self._usual_s += 0.25 * (seconds - self._usual_s)
        self._took[sender] = seconds if before_s is None else before_s + 0.5 * (seconds - before_s)

    def lied(self, sender: bytes, place: Place, now: float) -> None:
        """A holder sent something else than what was signed: it is not asked again."""
        self._liars.add(sender)
        self._drop(sender)
        self._urgent[place[0]] |= 1 << place[1]
        self.ask_all(now)

    def lost(self, peer: bytes, now: float) -> None:
        """A member is gone (and `Known` knows it)."""
        self._drop(peer)
        self.ask_all(now)

    def _drop(self, holder: bytes) -> None:
        """Forget what a holder was asked for; it becomes urgent."""
        for place in [place for place, request in self._requests.items() if request.holder == holder]:
            del self._requests[place]
            self._urgent[place[0]] |= 1 << place[1]
        self._changed.discard(holder)

    def only(self, blobs: Iterable[int], now: float) -> None:
        """From now on nothing but these blobs matters."""
        keep = set(blobs)
        for blob in range(len(self._wanted)):
            if blob not in keep:
                self._wanted[blob] = 0
        for place in [place for place in self._requests if place[0] not in keep]:
            self._withdraw(place)
        self.ask_all(now)

    def tick(self, now: float) -> None:
        """Give up on holders that let us wait too long, and on news of blobs that does not come."""
        overdue = [(place, item.holder) for place, item in self._requests.items() if now >= self._due(item)]
        for place, _ in overdue:
            self._withdraw(place)
            self._urgent[place[0]] |= 1 << place[1]
        for holder in {holder for _, holder in overdue}:
            self._stalls[holder] = self._stalls.get(holder, 0) + 1
        for blob, wanted in enumerate(self._wanted):
            if wanted and now >= self._news[blob] + self._patience_s:
                self._urgent[blob] |= wanted
                self._news[blob] = now
        self.ask_all(now)

    @property
    def next_tick(self) -> float | None:
        """When `tick` is due."""
        dues = [self._due(request) for request in self._requests.values()]
        dues += [self._news[blob] + self._patience_s for blob, wanted in enumerate(self._wanted) if wanted]
        return min(dues, default=None)

    def _due(self, request: _Request) -> float:
        doublings = min(4, self._stalls.get(request.holder, 0))
        return request.since + self._patience_s * float(2**doublings)

    # -- asking --------------------------------------------------------------------------------------

    def was_asked(self, holder: bytes, place: Place) -> bool:
        """Whether a piece may come from this member: it was asked, or it hands out its own blob."""
        blob, piece = place
        return self._known.owners[blob] == holder or bool(self._asked.get((holder, blob), 0) >> piece & 1)

    def was_asked_for(self, holder: bytes, blob: int) -> bool:
        """Whether a blob's index may come from this member."""
        return self._known.owners[blob] == holder or (holder, blob) in self._asked

    def ask_all(self, now: float) -> None:
        """Ask whoever is free; those first that did not let us wait."""
        for holder in sorted(self._known.has, key=lambda key: (self._stalls.get(key, 0), key)):
            self._ask(holder, now)

    def _ask(self, holder: bytes, now: float) -> None:
        """Ask a holder for as much as it may be asked for."""
        if holder not in self._known.has or holder in self._liars:
            return
        while self._load(holder) < self._room(holder, now):
            place = self._choose(holder, now)
            if place is None:
                return
            self._request(place, holder, now)

    def _request(self, place: Place, holder: bytes, now: float) -> None:
        blob, piece = place
        self._requests[place] = _Request(holder, now)
        self._asked[holder, blob] = self._asked.get((holder, blob), 0) | 1 << piece
        self._changed.add(holder)

    def _choose(self, holder: bytes, now: float) -> Place | None:
        slow = self._is_slow(holder, now)
        for blob in self._order:
            mask = self._known.has[holder][blob] & self._wanted[blob]
            if mask and self._is_last_resort(holder, blob):
                mask &= self._urgent[blob]
            if mask and slow:
                mask &= ~self._known.union(blob, self._faster(blob, now)) | self._urgent[blob]
            for request in (item for item in self._requests if item[0] == blob) if mask else ():
                mask &= ~(1 << request[1])
            if mask:
                later = mask >> self._start[blob] << self._start[blob]
                return blob, ((later or mask) & -(later or mask)).bit_length() - 1
        return None

    def _is_last_resort(self, holder: bytes, blob: int) -> bool:
        known = self._known
        late = holder in known.clients or holder in self._stalls
        return known.eager or known.owners[blob] == holder or late

    def _faster(self, blob: int, now: float) -> list[bytes]:
        """Holders that can be expected to serve a blob's pieces soon."""
        return [
            holder
            for holder in self._known.has
            if not self._is_last_resort(holder, blob) and not self._is_slow(holder, now)
        ]

    def _free_holders(self, blob: int, piece: int, now: float) -> list[bytes]:
        return [
            holder
            for holder, masks in self._known.has.items()
            if masks[blob] >> piece & 1
            and holder not in self._liars
            and not self._is_last_resort(holder, blob)
            and self._load(holder) < self._room(holder, now)
        ]

    def _load(self, holder: bytes) -> int:
        return sum(1 for request in self._requests.values() if request.holder == holder)

    def _withdraw(self, place: Place) -> None:
        self._changed.add(self._requests.pop(place).holder)

    def take_changes(self) -> list[tuple[bytes, tuple[Asked, ...]]]:
        """Whom to send a new `Want`, and what it says."""
        changed, self._changed = self._changed, set()
        return [(holder, self._want_of(holder)) for holder in sorted(changed)]

    def _want_of(self, holder: bytes) -> tuple[Asked, ...]:
        return tuple(
            Asked(blob, piece, self._known.blobs[blob].index is None)
            for (blob, piece), request in self._requests.items()
            if request.holder == holder
        )
