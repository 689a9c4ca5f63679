"""Paths: one word for the way to each peer."""

from talkoot.dht.limits import MAX_PLACES
from talkoot.dht.paths import Paths, Way

PEER, OTHER, RELAY = b"p" * 32, b"o" * 32, b"r" * 32


def test_nothing_is_known_of_who_was_never_tried() -> None:
    assert Paths().of(PEER) == "unknown"


def test_a_peer_without_a_relay_between_is_direct() -> None:
    paths = Paths()
    paths.look([Way(PEER)])
    assert (paths.of(PEER), paths.relay_of(PEER), paths.connected()) == ("direct", None, [PEER])


def test_one_that_begins_through_a_relay_is_punched_once_it_has_a_connection_of_its_own() -> None:
    paths = Paths()
    paths.look([Way(PEER, RELAY)])
    assert (paths.of(PEER), paths.relay_of(PEER), paths.connected()) == ("relayed", RELAY, [])
    paths.look([Way(PEER, RELAY), Way(PEER)])
    assert (paths.of(PEER), paths.relay_of(PEER)) == ("punched", None)
    paths.look([Way(PEER)])
    assert paths.of(PEER) == "punched"
    paths.look([Way(PEER, RELAY)])
    assert paths.of(PEER) == "relayed"


def test_both_at_the_first_look_is_punched_but_a_relay_after_a_direct_connection_is_nothing() -> None:
    paths = Paths()
    paths.look([Way(PEER), Way(PEER, RELAY), Way(OTHER)])
    paths.look([Way(PEER), Way(PEER, RELAY), Way(OTHER), Way(OTHER, RELAY)])
    assert (paths.of(PEER), paths.of(OTHER)) == ("punched", "direct")


def test_a_channel_through_a_relay_tells_of_it_before_the_next_look() -> None:
    paths = Paths()
    paths.through(PEER, RELAY)
    paths.look([Way(PEER)])
    assert paths.of(PEER) == "punched"


def test_a_connection_that_ended_leaves_nothing_behind() -> None:
    paths = Paths()
    paths.look([Way(PEER, RELAY)])
    paths.look([])
    assert paths.of(PEER) == "unknown"
    paths.look([Way(PEER)])
    assert paths.of(PEER) == "direct"


def test_a_dial_that_fails_makes_unreachable_only_what_is_not_connected() -> None:
    paths = Paths()
    paths.look([Way(OTHER)])
    paths.failed(PEER)
    paths.failed(OTHER)
    assert (paths.of(PEER), paths.of(OTHER)) == ("unreachable", "direct")
    paths.look([Way(PEER)])
    assert paths.of(PEER) == "direct"


def test_strangers_do_not_push_out_who_is_connected() -> None:
    paths = Paths()
    paths.look([Way(PEER)])
    for number in range(MAX_PLACES + 10):
        paths.failed(number.to_bytes(32, "big"))
    assert paths.of(PEER) == "direct"
    assert len(paths._seen) <= MAX_PLACES
