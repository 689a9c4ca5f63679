"""Rounds from join to certificate, with and without deaths."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from round_swarm import Swarm

from talkoot.averaging import outputs


def committed(swarm: Swarm) -> set[bytes]:
    return {node.commits[-1].value.digest for node in swarm.nodes.values() if node.alive and node.commits}


def everyone_committed(swarm: Swarm) -> bool:
    return all(node.commits for node in swarm.nodes.values() if node.alive)


@pytest.mark.parametrize("num_peers", [1, 2, 3, 4, 8])
def test_all_peers_commit_the_same_bits(num_peers: int) -> None:
    swarm = Swarm(num_peers)
    swarm.start_round()
    swarm.close()
    swarm.run(30.0)
    assert everyone_committed(swarm)
    assert len(committed(swarm)) == 1
    first, *others = swarm.nodes.values()
    assert all(torch.equal(first.theta, other.theta) for other in others)
    assert all(torch.equal(first.momentum, other.momentum) for other in others)
    certificate = first.commits[0]
    assert certificate.kind == "final"
    assert len(certificate.value.cut) == num_peers


def test_the_result_is_the_mean_of_the_deltas() -> None:
    swarm = Swarm(4)
    nodes = list(swarm.nodes.values())
    delta = torch.stack([node.theta - node.local for node in nodes]).mean(dim=0)
    start = nodes[0].theta.clone()
    swarm.start_round()
    swarm.close()
    swarm.run(30.0)
    applied = (start - nodes[0].theta) / (0.7 * 1.5)  # eta (1 + mu) for the first step
    error = ((applied - delta).norm() / delta.norm()).item()
    assert error < 0.02  # int8 both ways, and the norm cap's small changes


def test_one_peer_closing_is_enough_when_the_leader_is_almost_ready() -> None:
    swarm = Swarm(4)
    swarm.start_round()
    for node in swarm.nodes.values():
        node.machine.almost = True
    swarm.close(next(iter(swarm.nodes)))
    swarm.run(30.0)
    assert everyone_committed(swarm)
    assert len(committed(swarm)) == 1


def test_an_invited_newcomer_contributes_and_votes_from_the_next_round_on() -> None:
    swarm = Swarm(4, num_voters=3)
    newcomer = next(node for node in swarm.nodes.values() if node.key not in node.ledger.voters)
    swarm.start_round()
    swarm.close()
    swarm.run(30.0)
    assert newcomer.commits
    assert newcomer.key in newcomer.ledger.voters
    assert len(committed(swarm)) == 1


def test_a_peer_with_too_few_steps_takes_part_without_contribution() -> None:
    swarm = Swarm(3)
    lazy = next(iter(swarm.nodes.values()))
    lazy.steps = 2
    swarm.start_round()
    swarm.close()
    swarm.run(30.0)
    assert everyone_committed(swarm)
    assert len(lazy.commits[0].value.cut) == 2


def test_a_round_in_which_nobody_had_anything_is_tried_again() -> None:
    swarm = Swarm(1)
    node = next(iter(swarm.nodes.values()))
    node.steps = 0
    swarm.start_round()
    swarm.close()
    swarm.run(10.0)
    assert [note.reason for note in node.notes if isinstance(note, outputs.GaveUp)] == ["nothing_to_average"]
    node.steps = 30
    swarm.close()
    swarm.run(20.0)
    assert len(node.commits[0].value.cut) == 1


def test_a_group_in_which_nobody_had_anything_tries_once_until_somebody_has() -> None:
    """Each of ten leaders would find as little: all give up with the first, and say little about it."""
    swarm = Swarm(10)
    nodes = list(swarm.nodes.values())
    for node in nodes:
        node.steps = 0
    swarm.start_round()
    swarm.close()
    swarm.run(10.0)
    for node in nodes:
        reasons = [note.reason for note in node.notes if isinstance(note, outputs.GaveUp)]
        assert reasons == ["nothing_to_average"]
        assert node.round is not None
        assert node.round.phase == "idle"
        assert node.round.attempt <= 2
    nodes[3].steps = nodes[7].steps = 30
    swarm.close()
    swarm.run(60.0)
    assert everyone_committed(swarm)
    assert len(nodes[0].commits[0].value.cut) == 2


def test_one_that_has_something_is_enough() -> None:
    swarm = Swarm(4)
    for node in list(swarm.nodes.values())[:3]:
        node.steps = 0
    swarm.start_round()
    swarm.close()
    swarm.run(60.0)
    assert everyone_committed(swarm)


def count_deliveries(num_peers: int, **options: Any) -> int:
    swarm = Swarm(num_peers, **options)
    swarm.start_round()
    swarm.close()
    swarm.run(30.0)
    return swarm.delivered


@pytest.mark.parametrize("victims", [(0, 1), (1, 2), (2, 3)], ids=["leader", "middle", "last"])
def test_a_round_ends_though_two_of_four_lose_their_memory_at_any_message_boundary(
    victims: tuple[int, int],
) -> None:
    total = count_deliveries(4, numel=2**18 + 500)
    obtained = 0
    for at_delivery in range(total // 2, total + 1, 5):
        swarm = Swarm(4, numel=2**18 + 500)
        swarm.start_round()
        order = next(iter(swarm.nodes.values())).machine.context.order
        swarm.on_delivery = restart_at(swarm, at_delivery, [order[victim] for victim in victims])
        swarm.close()
        swarm.run(200.0)
        finished = [node for node in swarm.nodes.values() if node.commits]
        assert finished, at_delivery  # who has not yet finds the others ahead, and asks them
        assert len({node.digest for node in finished}) == 1, at_delivery
        obtained += swarm.num_obtained
    assert obtained or 0 in victims  # what a quorum had prepared came from those who still held it


def restart_at(swarm: Swarm, at_delivery: int, victims: list[bytes]) -> Callable[[int], None]:
    def restart() -> None:
        for victim in victims:
            swarm.restart(victim)

    def kill(count: int) -> None:
        if count == at_delivery:
            for victim in victims:
                swarm.kill(victim)
            swarm.at(swarm.now + 1.0, restart)

    return kill


def test_two_of_two_go_on_weakly_when_one_is_dead_and_finally_when_it_is_back() -> None:
    swarm = Swarm(2)
    alive, dead = swarm.nodes.values()
    swarm.kill(dead.key)
    swarm.start_round()
    swarm.close()
    swarm.run(60.0)
    assert alive.commits[0].kind == "weak"
    assert dead.key in alive.ledger.voters  # one of two is no strict majority


def test_without_a_quorum_nothing_is_final() -> None:
    swarm = Swarm(4)
    keys = list(swarm.nodes)
    for key in keys[:2]:
        swarm.kill(key)
    swarm.start_round()
    swarm.close()
    swarm.run(60.0)
    for key in keys[2:]:
        assert [certificate.kind for certificate in swarm.nodes[key].commits] == ["weak"]
    assert len(committed(swarm)) == 1


def test_a_frozen_peer_is_left_out_after_the_window() -> None:
    swarm = Swarm(4)
    swarm.start_round()
    frozen = next(iter(swarm.nodes.values())).machine.context.order[2]
    swarm.nodes[frozen].alive = False  # silent, and nobody is told
    swarm.close()
    swarm.run(20.0)
    others = [node for key, node in swarm.nodes.items() if key != frozen]
    assert all(node.commits for node in others)
    assert all(len(node.commits[0].value.cut) == 3 for node in others)


def test_error_feedback_keeps_what_quantisation_lost_and_exclusion_keeps_everything() -> None:
    swarm = Swarm(3, error_feedback=True)
    nodes = list(swarm.nodes.values())
    expected = [(node.theta - node.local).clone() for node in nodes]
    swarm.start_round()
    swarm.close()
    swarm.run(30.0)
    for node, delta in zip(nodes, expected, strict=True):
        lost = node.carry.norm() / delta.norm()
        assert 0 < lost < 0.02


def test_a_certificate_that_overtakes_a_slow_peers_own_result_does_not_make_it_fetch_the_state() -> None:
    swarm = Swarm(4)
    swarm.start_round()
    slow = swarm.nodes[next(iter(swarm.nodes.values())).machine.context.order[2]]
    swarm.slow_jobs[slow.key] = 1.0  # the others have certified long before
    swarm.close()
    swarm.run(30.0)
    assert slow.commits
    assert not any(isinstance(note, outputs.NeedState) for note in slow.notes)
    assert len(committed(swarm)) == 1


def test_a_client_sends_and_receives_but_never_reduces() -> None:
    swarm = Swarm(4)
    client = next(iter(swarm.nodes.values()))
    client.role = "client"
    swarm.start_round()
    swarm.close()
    swarm.run(20.0)
    value = client.commits[0].value
    assert client.key in {item.key for item in value.cut}
    assert client.key not in {part.reducer for part in value.parts}
    assert len({node.digest for node in swarm.nodes.values()}) == 1


def test_where_all_voters_are_clients_they_reduce_all_the_same() -> None:
    swarm = Swarm(3)
    for node in swarm.nodes.values():
        node.role = "client"
    swarm.start_round()
    swarm.close()
    swarm.run(20.0)
    assert len({node.digest for node in swarm.nodes.values() if node.commits}) == 1
    assert all(node.commits for node in swarm.nodes.values())
