"""A death between any two messages of a round: the survivors agree, at the cost of at most one attempt."""

import pytest
from death_rig import ROLES, deaths


@pytest.mark.parametrize("victim", range(4), ids=ROLES)
def test_survivors_agree_at_every_boundary(victim: int) -> None:
    seen = list(deaths(victim))
    assert all(death.agreed for death in seen), [death for death in seen if not death.agreed]
    # A leader may die when only one survivor has the certificate: the others find out in the next attempt
    # but one at the latest, when that survivor is called to join.
    most = 2 if victim == 0 else 1
    assert max(death.attempts_lost for death in seen) <= most
    assert any(death.partial for death in seen)  # its aggregate had reached some, but not all


def test_a_plain_peer_costs_no_survivor_more_than_one_attempt() -> None:
    """One that sends and receives, and reduces nothing."""
    seen = list(deaths(3, clients=1))
    assert all(death.agreed for death in seen)
    assert max(death.attempts_lost for death in seen) <= 1
    assert not any(death.partial for death in seen)
