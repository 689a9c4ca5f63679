"""How often a node looks whether the round is to close."""

import pytest

from talkoot.averaging.progress import Decision
from talkoot.peer.swarming import MAX_POLL_S, POLL_S, until_next_look


@pytest.mark.parametrize(
    ("steps", "elapsed_s", "pause_s"),
    [
        (0.0, 50.0, MAX_POLL_S),  # nobody trains yet, or nobody has said so
        (0.0, 2.0, 0.5),
        (0.0, 0.0, POLL_S),
        (25.0, 50.0, MAX_POLL_S),
        (80.0, 8.0, 0.5),  # 2 s are left
        (99.9, 8.0, POLL_S),
        (100.0, 8.0, POLL_S),
        (250.0, 8.0, POLL_S),
    ],
)
def test_the_nearer_the_end_the_more_often(steps: float, elapsed_s: float, pause_s: float) -> None:
    decision = Decision(False, "steps_missing", steps, 100.0)
    assert until_next_look(decision, elapsed_s) == pytest.approx(pause_s)
