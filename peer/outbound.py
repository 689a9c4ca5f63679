"""Whom a node stays connected to by its own choice. Pure.

Voters always: rounds need them, and certificates name them, so that no number of fresh keys gets a node to
forget them. Of the others only a few of each address prefix, since keys are free and addresses are not; the
rest find the node themselves, or are dialled when there is something to send.

What counts is the prefix that a peer was connected from. Of those that never were, only what they announce
is known, and an announcement may name anybody's addresses, or a false one before the true one. So who was
connected once comes first and is counted where it was seen, and what places are left go round among the
others (as feelers and the tables of tried and new addresses of Bitcoin Core do; Heilman et al. 2015,
"Eclipse attacks on Bitcoin's peer-to-peer network", countermeasures 2, 4 and 7). So an attacker keeps so
many places as it has prefixes times `OUTBOUND_PER_PREFIX`, and whoever cannot be reached keeps none for long.
"""

import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence

from blake3 import blake3

from talkoot.dht.limits import OUTBOUND_PER_PREFIX
from talkoot.dht.multiaddr import parse_address, prefix_of


def choose(
    candidates: Mapping[bytes, Sequence[str]],
    *,
    voters: frozenset[bytes],
    most: int,
    salt: bytes,
    seen: Mapping[bytes, str],
    turn: int = 0,
) -> frozenset[bytes]:
    """Which of the candidates, given with their announced addresses; at most so many.

    `seen` has the prefixes that peers were connected from; in each `turn` others of those that it has not are
    preferred. `salt` is the node's secret: nobody can make keys that it prefers.
    """

    def rank(key: bytes) -> tuple[bool, bool, bytes]:
        lot = b"" if key in voters or key in seen else turn.to_bytes(8, "big")
        return key not in voters, key not in seen, blake3(salt + lot + key).digest()

    chosen: list[bytes] = []
    taken: Counter[str] = Counter()
    for key in sorted(candidates, key=rank):
        prefix = None if key in voters else _prefix(key, candidates[key], seen)
        if len(chosen) < most and (prefix is None or taken[prefix] < OUTBOUND_PER_PREFIX):
            chosen.append(key)
            if prefix is not None:
                taken[prefix] += 1
    return frozenset(chosen)


def _prefix(key: bytes, announced: Sequence[str], seen: Mapping[bytes, str]) -> str | None:
    """Where a peer is counted; None: in a local network, in which all have one prefix.

    Seen from behind a router of ours, everybody may seem to be there: then the announcement counts.
    """
    place = seen.get(key)
    if place is not None and ipaddress.ip_network(place).is_global:
        return place
    return _public_prefix(announced)


def _public_prefix(addresses: Sequence[str]) -> str | None:
    """The prefix of its first public address; None where it has none but of a local network.

    Names and relays hide where a peer is: all of those count as one place each.
    """
    local = False
    for text in addresses:
        try:
            address = parse_address(text)
        except ValueError:
            continue
        if address.relay is not None:
            return "relay"
        if not address.kind.startswith("ip"):
            return "name"
        if ipaddress.ip_address(address.host).is_global:
            return prefix_of(address.to_bytes())
        local = True
    return None if local else "nowhere"
