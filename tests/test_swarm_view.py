"""What a peer makes of announcements: a relay stands beside the swarm, whatever it claims."""

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from averaging_help import make_ledger, make_rules
from virtual_loop import run_virtual

from talkoot.dht.identity import Identity
from talkoot.dht.records import PeerRecord, open_envelope, seal
from talkoot.peer.manifest import Round
from talkoot.peer.swarm_view import SwarmView

OWN, VOTER = Identity(bytes(32)).key, Identity(bytes([1]) * 32).key
RELAY = Identity(bytes([2]) * 32)
DIGEST = bytes([7]) * 32


def claim(key: bytes = RELAY.key, role: str = "relay") -> PeerRecord:
    """Of somebody who is a hundred rounds ahead and has made every step there is to make."""
    return msgspec.convert(
        {
            "swarm": bytes(32), "key": key, "protocol": 1, "version": "1.0", "role": role, "round": 100,
            "addresses": ("/ip4/192.0.2.1/tcp/4001",), "digest": DIGEST, "steps": 10**9, "tokens": 10**9,
            "speed": 1e6, "upload": 0.0, "download": 0.0, "corpus": b"", "loss": 0.0, "state": "training",
        },
        PeerRecord,
    )  # fmt: skip


def view_of(records: dict[bytes, PeerRecord]) -> SwarmView:
    view = SwarmView(OWN, Round())
    view.update(records)
    return view


def on_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Announcements are dated by the running loop's clock."""

    def run() -> None:
        run_virtual(test())

    return run


@on_loop
async def test_a_relay_counts_for_nothing() -> None:
    rules, ledger = make_rules(founders=(OWN, VOTER)), make_ledger([OWN, VOTER])
    view = view_of({RELAY.key: claim()})
    assert view.others == {}
    assert view.frontier(3) == 3
    assert view.ahead_of(3) == []
    assert view.elsewhere(lambda _: bytes(32)) == []
    assert view.ready(DIGEST) == 0
    assert view.decide(ledger, DIGEST, rules, None, 1e6).steps == 0
    assert view.relays == {RELAY.key: claim()}
    assert view.known == {RELAY.key}


@on_loop
async def test_the_same_claims_of_a_trainer_count() -> None:
    rules, ledger = make_rules(founders=(OWN, VOTER)), make_ledger([OWN, VOTER])
    view = view_of({VOTER: claim(VOTER, "full")})
    assert view.ready(DIGEST) == 1
    assert view.frontier(3) == 100
    assert view.decide(ledger, DIGEST, rules, None, 1e6).steps > 0
    assert view.relays == {}


@on_loop
async def test_who_becomes_a_relay_counts_no_more() -> None:
    view = view_of({RELAY.key: claim(role="full")})
    assert view.ready(DIGEST) == 1
    view.update({RELAY.key: claim()})
    assert view.ready(DIGEST) == 0
    assert view.others == {}


def test_a_relays_record_is_a_record_like_others() -> None:
    record = claim()
    envelope = seal(RELAY, record, issued=1000.0, expires=1060.0)
    assert open_envelope(envelope, owner=RELAY.key, swarm=bytes(32), now=1001.0).record == record
