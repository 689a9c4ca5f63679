"""What became of a contribution on the chain of certificates that a peer follows now.

A function of the contribution and the chain alone: a peer that moves to another branch asks again and gets
the answers of that branch.
"""

from collections.abc import Callable
from typing import Literal

from talkoot.averaging.certificate import Certificate, Contribution

Fate = Literal["open", "counted", "left_out", "unknown"]
"""open: its round is the next one. left_out: its round went by without it, or belongs to another branch.
unknown: the certificate of its round is not to be had."""


def fate_of(
    contribution: Contribution, head: Certificate, certificate_of: Callable[[int], Certificate | None]
) -> Fate:
    """The fate of our own contribution on the chain that ends with `head`.

    `certificate_of` gives the chain's certificate of a round, None where it is not known.
    """
    if contribution.prior == head.value.digest:
        return "open"
    if contribution.round > head.value.round:
        return "left_out"
    certificate = certificate_of(contribution.round)
    if certificate is None:
        return "unknown"
    if certificate.value.prior != contribution.prior:
        return "left_out"
    cut = certificate.value.cut
    mine = any((item.key, item.root) == (contribution.key, contribution.root) for item in cut)
    return "counted" if mine else "left_out"
