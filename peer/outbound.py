"""Whom a node stays connected to by its own choice. Pure.

Voters always: rounds need them, and certificates name them, so that no number of fresh keys gets a node to
forget them. Of the others only a few of each address prefix, since keys are free and addresses are not; the
rest find the node themselves, or are dialled when there is something to send.
"""

import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence

from blake3 import blake3

from talkoot.dht.limits import OUTBOUND_PER_PREFIX
from talkoot.dht.multiaddr import parse_address, prefix_of


def choose(
    candidates: Mapping[bytes, Sequence[str]], *, voters: frozenset[bytes], most: int, salt: bytes
) -> frozenset[bytes]:
    """Which of the candidates, given with their announced addresses; at most so many.

    `salt` is the node's secret: nobody can make keys that it prefers. A peer that announces a false address
    cannot be dialled there.
    """
    order = sorted(candidates, key=lambda key: (key not in voters, blake3(salt + key).digest()))
    chosen: list[bytes] = []
    taken: Counter[str] = Counter()
    for key in order:
        prefix = None if key in voters else _public_prefix(candidates[key])
        if len(chosen) < most and (prefix is None or taken[prefix] < OUTBOUND_PER_PREFIX):
            chosen.append(key)
            if prefix is not None:
                taken[prefix] += 1
    return frozenset(chosen)


def _public_prefix(addresses: Sequence[str]) -> str | None:
    """The prefix of its first address; None where that is of a local network, in which all have one.

    Names and relays hide where a peer is: all of those count as one place each.
    """
    for text in addresses:
        try:
            address = parse_address(text)
        except ValueError:
            continue
        if address.relay is not None:
            return "relay"
        if not address.kind.startswith("ip"):
            return "name"
        if not ipaddress.ip_address(address.host).is_global:
            return None
        return prefix_of(address.to_bytes())
    return "nowhere"
