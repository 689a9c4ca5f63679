"""Reservations, circuits, quotas and the door: what is allowed, and what one more is told."""

import contextlib
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talkoot.dht.errors import ConfigError, RemoteError
from talkoot.dht.identity import Identity, multihash_of
from talkoot.dht.outside.wire import bytes_field, number_field
from talkoot.dht.relay import messages
from talkoot.dht.relay.book import REFUSALS, Book, Circuit, CutOff
from talkoot.dht.relay.buckets import Bucket, Buckets
from talkoot.dht.relay.config import RelayConfig, RelayLimits
from talkoot.dht.relay.door import Door
from talkoot.dht.relay.windows import FEW, WIDE, Windows
from talkoot.dht.relay.yamux import FIRST_WINDOW

A, B, C = b"a", b"b", b"c"


def book(**limits: Any) -> Book:
    return Book(replace(RelayLimits(), **limits), 0.0)


def made(of: Book, source: bytes, target: bytes, now: float = 0.0, *, member: bool = True) -> Circuit:
    circuit = of.connect(source, target, member=member, now=now)
    assert isinstance(circuit, Circuit), circuit
    return circuit


def test_a_reservation_expires_unless_it_is_renewed() -> None:
    accounts = book(reservations=1)
    assert accounts.reserve(A, 0.0) is None
    assert accounts.reserve(B, 1.0) == "full"
    assert accounts.reserve(A, 800.0) is None
    assert accounts.reserve(B, 901.0) == "full"
    assert accounts.has_reservation(A, 1699.0)
    assert not accounts.has_reservation(A, 1700.0)
    assert accounts.reserve(B, 1701.0) is None
    assert accounts.num_reservations == 1


def test_each_refusal_has_its_reason() -> None:
    accounts = book(reservation_circuits=2, circuits=4, stranger_circuits=1)
    assert accounts.connect(A, B, member=True, now=0.0) == "no_reservation"
    accounts.reserve(B, 0.0)
    assert accounts.connect(B, B, member=True, now=0.0) == "no_reservation"
    assert accounts.connect(A, B, member=True, now=901.0) == "no_reservation"
    first = made(accounts, A, B, member=False)
    assert accounts.connect(A, B, member=False, now=0.0) == "circuits"
    assert accounts.connect(C, B, member=False, now=0.0) == "circuits", "a quarter is for strangers"
    made(accounts, C, B)
    assert accounts.connect(C, B, member=True, now=0.0) == "circuits", "the target has as many as it may"
    accounts.close(first)
    accounts.close(first)
    assert accounts.num_circuits == 1
    accounts.short_of_memory = True
    assert accounts.connect(A, B, member=True, now=0.0) == "memory"
    assert accounts.reserve(A, 0.0) == "memory"
    assert accounts.reserve(B, 0.0) is None, "a renewal takes no memory"
    accounts.draining = True
    assert accounts.reserve(B, 0.0) == "draining"
    assert accounts.connect(A, B, member=True, now=0.0) == "draining"


def test_the_quota_outlives_reservation_and_circuit() -> None:
    accounts = book(reservation_bytes=3600)
    accounts.reserve(B, 0.0)
    circuit = made(accounts, A, B)
    circuit.charge(3600, 0.0)
    with pytest.raises(CutOff, match="quota"):
        circuit.charge(1, 0.0)
    accounts.close(circuit)
    accounts.drop(B)
    accounts.reserve(B, 0.0)
    assert accounts.connect(A, B, member=True, now=30.0) == "quota"
    made(accounts, A, B, 40.0).charge(40, 40.0)


def test_a_circuit_is_cut_by_its_own_bytes() -> None:
    accounts = book(circuit_bytes=10)
    accounts.reserve(B, 0.0)
    circuit = made(accounts, A, B)
    circuit.charge(10, 0.0)
    with pytest.raises(CutOff, match="bytes"):
        circuit.charge(1, 0.0)
    assert circuit.passed_bytes == 10


def test_a_rate_makes_one_wait() -> None:
    accounts = book(circuit_rate=100)
    accounts.reserve(B, 0.0)
    circuit = made(accounts, A, B)
    assert circuit.charge(100, 0.0) == 0
    assert circuit.charge(50, 0.0) == 0.5
    assert circuit.charge(50, 1.0) == 0.0


def test_who_asks_in_a_loop_is_known() -> None:
    accounts = book()
    asked = [accounts.asked(A, 0.0) for _ in range(181)]
    assert asked == ["heard"] * 120 + ["refused"] * 60 + ["loop"]
    assert accounts.asked(B, 0.0) == "heard"
    assert accounts.asked(A, 60.0) == "refused"
    assert accounts.asked(A, 64.0) == "heard"


@given(st.lists(st.tuples(st.sampled_from("rcxd"), st.integers(0, 3), st.integers(0, 3), st.booleans())))
def test_counts_are_those_of_what_is_there(steps: list[tuple[str, int, int, bool]]) -> None:
    accounts = book(reservations=3, circuits=6, reservation_circuits=3, stranger_circuits=2)
    there: list[Circuit] = []
    for now, (kind, one, other, member) in enumerate(steps):
        if kind == "r":
            accounts.reserve(bytes([one]), float(now))
        elif kind == "d":
            accounts.drop(bytes([one]))
        elif kind == "x" and there:
            accounts.close(there.pop(one % len(there)))
        elif kind == "c":
            answer = accounts.connect(bytes([one]), bytes([other]), member=member, now=float(now))
            if isinstance(answer, Circuit):
                there.append(answer)
            else:
                assert answer in REFUSALS
        assert accounts.num_circuits == len(there) <= 6
        assert accounts.num_reservations <= 3
        for name in range(4):
            of_source = [each for each in there if each.source == bytes([name])]
            assert len(of_source) <= 3
        assert sum(each.stranger for each in there) <= 1
    for each in there:
        accounts.close(each)
    assert accounts.num_circuits == 0


def test_a_bucket_never_forgets_what_is_owed() -> None:
    bucket = Bucket(10, 1, 0.0)
    assert bucket.draw(15, 0.0) == 5
    assert not bucket.take(1, 5.0)
    assert bucket.take(1, 6.0)
    assert bucket.level(1000.0) == 10
    assert bucket.level(0.0) == 10, "a clock that goes back gives nothing"


def test_buckets_for_any_number_of_peers_are_bounded() -> None:
    buckets = Buckets[int](1, 1, most=100)
    for peer in range(1000):
        buckets.of(peer, 0.0).take(1, 0.0)
    assert len(buckets) == 100
    assert not buckets.of(5000, 0.0).take(1, 0.0), "those beyond share one"
    assert buckets.of(5000, 10.0).take(1, 10.0)


def test_the_door_counts_by_prefix() -> None:
    door = Door(replace(RelayLimits(), connections_per_prefix=2, connections=4, handshakes=3))
    assert [door.enter("x", 0.0) for _ in range(3)] == [None, None, "prefix"]
    assert door.enter("", 0.0) is None
    assert door.enter("y", 0.0) == "handshakes"
    door.handshakes = 0
    assert door.enter("y", 0.0) is None
    assert door.enter("z", 0.0) == "connections"
    door.leave("x")
    assert door.enter("x", 0.0) is None
    door.draining = True
    assert door.enter("q", 0.0) == "draining"


def test_the_door_counts_by_time() -> None:
    door = Door(RelayLimits(accepts_per_prefix=1.0, connections_per_prefix=400))
    came = [door.enter("x", 0.0) for _ in range(12)]
    assert came == [None] * 10 + ["rate"] * 2
    assert door.enter("x", 1.0) is None
    door.ban(A, 0.0)
    assert door.is_banned(A, 59.0)
    assert not door.is_banned(A, 61.0)
    assert not door.is_banned(B, 0.0)


class Noted:
    """A stream whose windows are written down."""

    def __init__(self) -> None:
        self.windows: list[int] = []

    def resize(self, window: int) -> None:
        self.windows.append(window)


def test_windows_are_shared_out_until_there_is_none() -> None:
    total = 2 * (WIDE - FIRST_WINDOW) + 1
    windows, first, second = Windows(total), Noted(), Noted()
    with windows.of((first, Noted())), windows.of((second, Noted())):
        assert (first.windows, second.windows) == ([WIDE], [])
    assert windows.left_bytes == total


def test_windows_are_narrow_when_there_are_many_circuits() -> None:
    windows, first = Windows(2**30), Noted()
    with windows.of((first,)), contextlib.ExitStack() as others:
        for _ in range(FEW):
            others.enter_context(windows.of((Noted(),)))
        assert first.windows == [WIDE, FIRST_WINDOW]
        assert windows.left_bytes == 2**30
    again = Noted()
    with windows.of((again,)):
        assert again.windows == [WIDE]
    assert windows.left_bytes == 2**30


def test_messages_of_the_specification() -> None:
    peer = multihash_of(Identity(bytes(32)).key)
    connect = number_field(1, 1) + bytes_field(2, bytes_field(1, peer))
    assert messages.parse_hop(bytes([8, 0]), b"") == messages.Reserve()
    assert messages.parse_hop(connect, b"") == messages.Connect(peer)
    assert messages.status(messages.Status.OK) == bytes([8, 2, 40, 100])
    assert messages.stop_connect(peer) == bytes([8, 0, 18, len(peer) + 2, 10, len(peer)]) + peer
    assert messages.parse_stop_status(bytes([8, 1, 32, 100]), b"") == 100


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_none(data: bytes) -> None:
    for parse in (messages.parse_hop, messages.parse_stop_status):
        with suppress(RemoteError):
            parse(data, b"peer")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"circuits": 0}, "circuits must be more than 0"), ({"reservation_s": 239.0}, "at least 240")],
)
def test_limits_are_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RelayLimits(**change)
    with pytest.raises(ConfigError, match="port"):
        RelayConfig(port=65536)
