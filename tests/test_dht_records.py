"""Records and the table that believes them: forgeries, bounds, order and limits."""

import math
from collections import Counter
from typing import Any

import msgspec
import pytest
from dht_rig import SWARM
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.dht import records, table
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity
from talkoot.dht.network import Events
from talkoot.dht.records import (
    MAX_RECORD_BYTES,
    MAX_SKEW_S,
    MAX_TTL_S,
    PeerRecord,
    next_times,
    open_envelope,
    seal,
)
from talkoot.dht.table import RecordTable

OWNER = Identity.from_seed(b"o" * 32)
OTHER = Identity.from_seed(b"x" * 32)
NOW = 1_800_000_000.0


def record(identity: Identity = OWNER, **changes: Any) -> PeerRecord:
    values: dict[str, Any] = {
        "swarm": SWARM, "key": identity.key, "protocol": 1, "version": "0.1", "role": "client",
        "addresses": (f"/ip4/10.0.0.1/tcp/4001/p2p/{identity.peer_id}",), "round": 3, "digest": bytes(32),
        "steps": 1, "tokens": 2, "speed": 1.5, "upload": 0.0, "download": 1e6, "corpus": b"c" * 32,
        "loss": -0.5, "state": "training",
    }  # fmt: skip
    return PeerRecord(**(values | changes))


def envelope(identity: Identity = OWNER, issued: float = NOW, ttl_s: float = 60, **changes: Any) -> bytes:
    return seal(identity, record(identity, **changes), issued=issued, expires=issued + ttl_s)


def reason_of(data: bytes, owner: bytes = OWNER.key, now: float = NOW + 1) -> str:
    with pytest.raises(RemoteError) as caught:
        open_envelope(data, owner=owner, swarm=SWARM, now=now)
    return caught.value.reason


def test_a_record_goes_round() -> None:
    signed = open_envelope(envelope(), owner=OWNER.key, swarm=SWARM, now=NOW + 1)
    assert (signed.record, signed.issued, signed.expires) == (record(), NOW, NOW + 60)


def test_forgeries() -> None:
    good = envelope()
    assert reason_of(good, owner=OTHER.key) == "signature"
    assert reason_of(envelope(swarm=bytes(32))) == "foreign"
    assert reason_of(b"") == reason_of(b"\x02" + good[1:]) == reason_of(good[:-1]) == "malformed"
    assert reason_of(good + b"\0") == "malformed"
    assert reason_of(good + bytes(MAX_RECORD_BYTES)) == "oversized"
    assert reason_of(good, now=NOW + 60) == "stale"
    assert reason_of(good, now=NOW - 4) == "stale"
    for position in range(1, len(good)):
        changed = bytearray(good)
        changed[position] ^= 1
        assert reason_of(bytes(changed)) in ("signature", "malformed", "foreign", "stale")


def test_times_that_nobody_may_sign() -> None:
    for issued, expires in ((NOW, NOW), (NOW, NOW + MAX_TTL_S + 1), (math.nan, NOW), (NOW, math.inf)):
        with pytest.raises(ValueError, match="lives for"):
            seal(OWNER, record(), issued=issued, expires=expires)
        head = records._HEAD.pack(1, issued, expires, bytes(64))
        assert reason_of(head + envelope()[len(head) :]) == "malformed"


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": math.nan},
        {"loss": math.inf},
        {"speed": -1.0},
        {"upload": math.inf},
        {"round": -1},
        {"steps": 2**60},
        {"version": "v" * 33},
        {"version": "a\nb"},
        {"state": "s" * 17},
        {"role": "king"},
        {"digest": bytes(31)},
        {"corpus": bytes(33)},
        {"addresses": ("/ip4/1.2.3.4/tcp/1",) * 9},
        {"addresses": ("/" + "a" * 256,)},
        {"addresses": ("not an address",)},
    ],
)
def test_values_out_of_bounds(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - from two places
        envelope(**changes)


def test_unknown_fields_are_refused() -> None:
    body = msgspec.msgpack.encode({**msgspec.structs.asdict(record()), "extra": 1})
    head = records._HEAD.pack(1, NOW, NOW + 60, bytes(64))
    assert reason_of(head + body) == "malformed"


def test_the_largest_record_fits_or_says_so() -> None:
    with pytest.raises(ValueError, match="at most 2048"):
        envelope(addresses=("/dns/" + "a" * 240 + "/tcp/4001",) * 8)


@examples(100)
@given(st.binary(max_size=400))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    assert reason_of(b"\x01" + data) in ("malformed", "stale", "signature")


def test_times_of_our_own_records_only_grow() -> None:
    first = next_times(NOW, 60, (0.0, 0.0))
    assert first == (NOW, NOW + 60)
    later = next_times(NOW - MAX_SKEW_S, 1, first)  # the clock was set back, and the record lives shorter
    assert later[0] > first[0]
    assert later[1] > first[1]
    assert next_times(NOW - MAX_SKEW_S - 1, 60, first) == (NOW - MAX_SKEW_S - 1, NOW - MAX_SKEW_S + 59)
    assert seal(OWNER, record(), issued=NOW, expires=next_times(NOW, MAX_TTL_S, (0, 0))[1])
    with pytest.raises(ValueError, match="lives for"):
        next_times(NOW, MAX_TTL_S + 1, (0.0, 0.0))


def make_table() -> tuple[RecordTable, Counter[str]]:
    events = Events()
    return RecordTable(SWARM, events), events.rejected


def test_an_older_record_never_replaces_a_newer_one() -> None:
    target, rejected = make_table()
    old, new = envelope(issued=NOW, round=3, ttl_s=500), envelope(issued=NOW + 1, round=4, ttl_s=100)
    assert target.accept(OWNER.key, old, NOW + 1)
    assert target.accept(OWNER.key, new, NOW + 1)
    assert target.accept(OWNER.key, new, NOW + 2)  # the same again is no fault
    assert not target.accept(OWNER.key, old, NOW + 2)
    assert not target.accept(OWNER.key, envelope(issued=NOW + 1, round=5), NOW + 2)
    assert target.peers(NOW + 2)[OWNER.key].round == 4
    assert dict(rejected) == {"stale": 2}
    assert target.peers(NOW + 101) == {}
    assert not target.accept(OWNER.key, new, NOW + 102)


def test_a_clock_that_was_ahead_silences_nobody() -> None:
    """Ours was: we hold our own record and that of another, who was as wrong. Both were set right."""
    target, rejected = make_table()
    future = envelope(issued=NOW + 300, round=3, ttl_s=60)
    assert target.accept(OWNER.key, future, NOW + 300)
    assert target.accept(OWNER.key, envelope(issued=NOW + 1, round=4, ttl_s=60), NOW + 1)
    assert target.peers(NOW + 1)[OWNER.key].round == 4
    assert not target.accept(OWNER.key, future, NOW + 2)
    assert target.peers(NOW + 2)[OWNER.key].round == 4
    assert dict(rejected) == {"stale": 1}


def test_owners_and_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_OWNERS", 2)
    target, rejected = make_table()
    identities = [Identity.from_seed(bytes([n]) * 32) for n in range(3)]
    for identity in identities[:2]:
        assert target.accept(identity.key, envelope(identity, ttl_s=10), NOW)
    assert not target.accept(identities[2].key, envelope(identities[2]), NOW)
    assert target.accept(identities[0].key, envelope(identities[0], issued=NOW + 1), NOW + 1)
    assert dict(rejected) == {"busy": 1}
    assert target.accept(identities[2].key, envelope(identities[2], issued=NOW + 11), NOW + 11)
    assert set(target.peers(NOW + 11)) == {identities[0].key, identities[2].key}
    monkeypatch.setattr(table, "MAX_TABLE_BYTES", target._bytes)
    larger = envelope(identities[0], issued=NOW + 12, version="0.1.2.3")
    assert not target.accept(identities[0].key, larger, NOW + 12)


def test_signature_checks_are_rationed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "VERIFY_BURST", 2)
    monkeypatch.setattr(table, "VERIFY_RATE", 1.0)
    target, rejected = make_table()
    taken = [target.accept(OWNER.key, envelope(issued=NOW + n / 100), NOW + 1) for n in range(4)]
    assert taken == [True, True, False, False]
    assert rejected["busy"] == 2
    assert target.accept(OWNER.key, envelope(issued=NOW + 2), NOW + 2)
    assert target.accept(OWNER.key, envelope(issued=NOW + 3), NOW + 2, local=True)
