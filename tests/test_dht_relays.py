"""Which relays are asked, held and left: sources, deaths, liars, crowds of relays that do not exist."""

from typing import Literal, TypeAlias

import msgspec
import pytest

from talkoot.dht.hop import Reservation
from talkoot.dht.identity import Identity
from talkoot.dht.multiaddr import Address
from talkoot.dht.network import Events
from talkoot.dht.records import PeerRecord, seal
from talkoot.dht.relays import (
    AT_ONCE,
    BREAKS,
    HELD,
    LATE_S,
    MAX_REMEMBERED,
    MAX_TRIED,
    REFRESH_S,
    RETRY_ALONE_S,
    RETRY_S,
    SAME_BREAK_S,
    SETTLED_S,
    Relays,
    by_relay,
)
from talkoot.dht.table import RecordTable

Role: TypeAlias = Literal["full", "client", "observer", "relay"]
LIFE = Reservation(900.0)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def place(number: int) -> Address:
    return Address("ip4", "203.0.113.7", 1000 + number % 60_000)


def named(*numbers: int) -> dict[bytes, list[Address]]:
    return {key(number): [place(number)] for number in numbers}


def relays_of(*numbers: int) -> Relays:
    relays = Relays(b"salt")
    relays.wanted = True
    relays.name("operator", named(*numbers))
    return relays


def give(relays: Relays, relay: bytes, now: float, round_trip_s: float = 0.1) -> None:
    relays.reserved(relay, LIFE, now, round_trip_s=round_trip_s, place=place(relay[-1]))


def held(*numbers: int, now: float = 0.0) -> Relays:
    """One that holds reservations at the first two of these."""
    relays = relays_of(*numbers)
    for relay in relays.due(now):
        give(relays, relay, now)
    assert len(relays.held) == min(HELD, len(numbers))
    return relays


def record(number: int, *, role: Role = "relay", addresses: tuple[str, ...] = ()) -> PeerRecord:
    return PeerRecord(
        swarm=bytes(32), key=key(number), protocol=1, version="1", round=0, steps=0,
        addresses=addresses or (str(place(number)),), role=role, digest=bytes(32), tokens=0, speed=0.0,
        upload=0.0, download=0.0, corpus=b"", loss=0.0, state="relaying",
    )  # fmt: skip


def test_nothing_is_asked_unless_reservations_are_of_use() -> None:
    relays = relays_of(1, 2)
    relays.wanted = False
    assert relays.due(0) == []
    assert relays.without_since is None


def test_reservations_lapse_once_others_can_dial_this_node() -> None:
    relays = held(1, 2)
    relays.wanted = False
    assert relays.due(1) == []
    assert relays.held == frozenset()
    assert not relays.faults


def test_several_are_asked_at_once_and_two_are_held() -> None:
    relays = relays_of(1, 2, 3, 4)
    asked = relays.due(0)
    assert len(asked) == AT_ONCE
    assert relays.due(0) == [], "an answer is awaited"
    for relay in asked:
        give(relays, relay, 0)
    assert relays.held == set(asked[:HELD])
    assert relays.due(1) == []
    assert len(relays.circuits()) == HELD


def test_who_was_named_by_people_is_asked_before_who_announces_itself() -> None:
    relays = Relays()
    relays.wanted = True
    for source, number in (("directory", 1), ("manifest", 2), ("invite", 3), ("operator", 4)):
        relays.name(source, named(number))  # type: ignore[arg-type]  # one of the sources each
    assert relays.ranked(0) == [key(4), key(3), key(2), key(1)]


def test_those_that_peers_use_and_those_that_are_near_come_first() -> None:
    relays = relays_of(1, 2, 3)
    relays.used_by({b"a": [Address("ip4", "203.0.113.7", 1, relay=key(3))]})
    assert relays.ranked(0)[0] == key(3)
    relays = held(1, 2)
    relays.failed(key(1), "lost", 1)
    assert relays.ranked(1) == [key(2), key(1)], "who failed is last"


def test_a_reservation_is_renewed_long_before_it_ends() -> None:
    relays = held(1, 2)
    assert relays.due(REFRESH_S - 1) == []
    assert sorted(relays.due(REFRESH_S)) == [key(1), key(2)]
    relays.reserved(key(1), Reservation(30.0), REFRESH_S, round_trip_s=0.1, place=None)
    assert relays.due(REFRESH_S + 10) == [key(1)], "a third of a short one"


def test_the_death_of_one_is_survived_at_once() -> None:
    relays = held(1, 2, 3, now=0)
    relays.connected([key(2), key(3)], 10)
    assert relays.held == {key(2)}
    assert relays.without_since is None
    assert relays.due(10) == [key(3)], "and its place is taken"
    assert relays.faults == {"lost": 1}


def test_a_list_of_connections_that_is_older_than_the_reservation_ends_nothing() -> None:
    relays = held(1, 2, now=5)
    relays.connected([], 5 + SETTLED_S / 2)
    assert len(relays.held) == 2


def test_without_any_relay_one_is_tried_again_soon_and_more_and_more_rarely() -> None:
    relays = relays_of(1)
    now, pauses = 0.0, []
    for _ in range(12):
        assert relays.due(now) == [key(1)]
        relays.failed(key(1), "unreachable", now)
        pauses.append(relays.next_s(now))
        now += pauses[-1]
    assert pauses[:3] == [1.0, 2.0, 4.0]
    assert max(pauses) == RETRY_ALONE_S
    assert relays.without_since == 0.0


def test_a_relay_that_failed_is_left_alone_while_another_is_held() -> None:
    relays = held(1)
    relays.name("operator", named(1, 2))
    now = 0.0
    for _ in range(20):
        now += RETRY_S[1]
        give(relays, key(1), now)
        if key(2) in relays.due(now):
            relays.failed(key(2), "refused", now)
    assert RETRY_S[1] - REFRESH_S <= relays._records[key(2)].retry_at - now <= RETRY_S[1]


def test_one_that_answers_late_is_given_up_for_a_better_one() -> None:
    relays = held(1, 2)
    give(relays, key(1), 30, round_trip_s=LATE_S + 1)
    assert relays.held == {key(2)}
    alone = held(1)
    give(alone, key(1), 30, round_trip_s=LATE_S + 1)
    assert alone.held == {key(1)}, "better than none"


def test_one_that_drops_what_goes_through_it_is_left_and_remembered() -> None:
    relays = held(1, 2, 3)
    for number in range(BREAKS):
        relays.broke(key(1), key(9), 10.0 + SAME_BREAK_S * number)
    assert relays.held == {key(2)}
    assert relays.faults == {"breaks": 1}
    assert relays.due(50) == [key(2), key(3)]  # one again, one instead
    relays.failed(key(3), "unreachable", 50)
    assert key(1) not in relays.due(90), "for a while"
    assert key(1) in relays.due(90 + RETRY_S[1])


def test_all_channels_of_one_peer_that_dies_count_once() -> None:
    relays = held(1, 2)
    for _ in range(5 * BREAKS):
        relays.broke(key(1), key(9), 10.0)
    assert relays.held == {key(1), key(2)}
    for number in range(1, BREAKS):
        relays.broke(key(1), key(9 + number), 11.0)
    assert relays.held == {key(2)}


def test_breaks_now_and_then_and_of_the_only_relay_are_borne() -> None:
    relays, alone = held(1, 2), held(1)
    for number in range(5 * BREAKS):
        relays.broke(key(1), key(9), 100.0 * number)
        alone.broke(key(1), key(9 + number), float(number))
    assert relays.held == {key(1), key(2)}
    assert alone.held == {key(1)}


def test_thousands_of_relays_that_do_not_exist_keep_no_good_one_away() -> None:
    relays = Relays(b"salt")
    relays.wanted = True
    relays.note([record(number) for number in range(2000)])
    relays.name("invite", named(7))
    now, asked = 0.0, 0
    while key(7) not in relays.held:
        due = relays.due(now)
        asked += len(due)
        for relay in due:
            if relay == key(7):
                give(relays, relay, now)
            else:
                relays.failed(relay, "unreachable", now)
        now += 1
    assert now == 1
    for _ in range(500):
        due = relays.due(now)
        assert len(due) <= AT_ONCE + HELD
        for relay in due:
            relays.failed(relay, "unreachable", now) if relay != key(7) else give(relays, relay, now)
        now += 1
    assert relays.held == {key(7)}
    assert len(relays._records) <= MAX_REMEMBERED
    assert len(relays.ranked(now)) <= MAX_TRIED + 1


def test_one_that_peers_use_is_found_among_thousands() -> None:
    relays = Relays(b"salt")
    relays.wanted = True
    real = record(5000)
    through = str(Address("ip4", "203.0.113.7", 5000, relay=real.key))
    peers = [record(6000 + number, role="client", addresses=(through,)) for number in range(3)]
    relays.note([*(record(number) for number in range(1000)), real, *peers])
    assert relays.due(0)[0] == real.key


def test_a_relay_does_not_say_where_it_is() -> None:
    relays = Relays()
    relays.wanted = True
    lying = record(1, addresses=("/ip4/198.51.100.1/tcp/80", "/ip4/203.0.113.7/tcp/4001"))
    relays.note([lying])
    relays.due(0)
    reached = Address("ip4", "203.0.113.7", 4001)
    relays.reserved(lying.key, LIFE, 0, round_trip_s=0.1, place=reached)
    assert relays.circuits() == (Address("ip4", "203.0.113.7", 4001, relay=lying.key),)


def test_forged_replayed_and_expired_records_name_no_relay() -> None:
    identity, swarm, events = Identity.from_seed(b"r" * 32), bytes(32), Events()
    table, relays = RecordTable(swarm, events), Relays()

    def announce(port: int, issued: float) -> bytes:
        there = msgspec.structs.replace(
            record(1, addresses=(f"/ip4/203.0.113.7/tcp/{port}",)), key=identity.key
        )
        return seal(identity, there, issued=issued, expires=issued + 60)

    def ports(now: float) -> list[int]:
        relays.note(table.peers(now).values())
        return [place.port for place in relays.places(identity.key)]

    old, new = announce(1, 1000.0), announce(2, 1010.0)
    forged = bytearray(announce(3, 1020.0))
    forged[-1] ^= 1
    for envelope in (new, old, bytes(forged)):
        table.accept(identity.key, envelope, 1025.0)
    assert ports(1025.0) == [2]
    assert events.rejected == {"stale": 1, "signature": 1}
    assert ports(1071.0) == []
    assert not table.accept(identity.key, new, 1071.0)


def test_what_goes_through_another_relay_is_no_relay() -> None:
    relays = Relays()
    relays.name("directory", {key(1): [Address("ip4", "203.0.113.7", 1, relay=key(2))]})
    assert relays.ranked(0) == []


def test_the_end_of_p2pd_is_no_relays_fault() -> None:
    relays = held(1, 2)
    relays.drop(10)
    assert relays.held == frozenset()
    assert not relays.faults
    assert relays.due(10) == [key(1), key(2)]


def test_a_newcomer_is_told_of_those_that_work_and_those_that_people_named() -> None:
    relays = held(1, 2, 3)
    relays.name("directory", named(4))
    assert [text.split("/")[4] for text in relays.told()] == ["1001", "1002", "1003"]
    again = by_relay(relays.told())
    assert list(again) == [key(1), key(2), key(3)]


def test_a_relay_without_its_name_is_refused() -> None:
    with pytest.raises(ValueError, match="/p2p/"):
        by_relay(["/ip4/203.0.113.7/tcp/1"])
