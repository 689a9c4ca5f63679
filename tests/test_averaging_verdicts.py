"""An auditor scores whom the draw names; its verdict is its own, of one round and branch, and in bounds."""

from collections import Counter

import msgspec
import pytest
from round_swarm import ToySigner, toy_verify

from talkoot.averaging.verdicts import MAX_SCORE, Verdict, check, drawn, sign_verdict

SWARM, PRIOR = b"s" * 32, b"p" * 32
AUDITOR, SUBJECT = ToySigner(1), ToySigner(2).key
KEYS = [ToySigner(number).key for number in range(8)]


def verdict(score: int = 700) -> Verdict:
    return sign_verdict(AUDITOR, swarm=SWARM, round_number=6, prior=PRIOR, subject=SUBJECT, score=score)


def holds(said: Verdict, swarm: bytes = SWARM, round_number: int = 6, prior: bytes = PRIOR) -> bool:
    return check(said, swarm=swarm, round_number=round_number, prior=prior, verify=toy_verify)


@pytest.mark.parametrize("score", [-MAX_SCORE, 0, MAX_SCORE])
def test_a_verdict_holds_for_its_round_and_no_other(score: int) -> None:
    said = verdict(score)
    assert holds(said)
    assert not holds(said, round_number=7)
    assert not holds(said, prior=b"q" * 32)
    assert not holds(said, swarm=b"t" * 32)


@pytest.mark.parametrize(
    "change",
    [
        {"score": 701}, {"subject": AUDITOR.key}, {"subject": KEYS[3]}, {"auditor": KEYS[3]},
        {"signature": bytes(64)}, {"signature": b""}, {"subject": b"short"}, {"auditor": bytes(33)},
    ],
)  # fmt: skip
def test_a_changed_verdict_does_not_hold(change: dict[str, object]) -> None:
    assert not holds(msgspec.structs.replace(verdict(), **change))


def test_a_score_beyond_the_bounds_does_not_hold_even_signed() -> None:
    assert not holds(verdict(MAX_SCORE + 1))
    assert not holds(verdict(-MAX_SCORE - 1))


def test_the_draw_is_the_same_for_all_and_never_oneself() -> None:
    for auditor in KEYS:
        subject = drawn(PRIOR, auditor, KEYS)
        assert subject in set(KEYS) - {auditor}
        assert subject == drawn(PRIOR, auditor, reversed(KEYS))
    assert drawn(PRIOR, KEYS[0], KEYS[:1]) is None
    assert drawn(PRIOR, KEYS[0], []) is None


def test_everybody_is_drawn_about_as_often() -> None:
    draws = Counter(drawn(bytes([number]) * 32, auditor, KEYS) for number in range(250) for auditor in KEYS)
    assert all(170 < draws[key] < 330 for key in KEYS)  # 250 on the average


def test_about_every_other_auditor_looks_at_newcomers_first() -> None:
    newcomers = set(KEYS[6:])
    draws = [drawn(bytes([number]) * 32, KEYS[0], KEYS, newcomers) for number in range(250)]
    share = sum(1 for subject in draws if subject in newcomers) / len(draws)
    assert 0.5 < share < 0.8  # 1/2 + 1/2 * 2/7
    assert set(draws) == set(KEYS[1:])
    assert drawn(PRIOR, KEYS[7], KEYS[7:], set(KEYS[7:])) is None
