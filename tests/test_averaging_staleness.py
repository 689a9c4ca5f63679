"""What is new in a contribution: copies and mixtures of earlier ones are known, honest work is left alone."""

import json
from pathlib import Path

import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.averaging.staleness import highest_scores, new_shares
from talkoot.averaging.verdicts import MAX_SCORE
from talkoot.peer.attacks.catalogue import ATTACKS
from talkoot.peer.attacks.exchange import number_of
from talkoot.peer.attacks.rules import parse_rule
from talkoot.peer.attacks.swarm import Laboratory, Setting, Training
from talkoot.peer.sketches import MAX_REMEMBERED, PLACES, Sketch, Sketches

TESTDATA = Path(__file__).parent / "testdata"


@given(seed=st.integers(0, 2**31), num=st.integers(1, 6), again=st.booleans())
@examples(20)
def test_the_new_share_is_what_least_squares_leaves(seed: int, num: int, again: bool) -> None:
    """Against numpy's least squares, copies among what came before included."""
    torch.manual_seed(seed)
    before = torch.randn(num, 64) * 10.0 ** torch.randint(-6, 6, (num, 1))
    before = torch.cat([before, 4 * before[:1]]) if again else before
    now = torch.cat([torch.randn(2, 64), torch.randn(1, num) @ before[:num], torch.zeros(1, 64)])
    scaled = before.double() / before.double().norm(dim=1, keepdim=True)
    best = torch.linalg.lstsq(scaled.T, now.double().T, driver="gelsd").solution
    left = (now.double().T - scaled.T @ best).square().sum(0) / now.double().square().sum(1)
    assert new_shares(now, before) == pytest.approx([*left[:3].tolist(), 1.0], abs=1e-8)


def test_scores_follow_from_the_usual_share_of_those_that_count() -> None:
    shares = [0.4, 0.4, 0.5, 0.01, 0.14, 0.3]
    clear = [MAX_SCORE] * 3
    assert highest_scores(shares, [True] * 6) == [*clear, -MAX_SCORE, 0, MAX_SCORE]
    assert highest_scores([0.01] * 4 + [0.4] * 3, [False] * 4 + [True] * 3) == [-MAX_SCORE] * 4 + clear
    assert highest_scores([1e-3, 1e-3, 1e-5], [True] * 3) == clear  # where all repeat themselves
    assert highest_scores([0.01, 0.4], [True, True]) == [MAX_SCORE] * 2  # of two nobody is the usual one


@pytest.mark.parametrize("name", ["honest_rounds_0.json", "honest_rounds_1.json", "honest_rounds_llama.json"])
def test_recorded_honest_peers_are_new_beside_the_aggregate_before(name: str) -> None:
    """Newcomers, late ones, and a learning rate that falls among them."""
    for row in json.loads((TESTDATA / name).read_text()):
        *own, last = row["gram"]
        if last[-1] > 0:
            shares = [1.0 - last[i] ** 2 / (own[i][i] * last[-1]) for i in range(len(own))]
            assert set(highest_scores(shares, [True] * len(own))) == {MAX_SCORE}


def test_honest_peers_are_left_alone_and_who_copies_them_is_known() -> None:
    """Two have the same data, one is late twice and brings all of it at once; nobody copies but the stranger,
    who weighs nothing, sends what one of them sent a round earlier, and scales and blurs it."""
    setting = Setting(workers=5, liars=2, rounds=7, robustness=parse_rule("default"))
    training = Training(Laboratory(max_bytes=200_000), setting, ATTACKS["identical"])
    sketches, before = Sketches(b"secret"), None
    blur = torch.Generator().manual_seed(0)
    for number in range(setting.rounds):
        late = [4] if number in (4, 5) else []
        counted = training.exchange.round(training._contributions(number), late=late)
        honest = [piece[:4096] for piece in counted.decoded]
        rows = [number_of(item.key) for item in counted.value.cut]
        if before is not None:
            noise = torch.randn(before.shape, generator=blur) * before.norm() / before.numel() ** 0.5
            now = sketch_of(sketches, [*rows, 5], [*honest, 2 * before + 0.1 * noise])
            highest = sketches.compare(now, [True] * 5 + [False])
            assert highest.pop(5) == -MAX_SCORE
            assert highest == dict.fromkeys(rows, MAX_SCORE)
        sketches.remember(sketch_of(sketches, rows, honest))
        before = honest[number % 4]


def sketch_of(sketches: Sketches, rows: list[int], pieces: list[torch.Tensor]) -> Sketch:
    places = sketches.places(0, pieces[0].numel())
    values = [piece[places] for piece in (*pieces, torch.zeros_like(pieces[0]))]
    return Sketch(rows=rows, chunks={0: torch.stack(values)})


def test_what_is_remembered_is_bounded_and_nothing_is_said_without_it() -> None:
    sketches = Sketches(b"secret")
    assert len(sketches.places(3, 10**6)) == PLACES
    assert sketches.places(0, 7).tolist() == list(range(7))
    for number in range(40):
        now = sketch_of(sketches, list(range(30)), list(torch.randn(30, 5000)))
        highest = sketches.compare(now, [True] * 30)
        assert highest == (dict.fromkeys(range(30), MAX_SCORE) if number else {})
        sketches.remember(now)
        assert sum(len(sketch.rows) + 1 for sketch in sketches._past) <= MAX_REMEMBERED
    elsewhere = Sketch(rows=[0, 1, 2], chunks={1: torch.randn(4, 100)})
    assert sketches.compare(elsewhere, [True] * 3) == {}
