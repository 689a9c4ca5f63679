"""How fast bytes come is known soon, and forgotten soon."""

from talkoot.peer.arriving import LEAST_S, WINDOW_S, Arriving


def test_a_steady_rate() -> None:
    arriving = Arriving(100.0)
    for number in range(1, 41):
        arriving.add(250, 100.0 + number / 4)
        assert arriving.rate(100.0 + number / 4) == min(number / 4, LEAST_S) * 1000
    assert arriving.rate(110.0 + WINDOW_S) == 500  # half of that time nothing came


def test_what_comes_at_once_is_not_taken_for_a_rate() -> None:
    arriving = Arriving(0.0)
    arriving.add(50_000, 0.001)
    assert arriving.rate(0.001) == 50_000 / LEAST_S


def test_the_past_is_forgotten() -> None:
    arriving = Arriving(0.0)
    arriving.add(10**9, 1.0)
    for number in range(100):
        arriving.add(10, 2.0 + number / 10)
    assert arriving.rate(11.9) < 200
    arriving.add(0, 1000.0)
    assert arriving.rate(1000.0) == 0
