"""What theory allows, against the published tables."""

import math

import pytest

from talkoot.compression.limits import best_scalar, lloyd_max, shannon


@pytest.mark.parametrize(
    ("levels", "distortion"),
    [(1, 1.0), (2, 0.3634), (3, 0.1902), (4, 0.1175), (8, 0.03454), (16, 0.009497)],
)
def test_lloyd_max_is_the_published_table(levels: int, distortion: float) -> None:
    assert lloyd_max(levels) == pytest.approx(distortion, rel=1e-3)


def test_shannon() -> None:
    assert [shannon(bits) for bits in (0, 0.5, 1, 2, 4)] == [1, 0.5, 0.25, 0.0625, 2**-8]


def test_two_quantisers_share_the_values_at_a_rate_between_theirs() -> None:
    assert best_scalar(0) == 1
    assert best_scalar(2) == pytest.approx(lloyd_max(4))
    assert best_scalar(0.25) == pytest.approx(0.75 + 0.25 * lloyd_max(2))
    middle = (math.log2(3) + 2) / 2
    assert best_scalar(middle) == pytest.approx((lloyd_max(3) + lloyd_max(4)) / 2)


def test_the_asymptote_takes_over_without_a_step() -> None:
    assert best_scalar(8.0) == pytest.approx(lloyd_max(256), rel=0.02)
    assert best_scalar(16) / shannon(16) == pytest.approx(2.72, rel=1e-3)


def test_more_bits_never_hurt() -> None:
    errors = [best_scalar(bits / 10) for bits in range(1, 200, 3)]
    assert errors == sorted(errors, reverse=True)
    assert all(best_scalar(bits / 10) > shannon(bits / 10) for bits in range(1, 200, 3))
