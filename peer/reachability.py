"""Whether others can dial this node, by what they say of it, and which role follows from that. Pure.

Peers try it and answer yes or no (`talkoot.peer.probing`); the majority of those asked lately counts. One
that sees this node at a public address knows more than one in its own network.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from talkoot.dht.paths import Path
from talkoot.peer.options import Role

Reachability: TypeAlias = Literal["public", "private", "unknown"]
"""`public`: peers can dial this node. `private`: they cannot. `unknown`: nobody was asked, or they differ."""

REACHABILITIES: tuple[Reachability, ...] = get_args(Reachability)

Cause: TypeAlias = Literal["", "relayed"]
"""Why a node has another role than it was started with. `relayed`: nobody can dial it, and a peer that rounds
need is reached through a relay only."""

VOTE_S = 1800.0
"""An answer counts for so long."""

MAX_VOTES = 32
"""Answers of so many peers are kept, the last ones."""

ENOUGH = 3
"""So many answers of one mind are enough for a while."""


@dataclass(frozen=True, slots=True)
class _Vote:
    reached: bool
    far: bool
    at: float


class Votes:
    """What peers said, the last answer of each."""

    def __init__(self) -> None:
        self._votes: OrderedDict[bytes, _Vote] = OrderedDict()

    def note(self, peer: bytes, *, reached: bool, far: bool, now: float) -> None:
        """A peer tried to dial this node. `far`: it sees the node at a public address."""
        self._votes[peer] = _Vote(reached, far, now)
        self._votes.move_to_end(peer)
        if len(self._votes) > MAX_VOTES:
            self._votes.popitem(last=False)

    def forget(self) -> None:
        """This node is somewhere else now."""
        self._votes.clear()

    def state(self, now: float) -> Reachability:
        """What most of them say."""
        yes, no = self._counts(now)
        return "public" if yes > no else "private" if no > yes else "unknown"

    def is_settled(self, now: float) -> bool:
        """Whether asking more would hardly change anything."""
        yes, no = self._counts(now)
        return abs(yes - no) >= ENOUGH

    def _counts(self, now: float) -> tuple[int, int]:
        fresh = [vote for vote in self._votes.values() if now - vote.at < VOTE_S]
        counted = [vote for vote in fresh if vote.far] or fresh
        yes = sum(vote.reached for vote in counted)
        return yes, len(counted) - yes


def effective_role(wanted: Role, state: Reachability, paths: Mapping[bytes, Path]) -> tuple[Role, Cause]:
    """The role in the next round of a node that was started as `wanted`; `paths` are those to its partners.

    Who reduces is sent to by all others: that takes one that they can dial, or that is punched through to
    each.
    """
    if wanted == "full" and state != "public" and "relayed" in paths.values():
        return "client", "relayed"
    return wanted, ""


def advice(
    state: Reachability, *, refused_by: Literal["", "swarm", "node"], reservations: int, port: int
) -> str:
    """What a person could do about a node that nobody reaches; empty where nothing is wrong."""
    if state != "private" or (reservations and not refused_by):
        return ""
    opened = f"let TCP port {port} through the router to this machine" if port else "open a port"
    if refused_by == "swarm":
        return f"nobody can dial this peer, and its swarm refuses relayed peers (swarm.relayed): {opened}"
    if refused_by == "node":
        return f"nobody can dial this peer, and it refuses relays: {opened}, or run without --relayed refuse"
    return f"nobody can dial this peer, and no relay takes it: {opened}, or name a relay with --relay ADDR"
