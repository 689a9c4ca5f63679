"""Watching everybody's contributions: who is suspected, who never is, and how much is remembered."""

import json
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
from averaging_help import keys_of, make_contribution, peers
from round_swarm import ToySigner

from talkoot.averaging.certificate import Contribution
from talkoot.averaging.gram import Matrix
from talkoot.averaging.reasons import Sign
from talkoot.averaging.watch import MAX_WATCHED, Held, Turn, Watch

SIGNERS = peers(8)
SIX = SIGNERS[:6]
KEYS = keys_of(SIX)
TESTDATA = Path(__file__).parent / "testdata"
HONEST = ("honest_rounds_0.json", "honest_rounds_1.json", "honest_rounds_llama.json")
"""`benchmarks/honest_history.py`: a newcomer, peers that are late once, often and always, a learning rate
that falls to a tenth."""


def cut_of(round_: int, norms: list[float], carried: dict[int, int] | None = None) -> list[Contribution]:
    return [
        make_contribution(
            SIX[i], round=round_, root=bytes([round_, i]) * 16, norm2=norm**2,
            carried=(carried or {}).get(i, 0),
        )
        for i, norm in enumerate(norms)
    ]  # fmt: skip


def gram_of(cosines: list[float], alike: dict[tuple[int, int], float] | None = None) -> Matrix:
    """Of vectors of length 1 with these cosines to the aggregate before, and 0.3 or as said to each other."""
    num = len(cosines)
    gram = [
        [1.0 if i == j else (alike or {}).get((min(i, j), max(i, j)), 0.3) for j in range(num)]
        for i in range(num)
    ]
    return [*[[*row, cosine] for row, cosine in zip(gram, cosines, strict=True)], [*cosines, 1.0]]


def see(watch: Watch, round_: int, norms: list[float], held: Held | None = None, **more: Any) -> list[Turn]:
    cut = cut_of(round_, norms, more.get("carried"))
    return watch.see(round_, cut, counting=[True] * len(cut), held=held)


def usual(rounds: int = 10) -> Watch:
    watch = Watch()
    for number in range(rounds):
        held = Held(rows=range(6), gram=gram_of([0.5 + 0.01 * ((number + i) % 3) for i in range(6)]))
        assert see(watch, number, [1.0 + 0.02 * ((number + i) % 3) for i in range(6)], held) == []
    return watch


def test_who_is_odd_for_four_rounds_is_suspected_and_later_no_more() -> None:
    watch, turns = usual(), []
    for number in range(10, 30):
        turns += see(watch, number, [9.0 if number < 14 else 1.0, *[1.0] * 5])
        record = watch.records[KEYS[0]]
        assert record.signs == (("norm",) if number < 14 else ())
    assert [(turn.key, turn.record.suspected, turn.record.last) for turn in turns] == [
        (KEYS[0], True, 13),
        (KEYS[0], False, 17),
    ]


@pytest.mark.parametrize(
    ("what", "sign"),
    [
        ({"cosines": [-0.5, *[0.5] * 5]}, "direction"),
        ({"cosines": [0.5] * 6, "alike": {(0, 1): 0.999}}, "copy"),
        ({"cosines": [0.5] * 6, "unsound": frozenset({0})}, "norm"),
    ],
    ids=["turned round", "a copy", "not what was signed"],
)
def test_what_is_held_of_a_round_tells_more_than_its_headers(what: dict[str, Any], sign: Sign) -> None:
    watch = usual()
    unsound = what.pop("unsound", frozenset())
    see(watch, 10, [1.0] * 6, Held(rows=range(6), gram=gram_of(**what), unsound=unsound))
    assert watch.records[KEYS[0]].signs == (sign,)
    like = watch.records[KEYS[0]].like, watch.records[KEYS[1]].like
    assert like == ((KEYS[1], KEYS[0]) if sign == "copy" else (b"", b""))
    assert watch.records[KEYS[2]].signs == ()


def test_pieces_of_some_say_nothing_of_the_others() -> None:
    watch = usual()
    see(watch, 10, [1.0] * 6, Held(rows=[1, 3, 4], gram=gram_of([0.5, -0.9, 0.5])))
    assert {key for key, record in watch.records.items() if record.signs} == {KEYS[3]}


def test_the_same_bytes_are_copies_wherever_they_are_seen() -> None:
    """The roots are in the signed headers."""
    watch = usual()
    cut = cut_of(10, [1.0] * 6)
    cut[4] = make_contribution(SIX[4], root=cut[1].root, norm2=1.0)
    watch.see(10, cut, counting=[True] * 6)
    assert {key for key, record in watch.records.items() if record.signs == ("copy",)} == {KEYS[1], KEYS[4]}


@pytest.mark.parametrize(("away", "signs"), [(True, ()), (False, ("norm",))])
def test_lateness_excuses_no_more_than_the_rounds_since_it_counted(
    away: bool, signs: tuple[Sign, ...]
) -> None:
    watch = usual()
    for number in range(10, 12):
        cut = cut_of(number, [1.0] * 6)
        cut = cut[1:] if away else cut
        watch.see(number, cut, counting=[True] * len(cut))
    see(watch, 12, [3.0, *[1.0] * 5], carried={0: 50})
    assert watch.records[KEYS[0]].signs == signs


def test_an_aggregate_that_is_not_known_or_not_finite_judges_no_direction() -> None:
    watch = usual()
    for last in (0.0, float("inf"), float("nan")):
        gram = gram_of([-0.9] * 5 + [0.9])
        gram[-1][-1] = last
        see(watch, 10, [1.0] * 6, Held(rows=range(6), gram=gram))
        assert all(record.signs == () for record in watch.records.values())
        assert all(record.history.lag.count == 10 for record in watch.records.values())


def test_those_seen_longest_ago_are_forgotten_first() -> None:
    watch = Watch()
    crowd = [make_contribution(ToySigner(number)) for number in range(MAX_WATCHED + 5)]
    for number, item in enumerate(crowd):
        watch.see(number, [item], counting=[True])
    watch.see(len(crowd), [crowd[5]], counting=[True])
    assert len(watch.records) == MAX_WATCHED
    assert list(watch.records) == [item.key for item in (*crowd[6:], crowd[5])]


@pytest.mark.parametrize("name", HONEST)
def test_nobody_honest_is_suspected_in_a_real_training(name: str) -> None:
    """Not the newcomer, nor who was late for 1, 3 and 6 rounds, nor who is late every second round; nor
    anybody when the learning rate falls."""
    watch, carried, rows = Watch(), set(), json.loads((TESTDATA / name).read_text())
    for number, row in enumerate(rows):
        triangle = row["gram"]
        full = [[triangle[max(i, j)][min(i, j)] for j in range(len(triangle))] for i in range(len(triangle))]
        cut = [
            make_contribution(
                SIGNERS[worker], round=number, root=bytes([number, worker]) * 16, norm2=norm2, carried=rounds
            )
            for worker, norm2, rounds in zip(row["worker"], row["norm2"], row["carried"], strict=True)
        ]
        held = Held(rows=range(len(cut)), gram=full)
        carried |= {item.carried for item in cut}
        assert watch.see(number, cut, counting=[True] * len(cut), held=held) == []
    assert carried == {0, 1, 3, 6}
    norms = [sqrt(sorted(row["norm2"])[len(row["norm2"]) // 2]) for row in rows]
    assert norms[-1] < 0.4 * norms[0]
