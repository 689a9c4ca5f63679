"""A node gives way at once and goes on after a quiet time; what it caused itself makes it rest longer."""

import pytest

from talkoot.peer.guest.holds import Holds
from talkoot.peer.guest.words import REASONS, Reason
from talkoot.peer.guest.yielding import FIRST_REST_S, MAX_REST_S, Band, Found, Rest, Yielding

BLENDER = Found("blender", "blender runs (process 7)")


class Watched:
    """A `Yielding` on a clock that the test sets; Unix time is 1000 s ahead."""

    def __init__(self, quiet_s: float = 20.0) -> None:
        self.changes = 0
        self.holds = Holds(self._count)
        self.yielding = Yielding(self.holds)
        self.quiet_s = quiet_s

    def _count(self) -> None:
        self.changes += 1

    def at(self, now: float, **found: Found) -> list[tuple[Reason, str, float | None]]:
        reasons: dict[Reason, Found] = {reason: found[reason] for reason in REASONS if reason in found}
        assert len(reasons) == len(found)
        self.yielding.look(reasons, now=now, unix_s=now + 1000, quiet_s=self.quiet_s)
        return [(hold.reason, hold.detail, hold.until) for hold in self.holds.all]


def test_a_reason_is_up_at_once_and_down_after_the_quiet_time() -> None:
    node = Watched()
    assert node.at(0) == []
    assert node.at(1, exclusive_app=BLENDER) == [("exclusive_app", "blender runs (process 7)", None)]
    assert node.at(100, exclusive_app=BLENDER) == [("exclusive_app", "blender runs (process 7)", None)]
    waiting = [("exclusive_app", "blender runs (process 7), until a moment ago", 1121.0)]
    assert node.at(101) == waiting
    assert node.at(120.9) == waiting
    assert node.at(121) == []


def test_what_comes_again_within_the_quiet_time_was_never_away() -> None:
    node = Watched()
    node.at(0, exclusive_app=BLENDER)
    node.at(10)
    assert node.at(29, exclusive_app=BLENDER)[0][2] is None
    node.at(30)
    assert node.at(49.9) != []
    assert node.at(50) == []


def test_followers_hear_of_changes_and_not_of_each_look() -> None:
    node = Watched()
    for second in range(10):
        node.at(second, other_gpu_use=Found("blender", f"blender takes {second} MiB"))
    assert node.changes == 1
    assert node.at(10, other_gpu_use=Found("llama", "llama takes 9 MiB")) == [
        ("other_gpu_use", "llama takes 9 MiB", None)
    ]
    for second in range(11, 60):
        node.at(second)
    assert node.changes == 4  # up, another one, over, lifted


def test_each_reason_has_a_quiet_time_of_its_own_and_only_what_was_put_is_lifted() -> None:
    node = Watched()
    node.holds.put("user")
    node.at(0, battery=Found("battery", "on battery"), exclusive_app=BLENDER)
    node.at(10, exclusive_app=BLENDER)
    assert [reason for reason, _, _ in node.at(30, exclusive_app=BLENDER)] == ["user", "exclusive_app"]
    node.yielding.drop("exclusive_app")
    node.yielding.drop("user")
    assert [hold.reason for hold in node.holds.all] == ["user"]


def test_a_shorter_quiet_time_holds_at_once() -> None:
    node = Watched()
    node.at(0, exclusive_app=BLENDER)
    node.at(1)
    node.quiet_s = 0
    assert node.at(2) == []


def test_a_band_is_left_below_where_it_was_entered() -> None:
    band = Band()
    seen = [band.over(celsius, limit=80, release=75) for celsius in (79, 80, 79, 75, 74.9, 79, 81)]
    assert seen == [False, True, True, True, False, False, True]


def test_each_rest_is_twice_as_long_until_it_was_well_for_long() -> None:
    rest, now, lengths = Rest(), 100.0, []
    for _ in range(10):
        assert rest.needed(True, now)
        began = now
        while rest.needed(False, now):
            now += 1
        lengths.append(now - began)
        now += 30  # the node goes on, and takes too much again
    assert lengths[:3] == [FIRST_REST_S, 2 * FIRST_REST_S, 4 * FIRST_REST_S]
    assert lengths[-1] == MAX_REST_S
    assert rest.needed(True, now + 10_000)
    assert not rest.needed(False, now + 10_000 + FIRST_REST_S)


@pytest.mark.parametrize("first_s", [0.0, 5.0])
def test_nothing_wrong_is_no_rest(first_s: float) -> None:
    assert not Rest().needed(False, first_s)
