"""Whom this node vouches for as a new voter: its own opinion, which acts through votes alone. Pure.

Keys are free and addresses are not: a quorum of voters must not sit in one network. What counts is where a
peer was connected from, not what it announces.
"""

import ipaddress
from collections.abc import Collection, Mapping

from talkoot.averaging.quorum import max_faulty


def vouches(candidate: bytes, voters: Collection[bytes], seen: Mapping[bytes, str]) -> bool:
    """Whether with this one no more voters are of its address prefix than may lie, but one at least.

    `seen` has the prefixes that peers were connected from. We have nothing against whom we never saw, or who
    is in a network of our own, where all have one prefix.
    """
    place = seen.get(candidate)
    if place is None or not ipaddress.ip_network(place).is_global:
        return True
    neighbours = sum(1 for voter in voters if seen.get(voter) == place)
    return neighbours + 1 <= max(1, max_faulty(len(voters) + 1))
