"""When a relayed connection is made anew, so that p2pd tries to punch a hole once more."""

from itertools import pairwise

from talkoot.dht.punching import MAX_REMEMBERED, OBSERVERS, PAUSES_S, TURN_S, Punching

OURS, THEIRS = b"m" * 32, b"x" * 32


def tries(punching: Punching, until_s: int = 120, peer: bytes = THEIRS, **changes: object) -> list[int]:
    """The seconds at which a look each second finds that it is time."""
    settings = {"busy": (), "observers": OBSERVERS} | changes
    return [
        second
        for second in range(until_s)
        if punching.due([peer], now=float(second), **settings)  # type: ignore[arg-type]
    ]


def test_a_few_tries_with_growing_pauses_and_then_no_more() -> None:
    found = tries(Punching(OURS), 1000)
    assert [found[0], *(later - sooner for sooner, later in pairwise(found))] == list(PAUSES_S)


def test_the_higher_key_tries_later() -> None:
    assert tries(Punching(THEIRS), peer=OURS)[0] == tries(Punching(OURS))[0] + TURN_S


def test_nothing_is_cut_that_is_in_use() -> None:
    punching = Punching(OURS)
    assert tries(punching, busy=(THEIRS,)) == []
    assert punching.due([THEIRS], busy=(), observers=OBSERVERS, now=120.0) == [THEIRS]


def test_without_observers_the_time_does_not_count() -> None:
    punching = Punching(OURS)
    assert tries(punching, 100, observers=OBSERVERS - 1) == []
    assert punching.due([THEIRS], busy=(), observers=OBSERVERS, now=99.0 + PAUSES_S[0]) == [THEIRS]


def test_what_is_remembered_is_bounded() -> None:
    punching = Punching(OURS)
    peers = [number.to_bytes(32, "big") for number in range(MAX_REMEMBERED + 10)]
    punching.due(peers, busy=(), observers=OBSERVERS, now=0.0)
    assert len(punching._tried) == MAX_REMEMBERED
