"""Which of two branches to follow.

Branches are compared from their last common certificate on: final beats weak; of two weak ones the one
that more distinct voters of the last common final round have signed, and only for strictly more; between
exact halves the lower digest. Claimed work and length decide nothing. A weak certificate may name any
voters, so what follows one is final only if a quorum of the last common final round's voters signed it.
"""

from collections.abc import Sequence
from typing import Literal

from talkoot.averaging.certificate import Certificate
from talkoot.averaging.quorum import quorum

Choice = Literal["ours", "theirs"]


def _signers(branch: Sequence[Certificate], voters: tuple[bytes, ...]) -> set[bytes]:
    return {vote.voter for certificate in branch for vote in certificate.votes} & set(voters)


def _has_final(branch: Sequence[Certificate], voters: tuple[bytes, ...]) -> bool:
    needed = quorum(len(voters))
    return any(
        certificate.kind == "final" and len(_signers([certificate], voters)) >= needed
        for certificate in branch
    )


def choose(
    ours: Sequence[Certificate], theirs: Sequence[Certificate], voters: tuple[bytes, ...]
) -> tuple[Choice, str]:
    """Choose between two verified continuations of the same final certificate, which named `voters`.

    Either may be empty. Returns the choice and the reason. Where one continues the other, it is chosen.
    """
    common = 0
    for mine, other in zip(ours, theirs, strict=False):
        if mine.value.hash != other.value.hash:
            break
        common += 1
    if common == len(theirs):
        return "ours", "theirs is part of ours"
    if common == len(ours):
        return "theirs", "theirs continues ours"
    mine_rest, their_rest = ours[common:], theirs[common:]
    mine_final, theirs_final = _has_final(mine_rest, voters), _has_final(their_rest, voters)
    if mine_final != theirs_final:
        return ("ours", "ours is final") if mine_final else ("theirs", "theirs is final")
    mine_votes, their_votes = _signers(mine_rest, voters), _signers(their_rest, voters)
    if len(their_votes) != len(mine_votes):
        more = len(their_votes) > len(mine_votes)
        return ("theirs", "more voters signed theirs") if more else ("ours", "more voters signed ours")
    lower = their_rest[0].value.digest < mine_rest[0].value.digest
    return ("theirs", "lower digest") if lower else ("ours", "lower digest")
