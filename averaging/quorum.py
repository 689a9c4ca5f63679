"""How many voters decide, and who leads which attempt.

Of n voters at most f = floor((n - 1) / 3) may lie, and a quorum is floor((n + f) / 2) + 1: any two quorums
share at least f + 1 voters, one of them honest (Castro and Liskov 1999; Yin et al. 2019).
"""

from collections.abc import Iterable, Sequence

from blake3 import blake3


def max_faulty(num_voters: int) -> int:
    """Most voters that may lie without breaking agreement."""
    return (num_voters - 1) // 3


def quorum(num_voters: int) -> int:
    """Signatures that decide: 1 of 1, 2 of 2, 2 of 3, 3 of 4, 5 of 7."""
    if num_voters < 1:
        raise ValueError("there is no quorum of nobody")
    return (num_voters + max_faulty(num_voters)) // 2 + 1


def leader_order(voters: Iterable[bytes], prior: bytes) -> list[bytes]:
    """Voters in the order in which they lead attempts of the round that follows digest `prior`.

    The order changes with every round and depends on nothing that a voter chooses alone.
    """
    return sorted(voters, key=lambda key: blake3(prior + key).digest())


def leader_of(order: Sequence[bytes], attempt: int) -> bytes:
    """Leader of an attempt: the voters take turns."""
    return order[attempt % len(order)]
