"""Invites survive mail programs, and what does not survive is named; proofs of admission admit one peer."""

import base64

import msgspec
import pytest
from blake3 import blake3
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.dht.identity import Identity
from talkoot.peer import admission
from talkoot.peer.admission import AdmissionError
from talkoot.peer.invite import MAX_INVITE_CHARS, SCHEME, Anchor, Invite, InviteKey, decode, encode

FOUNDER = Identity.from_seed(b"f" * 32)
JOINER = Identity.from_seed(b"j" * 32)
OTHER = Identity.from_seed(b"o" * 32)
SEED = b"t" * 32
SWARM = b"s" * 32
TOKEN = admission.issue(FOUNDER, swarm=SWARM, seed=SEED, expires=2_000_000_000)
ADDRESS = f"/ip4/192.0.2.1/tcp/4001/p2p/{FOUNDER.peer_id}"
INVITE = Invite(SWARM, (ADDRESS,), Anchor(7, b"d" * 32, b"v" * 32, 1_800_000_000), InviteKey(SEED, TOKEN))
TEXT = encode(INVITE)


def wrapped(body: bytes, version: int = 1) -> str:
    """An invite with a right checksum around any body."""
    data = bytes([version]) + len(body).to_bytes(2, "big") + body
    data += blake3(data, derive_key_context="talkoot 2026 invite checksum").digest(4)
    return SCHEME + base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_round_trip() -> None:
    assert decode(TEXT) == INVITE
    assert decode(encode(Invite(SWARM, (ADDRESS,)))) == Invite(SWARM, (ADDRESS,))
    assert len(TEXT) < 700


def test_line_breaks_and_case_of_the_scheme_do_not_matter() -> None:
    broken = "\n  ".join(TEXT[at : at + 40] for at in range(0, len(TEXT), 40))
    assert decode(f" {broken}\r\n") == INVITE
    assert decode("TALKOOT://" + TEXT[len(SCHEME) :]) == INVITE


@examples(100)
@given(st.integers(len(SCHEME), len(TEXT) - 1))
def test_a_cut_invite_says_so(end: int) -> None:
    with pytest.raises(ValueError, match="cut short"):
        decode(TEXT[:end])


@examples(100)
@given(st.integers(len(SCHEME) + 4, len(TEXT) - 2), st.sampled_from("ABCxyz019_-"))
def test_a_changed_character_is_noticed(at: int, character: str) -> None:
    if TEXT[at] == character:
        return
    with pytest.raises(ValueError, match="checksum"):
        decode(TEXT[:at] + character + TEXT[at + 1 :])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must begin with talkoot://"),
        ("https://example.org", "must begin with talkoot://"),
        ("talkoot://", "cut short"),
        ("talkoot://a!b", "characters that do not belong"),
        (TEXT + "AAAA", "after the invite's end"),
        ("talkoot://" + "A" * MAX_INVITE_CHARS, "too long"),
        ("talkoot://" + " " * 2 * MAX_INVITE_CHARS, "too long"),
        (wrapped(b"anything", version=2), "protocol version 2, this talkoot speaks 1; update"),
        (wrapped(b"anything", version=0), "ask for a new invite"),
        (wrapped(b""), "not valid"),
        (wrapped(b"\x91" * 2500), "not valid"),
        (wrapped(msgspec.msgpack.encode([SWARM, []])), "not valid"),
        (wrapped(msgspec.msgpack.encode([SWARM, [ADDRESS] * 9])), "not valid"),
        (wrapped(msgspec.msgpack.encode([SWARM, ["x" * 257]])), "not valid"),
        (wrapped(msgspec.msgpack.encode([SWARM, [ADDRESS], None, None, 1])), "not valid"),
        (wrapped(msgspec.msgpack.encode([SWARM[:31], [ADDRESS]])), "not valid"),
        (wrapped(msgspec.msgpack.encode([SWARM, ["/ip4/1.2.3.4/tcp/1"]])), "address"),
        (wrapped(msgspec.msgpack.encode([SWARM, ["/ip4/1.2.3.4/tcp/1/p2p/12D3KooW"]])), "PeerID"),
        (wrapped(msgspec.msgpack.encode([SWARM, [ADDRESS.replace("192", "1\n2")]])), "address"),
    ],
)
def test_what_is_no_invite_is_named_in_one_line(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        decode(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@examples(100)
@given(st.binary(max_size=300))
def test_any_body_is_decoded_or_refused(body: bytes) -> None:
    message = ""
    try:
        decode(wrapped(body))
    except ValueError as error:
        message = str(error)
    assert "\n" not in message


def test_encode_keeps_the_bounds() -> None:
    with pytest.raises(ValueError, match="bounds"):
        encode(Invite(SWARM, ()))
    with pytest.raises(ValueError, match="bounds"):
        encode(Invite(b"", (ADDRESS,)))


def proof(joiner: Identity = JOINER) -> bytes:
    return admission.prove(TOKEN, swarm=SWARM, seed=SEED, key=joiner.key)


def test_a_proof_admits_its_peer_only() -> None:
    founders = (OTHER.key, FOUNDER.key)
    assert admission.check(proof(), swarm=SWARM, key=JOINER.key, founders=founders, now=1e9) == TOKEN.key
    rule = admission.admit_rule(SWARM, founders)
    assert rule(JOINER.key, proof()) == TOKEN.key
    assert rule(OTHER.key, proof()) is None
    assert rule(OTHER.key, proof(OTHER)) == TOKEN.key  # the ledger sees that it was used before
    assert len(proof()) <= 256


def reason(data: bytes, *, swarm: bytes = SWARM, founder: Identity = FOUNDER, now: float | None = 1e9) -> str:
    with pytest.raises(AdmissionError) as caught:
        admission.check(data, swarm=swarm, key=JOINER.key, founders=(founder.key,), now=now)
    return caught.value.reason


def test_why_a_proof_is_refused() -> None:
    assert reason(b"") == "malformed"
    assert reason(proof() + b"\0") == "malformed"
    assert reason(b"\x91" * 400) == "malformed"
    assert reason(proof() + bytes(512)) == "malformed"
    assert reason(proof(OTHER)) == "signature"
    assert reason(proof(), swarm=b"x" * 32) == "signature"
    assert reason(proof(), founder=OTHER) == "foreign"
    assert reason(proof(), now=2_000_000_001.0) == "expired"


def test_expiry_is_for_the_door_not_for_the_ledger() -> None:
    late = admission.issue(FOUNDER, swarm=SWARM, seed=SEED, expires=0)
    data = admission.prove(late, swarm=SWARM, seed=SEED, key=JOINER.key)
    assert reason(data) == "expired"
    assert admission.admit_rule(SWARM, (FOUNDER.key,))(JOINER.key, data) == late.key


@examples(100)
@given(st.integers(0, len(proof()) - 1), st.integers(1, 255))
def test_a_changed_byte_admits_nobody(at: int, flip: int) -> None:
    data = bytearray(proof())
    data[at] ^= flip
    assert admission.admit_rule(SWARM, (FOUNDER.key,))(JOINER.key, bytes(data)) is None


def test_only_single_use_tokens_are_known() -> None:
    token = msgspec.structs.replace(TOKEN, max_uses=2)
    token = msgspec.structs.replace(token, signature=FOUNDER.sign(token.permission(SWARM)))
    assert reason(admission.prove(token, swarm=SWARM, seed=SEED, key=JOINER.key)) == "malformed"
