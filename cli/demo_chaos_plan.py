"""Which fault comes when, to whom and for how long, from a seed. Pure: the caller has the clock and tools."""

import random
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal

Need = Literal["nothing", "disk", "network"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault."""

    words: str
    """What happens to the peer."""
    lasts_s: tuple[float, float]
    """Shortest and longest time until it is taken back."""
    need: Need = "nothing"
    """`disk`: a file system of the peer's own; `network`: a network namespace of its own."""


KINDS: dict[str, Kind] = {
    "kill": Kind("SIGKILL to daemon, p2pd and trainer; then a new start", (1.0, 3.0)),
    "freeze": Kind("SIGSTOP to daemon, p2pd and trainer; then SIGCONT", (3.0, 10.0)),
    "p2pd": Kind("SIGKILL to p2pd", (0.0, 0.0)),
    "trainer": Kind("SIGKILL to the trainer", (0.0, 0.0)),
    "disk": Kind("its disk is full", (3.0, 10.0), "disk"),
    "link": Kind("its network link is down", (3.0, 10.0), "network"),
    "mute": Kind("nothing that it sends arrives; it hears everybody", (3.0, 10.0), "network"),
    "slow": Kind("it sends 128 kbit/s", (5.0, 15.0), "network"),
}

Fault = tuple[str, int, float]
"""(kind, peer, seconds that it lasts)"""


def most_at_once(peers: int) -> int:
    """Peers that are under a fault at the same time: what a quorum can do without, but one at least."""
    return max(1, (peers - 1) // 3)


class Schedule:
    """Faults with exponential gaps. The same seed draws the same gaps, kinds, peers and lengths; a peer that
    is busy with a fault already is passed over for the next one."""

    def __init__(self, *, seed: int, gap_s: float, kinds: Sequence[str], peers: int, now: float) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - no secret
        self._gap_s = gap_s
        self._kinds = tuple(kinds)
        self._peers = peers
        self.next_at = now + self._rng.expovariate(1 / gap_s)

    def due(self, now: float, busy: Set[int]) -> Fault | None:
        """The next fault if its time has come and it has a victim. `busy`: who is not to be struck now."""
        if now < self.next_at or len(busy) >= most_at_once(self._peers):
            return None
        self.next_at += self._rng.expovariate(1 / self._gap_s)
        kind = self._rng.choice(self._kinds)
        peer = self._rng.randrange(self._peers)
        lasts_s = self._rng.uniform(*KINDS[kind].lasts_s)
        while peer in busy:
            peer = (peer + 1) % self._peers
        return kind, peer, lasts_s
