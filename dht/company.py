"""Whom a node chose to be connected with, whom it refuses, and where peers were seen. Pure."""

from collections import OrderedDict
from collections.abc import Callable, Mapping

from talkoot.dht.limits import MAX_DIALLED, MAX_PLACES


class Company:
    """The node's own choice, which no inbound peer can change."""

    def __init__(self) -> None:
        self.wanted: frozenset[bytes] = frozenset()
        """Peers that rounds need; set by the layer above."""
        self.banned: frozenset[bytes] = frozenset()
        """Changed by `Network.ban` only."""
        self.distrusted: frozenset[bytes] = frozenset()
        """Peers that are strangers, whatever we chose before."""
        self.refuses_relayed = False
        """Whether nothing goes through relays, to us or from us."""
        self.busy: Callable[[], bool] = lambda: False
        """Whether a round is being exchanged: connections that work are left alone meanwhile."""
        self._dialled: OrderedDict[bytes, None] = OrderedDict()
        self._places: OrderedDict[bytes, str] = OrderedDict()

    def dialled(self, peer: bytes) -> None:
        """We opened a channel to it."""
        self._dialled[peer] = None
        self._dialled.move_to_end(peer)
        if len(self._dialled) > MAX_DIALLED:
            self._dialled.popitem(last=False)

    def seen(self, peer: bytes, prefix: str) -> None:
        """A connection of this peer has the other end in this address prefix, whatever it announces."""
        self._places[peer] = prefix
        self._places.move_to_end(peer)
        while len(self._places) > MAX_PLACES:
            known = (other for other in self._places if other not in self.wanted)
            del self._places[next(known, peer)]

    @property
    def places(self) -> Mapping[bytes, str]:
        """By peer, where it was seen last."""
        return self._places

    def is_wanted(self, peer: bytes) -> bool:
        """Whether rounds need it: its channels and messages have places that no stranger gets."""
        return peer in self.wanted and peer not in self.banned and peer not in self.distrusted

    def is_chosen(self, peer: bytes) -> bool:
        """Whether rounds need it or we dialled it lately: its connection is not closed for others'.

        Anybody can announce itself and be dialled, so being dialled gives no more than that.
        """
        refused = peer in self.banned or peer in self.distrusted
        return (peer in self.wanted or peer in self._dialled) and not refused
