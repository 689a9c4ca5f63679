"""A certificate convinces whoever knows its voters, and nothing else does."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from averaging_help import (
    PRIOR,
    SWARM,
    certify,
    keys_of,
    make_contribution,
    make_value,
    peers,
    prepared,
    sign_votes,
)
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from round_swarm import ToySigner, toy_verify

from talkoot.averaging.certificate import (
    MAX_CERTIFICATE_BYTES,
    MAX_CONTRIBUTIONS,
    MAX_NORM2,
    Certificate,
    CertificateError,
    Signature,
    check_certificate,
    check_chain,
    check_genesis,
    check_value,
    decode_certificate,
    genesis,
    weakly,
)
from talkoot.averaging.ledger import MAX_VOTERS

FOUR = peers(4)
ALL = keys_of(FOUR)
VALUE = make_value(FOUR, FOUR)


def replace(item: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(item, **changes)


def reason_of(check: Callable[[], object]) -> str:
    with pytest.raises(CertificateError) as caught:
        check()
    return caught.value.reason


def refused(certificate: Certificate, voters: tuple[bytes, ...] = ALL) -> str:
    return reason_of(lambda: check_certificate(certificate, voters, toy_verify))


def test_a_quorum_convinces_whoever_signed() -> None:
    for absent in range(4):
        by = [signer for index, signer in enumerate(FOUR) if index != absent]
        check_certificate(certify(VALUE, by), ALL, toy_verify)
        check_certificate(certify(VALUE, by[::-1]), ALL, toy_verify)
    check_certificate(certify(VALUE, FOUR), ALL, toy_verify)


def test_bytes_read_back() -> None:
    certificate = certify(VALUE, FOUR)
    assert decode_certificate(certificate.encode()) == certificate
    assert decode_certificate(certificate.encode()).value.hash == VALUE.hash


def test_too_few_votes() -> None:
    assert refused(certify(VALUE, FOUR[:2])) == "no_quorum"
    assert refused(certify(VALUE, [])) == "no_quorum"


def test_repeated_votes() -> None:
    assert refused(certify(VALUE, [FOUR[0], FOUR[1], FOUR[1]])) == "repeated_vote"
    again = sign_votes(VALUE, FOUR[:3])
    assert refused(replace(certify(VALUE, []), votes=(*again, again[0]))) == "repeated_vote"


def test_foreign_votes() -> None:
    stranger = ToySigner(99)
    assert refused(certify(VALUE, [*FOUR[:2], stranger])) == "not_a_voter"
    assert refused(certify(VALUE, [*FOUR, stranger])) == "not_a_voter"
    assert refused(certify(VALUE, FOUR[:3]), keys_of(peers(8)[4:])) == "not_a_voter"


def test_forged_votes() -> None:
    good = certify(VALUE, FOUR[:3])
    forged = Signature(good.votes[2].voter, bytes(64))
    assert refused(replace(good, votes=(*good.votes[:2], forged))) == "signature"
    borrowed = Signature(FOUR[3].key, good.votes[2].signature)
    assert refused(replace(good, votes=(*good.votes[:2], borrowed))) == "signature"
    assert refused(replace(good, votes=(*good.votes, Signature(FOUR[3].key, b"")))) == "signature"


OTHER_VALUES: dict[str, dict[str, Any]] = {
    "digest": {"digest": bytes(32)},
    "prior": {"prior": bytes(32)},
    "round": {"round": 6},
    "swarm": {"swarm": bytes(32)},
    "voters": {"voters": ALL[:3]},
    "present": {"present": ALL[:3]},
    "cut": {"cut": VALUE.cut[:3]},
}


@pytest.mark.parametrize("changed", OTHER_VALUES)
def test_votes_are_about_every_field(changed: str) -> None:
    other = make_value(FOUR, FOUR, **OTHER_VALUES[changed])
    assert other.hash != VALUE.hash
    assert refused(replace(certify(VALUE, FOUR), value=other)) == "signature"


def test_votes_are_about_one_attempt_phase_and_strength() -> None:
    good = certify(VALUE, FOUR)
    assert refused(replace(good, attempt=1)) == "signature"
    prepares = sign_votes(VALUE, FOUR, phase="prepare")
    assert refused(replace(good, votes=prepares)) == "signature"
    assert refused(replace(good, weak=True)) == "signature"
    assert refused(replace(certify(VALUE, FOUR, weak=True), weak=False)) == "signature"


def test_a_weak_certificate_needs_a_quorum_of_the_voters_that_were_present() -> None:
    value = make_value(FOUR[:2], FOUR)
    weak = certify(value, FOUR[:2], weak=True)
    check_certificate(weak, ALL, toy_verify)
    assert weak.kind == "weak"
    assert refused(certify(value, FOUR[:1], weak=True)) == "no_quorum"
    assert refused(certify(value, FOUR[:2])) == "no_quorum"
    assert refused(certify(value, [FOUR[0], FOUR[2]], weak=True)) == "not_a_voter"
    nobody = make_value([ToySigner(99)], FOUR)
    assert refused(certify(nobody, [], weak=True)) == "no_quorum"


def test_who_is_locked_may_go_on_weakly_with_the_prepares_of_a_quorum() -> None:
    lock = prepared(VALUE, FOUR[:3], attempt=2)
    weak = weakly(lock)
    check_certificate(weak, ALL, toy_verify)
    assert weak.kind == "weak"
    assert refused(replace(weak, weak=False)) == "signature"
    assert refused(replace(weak, attempt=3)) == "signature"
    assert refused(replace(weak, votes=weak.votes[:2])) == "no_quorum"
    assert refused(weakly(prepared(VALUE, FOUR[:3], weak=True))) == "signature"
    alone = make_value(FOUR[:1], FOUR)
    assert refused(weakly(prepared(alone, FOUR[:1]))) == "signature"
    assert refused(weakly(prepared(alone, FOUR[:2]))) == "not_a_voter"


def contribution_refused(**changes: Any) -> str:
    cut = (make_contribution(FOUR[0], **changes), *VALUE.cut[1:])
    return refused(certify(replace(VALUE, cut=cut), FOUR))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"round": 6}, "wrong_round"),
        ({"prior": bytes(32)}, "wrong_round"),
        ({"swarm": bytes(32)}, "wrong_round"),
        ({"norm2": float("nan")}, "not_finite"),
        ({"norm2": float("inf")}, "not_finite"),
        ({"norm2": -1.0}, "not_finite"),
        ({"norm2": 2 * MAX_NORM2}, "not_finite"),
        ({"steps": 0}, "malformed"),
        ({"steps": 10**9 + 1}, "malformed"),
        ({"tokens": -1}, "malformed"),
        ({"tokens": 10**15 + 1}, "malformed"),
        ({"carried": -1}, "malformed"),
        ({"carried_tokens": -1}, "malformed"),
        ({"carried_tokens": 10**15 + 1}, "malformed"),
        ({"root": b"r" * 31}, "malformed"),
        ({"admission": bytes(1025)}, "malformed"),
        ({"codec": "x" * 33}, "malformed"),
    ],
)
def test_a_counted_contribution_is_checked_too(changes: dict[str, Any], reason: str) -> None:
    assert contribution_refused(**changes) == reason


def test_a_counted_contribution_is_signed_by_its_peer() -> None:
    for forged in (replace(VALUE.cut[0], tokens=1), replace(VALUE.cut[0], signature=b"")):
        value = replace(VALUE, cut=(forged, *VALUE.cut[1:]))
        assert refused(certify(value, FOUR)) == "signature"


MALFORMED_VALUES: dict[str, dict[str, Any]] = {
    "short digest": {"digest": b"d"},
    "short swarm": {"swarm": b""},
    "short voter": {"voters": (b"v",)},
    "no voters": {"voters": ()},
    "too many voters": {"voters": tuple(bytes([n]) * 32 for n in range(MAX_VOTERS + 1))},
    "voter twice": {"voters": (ALL[0], ALL[0])},
    "voters out of order": {"voters": ALL[::-1]},
    "present twice": {"present": (ALL[0], ALL[0])},
    "present out of order": {"present": ALL[::-1]},
    "too many present": {"present": tuple(bytes([n]) * 32 for n in range(MAX_CONTRIBUTIONS + 1))},
    "cut out of order": {"cut": VALUE.cut[::-1]},
    "cut twice": {"cut": (VALUE.cut[0], VALUE.cut[0])},
    "too early": {"round": -2},
}


@pytest.mark.parametrize("name", MALFORMED_VALUES)
def test_malformed_values(name: str) -> None:
    value = replace(VALUE, **MALFORMED_VALUES[name])
    assert reason_of(lambda: check_value(value)) == "malformed"
    data = certify(value, FOUR).encode()
    assert reason_of(lambda: decode_certificate(data)) == "malformed"


def test_one_byte_too_long_is_refused_before_it_is_parsed() -> None:
    data = bytes(MAX_CERTIFICATE_BYTES + 1)
    assert reason_of(lambda: decode_certificate(data)) == "oversized"


@examples(150)
@given(st.binary(max_size=200))
def test_garbage_is_a_certificate_error(data: bytes) -> None:
    with pytest.raises(CertificateError):
        decode_certificate(data)


@examples(150)
@given(st.data())
def test_a_damaged_certificate_does_not_convince(data: st.DataObject) -> None:
    good = certify(VALUE, FOUR[:3]).encode()
    position = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != good[position]))
    damaged = good[:position] + bytes([byte]) + good[position + 1 :]
    with pytest.raises(CertificateError):
        check_certificate(decode_certificate(damaged), ALL, toy_verify)


def test_deep_nesting_and_unknown_fields() -> None:
    assert reason_of(lambda: decode_certificate(b"\x91" * 200_000)) == "malformed"
    fields = msgspec.msgpack.decode(certify(VALUE, FOUR).encode())
    more = msgspec.msgpack.encode(fields | {"more": 1})
    assert reason_of(lambda: decode_certificate(more)) == "malformed"


# -- chains ----------------------------------------------------------------------------------------------


def link(before: Certificate, by: list[ToySigner], voters: list[ToySigner], **changes: Any) -> Certificate:
    values = {"round": before.value.round + 1, "prior": before.value.digest}
    number = before.value.round + 2
    value = make_value(by, voters, digest=bytes([number]) * 32, **(values | changes))
    return certify(value, by)


def make_chain() -> list[Certificate]:
    """Voters change hands: one founder, then three, then three others."""
    six = peers(6)
    start = genesis(SWARM, b"0" * 32, [six[0].key], six[0])
    first = link(start, six[:1], six[:3])
    second = link(first, six[:2], six[3:])
    return [start, first, second, link(second, six[3:5], six[3:])]


def chain_refused(start: Certificate, chain: list[Certificate]) -> str:
    return reason_of(lambda: check_chain(start, chain, toy_verify))


def test_hand_overs_are_followed() -> None:
    start, *chain = make_chain()
    assert check_chain(start, chain, toy_verify) is chain[-1]
    assert check_chain(start, [], toy_verify) is start


def test_a_missing_link_breaks_a_chain() -> None:
    start, first, second, third = make_chain()
    assert chain_refused(start, [second, third]) == "broken_chain"
    assert chain_refused(start, [first, third]) == "broken_chain"
    assert chain_refused(start, [first, first]) == "broken_chain"
    assert chain_refused(start, [start]) == "broken_chain"


def test_a_forged_link_breaks_a_chain() -> None:
    start, first, second, third = make_chain()
    six = peers(6)
    by_old_voters = link(second, six[:2], six[3:])
    assert chain_refused(start, [first, second, by_old_voters]) == "not_a_voter"
    assert chain_refused(start, [first, replace(second, votes=()), third]) == "no_quorum"
    other_branch = link(second, six[3:5], six[3:], prior=b"x" * 32)
    assert chain_refused(start, [first, second, other_branch]) == "broken_chain"


def test_a_link_of_another_swarm_breaks_a_chain() -> None:
    start, first, *_ = make_chain()
    foreign = link(start, peers(1), peers(3), swarm=bytes(32))
    assert chain_refused(start, [foreign]) == "wrong_swarm"
    assert chain_refused(genesis(bytes(32), b"0" * 32, [FOUR[0].key], FOUR[0]), [first]) == "wrong_swarm"


def test_genesis_is_signed_by_a_founder_for_the_founders() -> None:
    founders = keys_of(FOUR[:3])
    for founder in FOUR[:3]:
        certificate = genesis(SWARM, b"0" * 32, founders[::-1], founder)
        assert certificate.kind == "genesis"
        check_genesis(certificate, founders, toy_verify)
    by_stranger = genesis(SWARM, b"0" * 32, founders, FOUR[3])
    assert reason_of(lambda: check_genesis(by_stranger, founders, toy_verify)) == "not_a_voter"
    for_others = genesis(SWARM, b"0" * 32, ALL, FOUR[0])
    assert reason_of(lambda: check_genesis(for_others, founders, toy_verify)) == "wrong_genesis"
    later = certify(make_value(FOUR[:3], FOUR[:3], prior=PRIOR), FOUR[:3])
    assert reason_of(lambda: check_genesis(later, founders, toy_verify)) == "wrong_genesis"
    forged = replace(genesis(SWARM, b"0" * 32, founders, FOUR[0]), votes=(Signature(FOUR[0].key, b"x"),))
    assert reason_of(lambda: check_genesis(forged, founders, toy_verify)) == "signature"
