"""Whom a node chose to be connected with, and whom it refuses. Pure."""

from collections import OrderedDict

_MAX_DIALLED = 256
# Peers dialled lately that count as chosen: some may not be wanted for rounds yet.


class Company:
    """The node's own choice, which no inbound peer can change."""

    def __init__(self) -> None:
        self.wanted: frozenset[bytes] = frozenset()
        """Peers that rounds need; set by the layer above."""
        self.banned: frozenset[bytes] = frozenset()
        """Changed by `Network.ban` only."""
        self.distrusted: frozenset[bytes] = frozenset()
        """Peers that are strangers, whatever we chose before."""
        self._dialled: OrderedDict[bytes, None] = OrderedDict()

    def dialled(self, peer: bytes) -> None:
        """We opened a channel to it."""
        self._dialled[peer] = None
        self._dialled.move_to_end(peer)
        if len(self._dialled) > _MAX_DIALLED:
            self._dialled.popitem(last=False)

    def is_chosen(self, peer: bytes) -> bool:
        """Whether it uses places that are kept free of strangers."""
        refused = peer in self.banned or peer in self.distrusted
        return (peer in self.wanted or peer in self._dialled) and not refused
