"""The codecs of the next round, as dense as the links allow (`codec = "auto"` in the manifest).

A ladder leads from dense to sparse. After each round the swarm stays on its rung or moves to the next one,
so that the exchange keeps within a share of the round on the slowest uplink. What decides are the signed
claims in the cut, so all peers come to the same rung; integers and fractions, so they do so exactly. A liar
can bring others to another rung, by one a round, and nothing else.
"""

from collections.abc import Sequence
from fractions import Fraction
from statistics import median_low
from typing import Literal

from talkoot.averaging.certificate import Contribution
from talkoot.averaging.contribution import encoded_bytes
from talkoot.averaging.deadlines import SLOWEST_CLAIM
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.rules import Adaptive, Rules, Rung

LADDERS: dict[Literal["dense", "sparse"], tuple[Rung, ...]] = {
    "dense": (
        ("int8", "int8"),
        ("lloyd4", "int8"),
        ("lloyd4", "lloyd4"),
        ("lloyd2", "lloyd4"),
        ("topk:256", "lloyd4"),
    ),
    "sparse": (
        ("int8", "int8"),
        ("lloyd4", "int8"),
        ("lloyd2", "int8"),
        ("topk:512", "int8"),
        ("topk:256", "int8"),
        ("topk:128", "int8"),
        ("topk:64", "int8"),
    ),
}
"""(codec, aggregate codec), most exact first. Nobody feeds back what an aggregate loses, so it keeps 4 bits;
the sparse exchange encodes none."""

WARM = 4
"""In the first rounds the exchange may take so many times its share."""

MARGIN = Fraction(3, 4)
"""A denser rung is taken when it needs no more than this part of what is allowed: measurements vary."""

FIRST_UPLOAD = 1_250_000
"""Bytes/s that the first round reckons with: 10 Mbit/s, a slow home connection."""

FIRST_PEERS = 8
"""Contributions that the first round reckons with."""


def rungs_of(exchange: Literal["dense", "sparse"], aggregate_codec: str = "auto") -> tuple[Rung, ...]:
    """The ladder of an exchange, with its own aggregate codecs (`auto`) or the same one on all rungs."""
    rungs = LADDERS[exchange]
    if aggregate_codec != "auto":
        rungs = tuple((codec, aggregate_codec) for codec, _ in rungs)
    return tuple(dict.fromkeys(rungs))


def first_rung(rules: Rules) -> Rung:
    """Where a new swarm begins: the densest rung that its deadlines allow on slow connections."""
    adaptive = rules.adaptive
    assert adaptive is not None
    for rung in adaptive.rungs:
        if _in_time(_ways_ms(rung, [FIRST_UPLOAD], FIRST_PEERS, rules), adaptive):
            return rung
    return adaptive.rungs[-1]


def next_rung(
    ledger: Ledger, cut: Sequence[Contribution], weighing: Sequence[Contribution], rules: Rules
) -> Rung:
    """Codec and aggregate codec after a round with this cut, of which only what is `weighing` is believed.

    Nobody's uplink or steps measured: no change.
    """
    rung = (ledger.codec, ledger.aggregate_codec)
    adaptive = rules.adaptive
    uploads = [item.upload for item in weighing if item.upload > 0]
    lengths = [item.milliseconds for item in weighing if item.milliseconds > 0]
    if adaptive is None or rung not in adaptive.rungs or not uploads or not lengths:
        return rung
    warm = WARM if ledger.round + 1 < adaptive.warm_rounds else 1
    allowed_ms = Fraction(adaptive.share) * warm * median_low(lengths)

    def fits(at: int, part: Fraction) -> bool:
        ways = _ways_ms(adaptive.rungs[at], uploads, max(2, len(cut)), rules)
        return sum(ways) <= part * allowed_ms and _in_time(ways, adaptive, part)

    at = adaptive.rungs.index(rung)
    if not fits(at, Fraction(1)):
        return adaptive.rungs[min(at + 1, len(adaptive.rungs) - 1)]
    return adaptive.rungs[at - 1] if at > 0 and fits(at - 1, MARGIN) else rung


def _in_time(ways_ms: tuple[Fraction, Fraction], adaptive: Adaptive, part: Fraction = Fraction(1)) -> bool:
    """Whether both ways take no more than this part of half of their deadlines."""
    limits = (adaptive.exchange_ms, adaptive.certify_ms)
    return all(2 * way <= part * limit for way, limit in zip(ways_ms, limits, strict=True))


def _ways_ms(rung: Rung, uploads: Sequence[int], num_peers: int, rules: Rules) -> tuple[Fraction, Fraction]:
    """Milliseconds that contributions, and then aggregates, take on uplinks of so many bytes a second.

    dense: with equal parts everybody sends (n-1)/n vectors each way (Patarasuk and Yuan 2009), so the slowest
    is last; parts by bandwidth are no slower. sparse: the slowest sends its blob once, and as n (n-1) blobs
    are sent in all, the median peer about n - 1.
    """
    median = median_low(uploads)
    slowest = max(Fraction(min(uploads)), median / Fraction(SLOWEST_CLAIM))
    there, back = (1000 * encoded_bytes(rules, name) for name in rung)
    if rules.exchange == "sparse":
        return max(there / slowest, Fraction((num_peers - 1) * there, median)), Fraction(0)
    share = Fraction(num_peers - 1, num_peers)
    return share * there / slowest, share * back / slowest
