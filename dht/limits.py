"""How many channels may be open: per peer and protocol, and for the whole node."""

from collections import Counter

from talkoot.dht.network import ProtocolSpec


class ChannelLimits:
    """Counts accepted channels. Pure."""

    def __init__(self, max_channels: int) -> None:
        self._max_channels = max_channels
        self._open: Counter[tuple[bytes, str]] = Counter()
        self._total = 0

    def enter(self, peer: bytes, spec: ProtocolSpec) -> bool:
        """Count one more channel, unless a limit is reached: then False."""
        scope = (peer, spec.name)
        if self._total >= self._max_channels or self._open[scope] >= spec.max_channels_per_peer:
            return False
        self._open[scope] += 1
        self._total += 1
        return True

    def leave(self, peer: bytes, spec: ProtocolSpec) -> None:
        """One channel that `enter` admitted is gone."""
        scope = (peer, spec.name)
        self._total -= 1
        self._open[scope] -= 1
        if not self._open[scope]:
            del self._open[scope]
