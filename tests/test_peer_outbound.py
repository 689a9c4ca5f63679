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
        chosen = choose(dict(items), voters=voters, most=64, salt=rng.randbytes(32))
        assert voters <= chosen
        shares.append(len(chosen & set(honest)) / len(chosen))
    assert min(shares) > 0.5


def test_a_ground_key_gains_nothing_and_voters_come_first() -> None:
    hostile = keys(300, b"s")
    announced = {key: at(number, 1) for number, key in enumerate(hostile)} | {b"v" * 32: at(9, 9)}
    first, second = (
        choose(announced, voters=frozenset({b"v" * 32}), most=16, salt=salt) for salt in (b"a", b"b")
    )
    assert len(first) == len(second) == 16
    assert b"v" * 32 in first & second
    assert first != second


def test_local_networks_are_one_place_and_hidden_ones_count_as_one() -> None:
    local: dict[bytes, tuple[str, ...]] = {
        key: (f"/ip4/192.168.1.{n}/tcp/1",) for n, key in enumerate(keys(20, b"l"))
    }
    assert len(choose(local, voters=frozenset(), most=64, salt=b"")) == 20
    hidden: dict[bytes, tuple[str, ...]] = {
        key: (f"/dns/host{n}.example.org/tcp/1",) for n, key in enumerate(keys(20, b"d"))
    }
    hidden |= dict.fromkeys(keys(20, b"n"), ())
    assert len(choose(hidden, voters=frozenset(), most=64, salt=b"")) == 2 * OUTBOUND_PER_PREFIX
