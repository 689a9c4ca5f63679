"""Rounds with a sparse exchange: the same bits for all, one upload of each blob, whatever dies."""

import pytest
import torch
from round_swarm import Swarm, toy_verify
from sparse_rig import CHUNK, NUMEL, SparseSwarm, exchange_of, reasons

from talkoot.averaging import outputs
from talkoot.averaging.certificate import check_certificate

PIECES = -(-NUMEL // CHUNK)


@pytest.mark.parametrize("num_peers", [1, 2, 3, 4, 8])
def test_all_peers_commit_the_same_bits_and_upload_their_blob_once(num_peers: int) -> None:
    swarm = SparseSwarm(num_peers)
    swarm.play()
    nodes = list(swarm.nodes.values())
    assert all(len(node.commits) == 1 for node in nodes)
    assert len(swarm.digests()) == 1
    assert all(torch.equal(nodes[0].theta, node.theta) for node in nodes)
    value = nodes[0].commits[0].value
    assert nodes[0].commits[0].kind == "final"
    assert (len(value.cut), value.parts) == (num_peers, ())
    copies = num_peers * (num_peers - 1) * PIECES
    sent = sum(swarm.own.values()) + sum(swarm.relayed.values())
    assert copies <= sent <= 1.02 * copies + num_peers  # a request that moves may cross its answer
    if num_peers > 1:
        assert set(swarm.own.values()) == {PIECES}


def test_small_blobs_are_handed_to_everybody() -> None:
    swarm = SparseSwarm(5, eager=True)
    swarm.play()
    assert len(swarm.digests()) == 1
    assert sum(swarm.relayed.values()) == 0
    assert set(swarm.own.values()) == {4}  # all chunks in one piece, four others


def test_the_result_is_that_of_a_dense_exchange_but_for_its_second_quantisation() -> None:
    sparse, dense = SparseSwarm(4, codec="fp32"), Swarm(4, codec="fp32", numel=NUMEL, chunk_size=CHUNK)
    for swarm in (sparse, dense):
        swarm.start_round()
        swarm.close()
        swarm.run(30.0)
    (one, *_), (other, *_) = sparse.nodes.values(), dense.nodes.values()
    assert torch.equal(one.theta, other.theta)


def test_a_client_contributes_and_fetches_but_is_not_relied_on() -> None:
    swarm = SparseSwarm(4)
    client = next(iter(swarm.nodes.values()))
    client.role = "client"
    swarm.play()
    assert len(swarm.digests()) == 1
    assert all(len(node.commits[0].value.cut) == 4 for node in swarm.nodes.values())
    others = [swarm.relayed[key] for key in swarm.nodes if key != client.key]
    assert 2 * swarm.relayed[client.key] < min(others)  # asked where the others let wait, and only there
    assert swarm.own[client.key] == PIECES


def deliveries(num_peers: int) -> int:
    swarm = SparseSwarm(num_peers)
    swarm.play()
    return swarm.delivered


def at_boundary(swarm: SparseSwarm, at: int, victim: bytes) -> None:
    """Kill a peer when so many messages have been delivered."""

    def kill(count: int) -> None:
        if count == at:
            swarm.kill(victim)

    swarm.on_delivery = kill


@pytest.mark.parametrize("victim", [0, 1, 2, 3], ids=["leader", "second", "third", "last"])
def test_a_death_at_any_message_boundary_costs_at_most_one_attempt(victim: int) -> None:
    total = deliveries(4)
    for at_delivery in range(1 + victim, total + 1, 7):
        swarm = SparseSwarm(4)
        swarm.start_round()
        order = swarm.order

        at_boundary(swarm, at_delivery, order[victim])
        swarm.close()
        swarm.run(60.0)
        living = [node for node in swarm.nodes.values() if node.alive]
        finished = [node for node in living if node.commits]
        informed = [n for n in living if any(isinstance(x, outputs.NeedState) for x in n.notes)]
        assert len(finished) + len(informed) == len(living), at_delivery
        assert len(finished) >= 2, at_delivery
        assert len(swarm.digests()) == 1, at_delivery
        assert max(len(reasons(node)) for node in living) <= 1, at_delivery
        check_certificate(finished[0].commits[0], finished[0].machine.context.ledger.voters, toy_verify)


def test_what_came_in_one_attempt_is_not_fetched_again_in_the_next() -> None:
    swarm = SparseSwarm(4)
    swarm.start_round()
    order = swarm.order
    swarm.close()
    swarm.run_until(lambda: sum(swarm.own.values()) > 2 * PIECES)
    swarm.kill(order[0])
    swarm.run(60.0)
    left = [swarm.nodes[key] for key in order[1:]]
    assert all(len(node.commits) == 1 for node in left)
    # three peers fetch the blobs of two others; the leader's pieces and some under way were lost
    assert sum(swarm.own[key] + swarm.relayed[key] for key in order[1:]) <= 3 * 2 * PIECES + 3 * PIECES


def test_a_frozen_member_costs_time_but_no_attempt() -> None:
    for place in (1, 2, 3):
        swarm = SparseSwarm(4)
        swarm.start_round()
        order = swarm.order
        swarm.close()
        swarm.run_until(lambda swarm=swarm: sum(swarm.own.values()) >= 3)  # type: ignore[misc]
        swarm.nodes[order[place]].alive = False  # nobody is told
        swarm.run(60.0)
        living = [node for node in swarm.nodes.values() if node.alive]
        assert all(len(node.commits) == 1 for node in living)
        assert len(swarm.digests()) == 1
        assert {node.commits[0].attempt for node in living} == {0}
        assert {len(node.commits[0].value.cut) for node in living} <= {3, 4}


def test_a_weak_round_is_cut_by_the_voters_that_are_present() -> None:
    swarm = SparseSwarm(4)
    keys = list(swarm.nodes)
    for key in keys[:2]:
        swarm.kill(key)
    swarm.play()
    for key in keys[2:]:
        assert [certificate.kind for certificate in swarm.nodes[key].commits] == ["weak"]
    assert len(swarm.digests()) == 1


def test_a_slow_member_is_served_by_those_who_have_committed() -> None:
    swarm = SparseSwarm(4)
    swarm.start_round()
    order = swarm.order
    swarm.close()
    slow = swarm.nodes[order[3]]
    swarm.run_until(lambda: slow.machine.phase == "exchanging")
    swarm.slow_links[slow.key] = 0.3
    swarm.run(60.0)
    assert slow.commits
    assert not any(isinstance(note, outputs.NeedState) for note in slow.notes)
    assert len(swarm.digests()) == 1
    assert exchange_of(slow).missing == ()
