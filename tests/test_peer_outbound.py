"""Whom a node connects to when most announcements are one attacker's."""

import random

from talkoot.dht.limits import OUTBOUND_PER_PREFIX
from talkoot.peer.outbound import choose


def keys(count: int, kind: bytes) -> list[bytes]:
    return [kind + number.to_bytes(31, "big") for number in range(count)]


def at(network: int, host: int) -> tuple[str, ...]:
    return (f"/ip4/{20 + network // 256}.{network % 256}.7.{host}/tcp/4001",)


def test_of_many_keys_behind_few_addresses_few_are_chosen() -> None:
    """20 honest peers, 80 keys of one attacker on 8 prefixes, a victim that starts anew; 50 trials."""
    shares = []
    for trial in range(50):
        rng = random.Random(trial)
        honest, hostile = keys(20, b"h"), keys(80, b"s")
        places = rng.sample(range(5000), 28)
        announced = {key: at(place, 1) for key, place in zip(honest, places, strict=False)}
        announced |= {key: at(places[20 + n % 8], n + 1) for n, key in enumerate(hostile)}
        voters = frozenset(honest[:5])
        items = list(announced.items())
        rng.shuffle(items)
        chosen = choose(dict(items), voters=voters, most=64, salt=rng.randbytes(32), seen={})
        assert voters <= chosen
        shares.append(len(chosen & set(honest)) / len(chosen))
    assert min(shares) > 0.5


def test_a_ground_key_gains_nothing_and_voters_come_first() -> None:
    hostile = keys(300, b"s")
    announced = {key: at(number, 1) for number, key in enumerate(hostile)} | {b"v" * 32: at(9, 9)}
    first, second = (
        choose(announced, voters=frozenset({b"v" * 32}), most=16, salt=salt, seen={}) for salt in (b"a", b"b")
    )
    assert len(first) == len(second) == 16
    assert b"v" * 32 in first & second
    assert first != second


def test_local_networks_are_one_place_and_hidden_ones_count_as_one() -> None:
    local: dict[bytes, tuple[str, ...]] = {
        key: (f"/ip4/192.168.1.{n}/tcp/1",) for n, key in enumerate(keys(20, b"l"))
    }
    assert len(choose(local, voters=frozenset(), most=64, salt=b"", seen={})) == 20
    hidden: dict[bytes, tuple[str, ...]] = {
        key: (f"/dns/host{n}.example.org/tcp/1",) for n, key in enumerate(keys(20, b"d"))
    }
    hidden |= dict.fromkeys(keys(20, b"n"), ())
    assert len(choose(hidden, voters=frozenset(), most=64, salt=b"", seen={})) == 2 * OUTBOUND_PER_PREFIX


def test_who_was_connected_counts_where_that_was() -> None:
    """False addresses, and local ones before the true one, get nobody a place for long."""
    liars = {
        key: (*at(1000 + number, 1), *at(7, number))
        if number % 2
        else ("/ip4/192.168.0.9/tcp/1", *at(7, number))
        for number, key in enumerate(keys(40, b"s"))
    }
    honest = {key: at(number, 1) for number, key in enumerate(keys(5, b"h"))}
    seen = dict.fromkeys(liars, "20.0.7.0/24") | {next(iter(honest)): "20.0.9.0/24"}
    both = liars | honest
    chosen = choose(both, voters=frozenset(), most=64, salt=b"", seen=seen)
    assert chosen >= honest.keys()
    assert len(chosen & liars.keys()) == OUTBOUND_PER_PREFIX
    local = choose(liars, voters=frozenset(), most=64, salt=b"", seen=dict.fromkeys(liars, "172.17.0.0/24"))
    assert len(local) < 40  # all come in through a router of ours: what they announce is all there is


def test_who_cannot_be_reached_takes_a_place_for_a_turn_only() -> None:
    dead = {key: at(1, number) for number, key in enumerate(keys(20, b"d"))}
    honest = keys(1, b"h")[0]
    chosen = [
        choose(dead | {honest: at(1, 99)}, voters=frozenset(), most=64, salt=b"s", seen={}, turn=turn)
        for turn in range(40)
    ]
    assert all(len(each) == OUTBOUND_PER_PREFIX for each in chosen)
    first = next(turn for turn, each in enumerate(chosen) if honest in each)
    stays = choose(
        dead | {honest: at(1, 99)}, voters=frozenset(), most=64, salt=b"s", seen={honest: "20.1.7.0/24"}
    )
    assert first > 0 or honest in chosen[0]
    assert honest in stays
