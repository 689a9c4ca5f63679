"""What became of a contribution is read off the chain."""

from averaging_help import PRIOR, certify, make_contribution, make_value, peers

from talkoot.averaging.certificate import Certificate
from talkoot.averaging.fate import fate_of

US, OTHER = peers(2)
MINE = make_contribution(US)
OTHERS = make_contribution(OTHER)


def certificate(*cut: object, prior: bytes = PRIOR, number: int = 5) -> Certificate:
    value = make_value([OTHER], [OTHER], prior=prior, round=number, cut=cut)
    return certify(value, [OTHER])


def fate(head: Certificate, *before: Certificate) -> str:
    chain = {item.value.round: item for item in (*before, head)}
    return fate_of(MINE, head, chain.get)


def test_counted_by_the_round_that_it_was_for() -> None:
    assert fate(certificate(OTHERS, MINE)) == "counted"
    assert fate(certificate(OTHERS, number=6), certificate(MINE)) == "counted"


def test_left_out() -> None:
    assert fate(certificate(OTHERS)) == "left_out"
    assert fate(certificate(OTHERS, MINE, prior=b"x" * 32)) == "left_out"  # of another branch
    assert fate(certificate(OTHERS, number=3)) == "left_out"  # that branch has not come so far


def test_another_contribution_of_ours_is_not_this_one() -> None:
    clone = make_contribution(US, root=b"c" * 32)
    assert fate(certificate(clone)) == "left_out"


def test_open_until_its_round_is_over() -> None:
    value = make_value([OTHER], [OTHER], round=4, prior=b"b" * 32, digest=PRIOR)
    assert fate(certify(value, [OTHER])) == "open"


def test_unknown_without_the_certificate() -> None:
    assert fate(certificate(OTHERS, number=6)) == "unknown"
