"""Voters that do not know what they signed before: who may make a round final, and whom they hold up.

A voter that lost its journal may have committed a value that is final somewhere, and could sign another one.
So it says in its join that its memory is gone, and keeps silent in rounds that others can make final. It
speaks where they cannot, in these cases only:

* Whatever was final before would show itself as a lock of those who remember: even if all who do not, all who
  are away, and f liars signed it, they were no quorum.
* A quorum of the voters began with an empty state directory, from a checkpoint or from what others kept.
  Nobody can know more than they do, and a quorum decides.

A weak vote binds nobody and never locks, so weak rounds need no memory.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from talkoot.averaging.quorum import max_faulty, quorum

Memory = Literal["whole", "lost", "restored"]
"""`lost`: the journal is gone, the state was there. `restored`: somebody started an empty state directory
with the old key, and vouches for the state that it begins with."""


def deciding(voters: Collection[bytes], members: Mapping[bytes, Memory]) -> frozenset[bytes]:
    """Which voters may make a round final, of a roster whose members say this of their memory."""
    needed = quorum(len(voters))
    there = frozenset(voter for voter in voters if voter in members)
    whole = frozenset(voter for voter in there if members[voter] == "whole")
    if len(whole) >= needed:
        return whole
    silent = len(voters) - len(whole)
    if silent + max_faulty(len(voters)) < needed:
        return there
    restored = frozenset(voter for voter in there if members[voter] == "restored")
    return whole | restored if len(restored) >= needed else whole


def shows_all(locked: int | None, shown: Iterable[int]) -> bool:
    """Whether a roster goes on with the highest lock that its members show; all are attempts."""
    highest = max(shown, default=None)
    return highest is None or (locked is not None and locked >= highest)
