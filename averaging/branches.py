"""Which of two branches to follow.

Branches are compared from their last common certificate on: final beats weak; of two weak ones the one
that more distinct voters of the last common final round have signed, and only for strictly more; between
exact halves the lower digest. Claimed work and length decide nothing. A weak certificate may name any
voters, so what follows one is final only if a quorum of the last common final round's voters signed it.

Weak rounds are for those who have no quorum. One voter can make them alone, whenever it likes and of
whatever it likes; so nobody follows them who has a quorum beside it that stays where it is (`outvoted`).
"""

from collections.abc import Collection, Sequence
from typing import Literal

from talkoot.averaging.certificate import Certificate
from talkoot.averaging.quorum import quorum

Choice = Literal["ours", "theirs"]


def _signers(branch: Sequence[Certificate], voters: tuple[bytes, ...]) -> set[bytes]:
    return {vote.voter for certificate in branch for vote in certificate.votes} & set(voters)


def _is_final(certificate: Certificate, voters: tuple[bytes, ...]) -> bool:
    return certificate.kind == "final" and len(_signers([certificate], voters)) >= quorum(len(voters))


def _has_final(branch: Sequence[Certificate], voters: tuple[bytes, ...]) -> bool:
    return any(_is_final(certificate, voters) for certificate in branch)


def loose_end(
    branch: Sequence[Certificate], voters: tuple[bytes, ...]
) -> tuple[list[Certificate], tuple[bytes, ...]]:
    """What of a branch no final round follows, and the voters of its last final one; `voters` are those of
    the final round before the branch."""
    end = 0
    for number, certificate in enumerate(branch):
        if _is_final(certificate, voters):
            end, voters = number + 1, certificate.value.voters
    return list(branch[end:]), voters


def outvoted(weak: Sequence[Certificate], voters: tuple[bytes, ...], here: Collection[bytes]) -> bool:
    """Whether these weak rounds are left to who made them: a quorum of `voters` is `here`, before them, and
    signed none. So at most as many did as may lie (`max_faulty`), and those here do without them: with the
    next final round, or with weak ones of more voters."""
    return bool(weak) and len((set(voters) & set(here)) - _signers(weak, voters)) >= quorum(len(voters))


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
