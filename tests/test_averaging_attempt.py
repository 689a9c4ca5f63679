"""Attempts: who leads, what is tried again, and when a round is given up."""

from dataclasses import replace
from typing import Any

import pytest
from hostile_rig import CHUNK, NUMEL
from round_swarm import Node, Swarm, ToySigner, toy_verify

from talkoot.averaging import outputs
from talkoot.averaging.certificate import check_certificate
from talkoot.averaging.messages import MAX_MEMBERS, Ahead, Call, Committed, Join, sign
from talkoot.averaging.round import Round


def make(num_peers: int, **options: Any) -> tuple[Swarm, list[Node]]:
    """A swarm, and its voters in the order in which they lead."""
    swarm = Swarm(num_peers, numel=NUMEL, chunk_size=CHUNK, **options)
    swarm.start_round()
    order = next(iter(swarm.nodes.values())).machine.context.order
    return swarm, [swarm.nodes[key] for key in order]


def over(node: Node) -> list[str]:
    return [note.reason for note in node.notes if isinstance(note, outputs.AttemptOver)]


def given_up(node: Node) -> list[str]:
    return [note.reason for note in node.notes if isinstance(note, outputs.GaveUp)]


def digests(nodes: list[Node]) -> set[bytes]:
    return {node.commits[0].value.digest for node in nodes}


def test_leaders_that_cannot_be_reached_are_passed_over() -> None:
    swarm, nodes = make(7)
    for node in nodes[:2]:
        swarm.kill(node.key)
    swarm.run(1.0)
    swarm.close()
    swarm.run(30.0)
    assert {node.commits[0].attempt for node in nodes[2:]} == {2}
    assert digests(nodes[2:]) == digests(nodes[2:3])
    assert [over(node) for node in nodes[2:]] == [[]] * 5


def test_a_frozen_leader_costs_one_window() -> None:
    swarm, nodes = make(4)
    nodes[0].alive = False
    swarm.close()
    swarm.run(30.0)
    assert {node.commits[0].attempt for node in nodes[1:]} == {1}
    assert all("forming_timeout" in over(node) or "others_ahead" in over(node) for node in nodes[1:])


def test_contributions_are_byte_identical_in_every_attempt() -> None:
    swarm, nodes = make(4)
    nodes[0].alive = False
    swarm.close()
    swarm.run(0.5)
    first = {node.key: node.machine.local for node in nodes[1:]}
    swarm.run(30.0)
    for item in nodes[1].commits[0].value.cut:
        local = first[item.key]
        assert local is not None
        assert item == local.header


def test_a_reducer_that_dies_is_not_given_a_part_in_the_next_attempt() -> None:
    swarm, nodes = make(4)
    swarm.close()
    swarm.run_until(lambda: nodes[0].machine.phase == "exchanging")
    swarm.kill(nodes[3].key)
    swarm.run(30.0)
    value = nodes[0].commits[0].value
    assert digests(nodes[:3]) == {value.digest}
    assert nodes[3].key not in {part.reducer for part in value.parts}


@pytest.mark.parametrize("victim", [0, 2])
def test_a_voter_that_comes_back_remembers_its_lock(victim: int) -> None:
    swarm, nodes = make(4)
    node = nodes[victim]
    swarm.close()
    swarm.run_until(lambda: node.journal is not None and node.journal.lock is not None)
    assert node.journal is not None
    lock = node.journal.lock
    assert lock is not None
    node.alive = False
    swarm.run(swarm.now + 0.001)
    node.alive = True
    swarm.give_round(node)
    assert node.machine.attempt == lock.attempt + 1
    swarm.connect()
    swarm.close()
    swarm.run(60.0)
    committed = [other for other in nodes if other.commits]
    assert len(committed) >= 3
    assert digests(committed) == {lock.value.digest}


def yield_(node: Node) -> None:
    """Have it leave leading to others."""
    context = node.machine.context
    node.round = Round(context, role=node.role, upload=0.0, earliest=0.0, journal=node.journal, yields=True)


@pytest.mark.parametrize("others_first", [False, True])
def test_who_yields_leaves_its_turn_to_the_next_at_once(others_first: bool) -> None:
    swarm, nodes = make(4)
    yield_(nodes[0])
    swarm.connect()
    swarm.run(1.0)
    began = swarm.now
    for node in reversed(nodes) if others_first else nodes:
        swarm.close(node.key)
    swarm.run_until(lambda: all(node.commits for node in nodes))
    assert {node.commits[0].attempt for node in nodes} == {1}
    assert {len(node.commits[0].value.cut) for node in nodes} == {4}
    assert swarm.now - began < 1.0


def test_who_yields_leads_where_nobody_else_does() -> None:
    swarm, nodes = make(3, num_voters=1)
    yield_(nodes[0])
    swarm.connect()
    swarm.close()
    swarm.run(60.0)
    assert {node.commits[0].attempt for node in nodes} == {0}


def test_alone_without_leaders_a_client_gives_up_and_may_try_again() -> None:
    swarm, nodes = make(3, num_voters=1)
    clients = [node for node in swarm.nodes.values() if node is not nodes[0]]
    swarm.kill(nodes[0].key)
    swarm.run(1.0)
    for _ in range(2):
        swarm.close()
        swarm.run(swarm.now + 60.0)
    for node in clients:
        assert given_up(node) == ["leaders_unreachable"] * 2
        assert node.machine.phase == "idle"
    nodes[0].alive = True
    swarm.give_round(nodes[0])
    swarm.connect()
    swarm.close()
    swarm.run(swarm.now + 60.0)
    assert nodes[0].commits
    for node in clients:
        assert node.commits or any(isinstance(note, outputs.NeedState) for note in node.notes)


def test_a_round_in_which_nobody_weighs_is_given_up() -> None:
    swarm, nodes = make(2, num_voters=1)
    stranger = next(node for node in swarm.nodes.values() if node is not nodes[0])
    swarm.rules = replace(swarm.rules, admit=lambda key, proof: None)
    nodes[0].steps = 1
    swarm.start_round()
    swarm.close()
    swarm.run(600.0)
    assert stranger.machine.local is not None
    assert not nodes[0].commits
    assert "nothing_weighs" in over(nodes[0])
    assert given_up(nodes[0])


def test_a_round_without_contributions_is_given_up() -> None:
    swarm, nodes = make(3)
    for node in nodes:
        node.steps = 1
    swarm.close()
    swarm.run(600.0)
    assert not any(node.commits for node in nodes)
    assert all(given_up(node) for node in nodes)


def test_two_machines_in_the_exchange_at_the_deadline_go_on_with_who_has_sent_all() -> None:
    swarm, nodes = make(4)
    swarm.slow_jobs[nodes[3].key] = 10.0  # its contribution is ready long after the window
    swarm.close()
    swarm.run(30.0)
    assert {len(node.commits[0].value.cut) for node in nodes[:3]} == {3}
    assert digests(nodes[:3]) == digests(nodes[:1])


def test_more_early_joins_than_a_group_has_places() -> None:
    _, nodes = make(1)
    leader = nodes[0]
    for number in range(100, 100 + MAX_MEMBERS + 5):
        signer = ToySigner(number)
        join = Join(
            round=0, attempt=0, key=signer.key, prior=leader.digest, role="client", upload=0.0,
            contribution=None, lock=None, holds=(), expects_s=(0.0,) * 3, memory="whole",
        )  # fmt: skip
        assert leader.machine.receive(signer.key, sign(join, signer), 0.0) == []
    outs = leader.machine.close(0.0)
    refused = [out.reason for out in outs if isinstance(out, outputs.Refused)]
    assert refused == ["full"] * 5


def test_an_early_join_is_taken_when_its_attempt_begins() -> None:
    swarm, nodes = make(2)
    swarm.close(nodes[1].key)  # it joins a leader that has not closed the round yet
    swarm.run(0.5)
    assert nodes[0].machine.phase == "idle"
    swarm.close(nodes[0].key)
    swarm.run(1.0)  # long before the window ends
    assert digests(nodes) == digests(nodes[:1])


def test_before_its_time_a_round_follows_no_call() -> None:
    swarm, nodes = make(3)
    follower = nodes[1]
    swarm.give_round(follower)
    follower.machine._earliest = 5.0
    swarm.connect()
    swarm.close(nodes[0].key)
    swarm.run(1.0)
    assert follower.machine.phase == "idle"
    assert follower.machine.next_tick == 5.0


def test_who_was_left_behind_is_told_the_attempt() -> None:
    _, nodes = make(4)
    late = nodes[3].machine
    call = Call(round=0, attempt=2, prior=nodes[3].digest, form_s=1.0)
    late.reachable({node.key for node in nodes[:3]}, 0.0)
    late.receive(nodes[2].key, call, 0.0)
    assert late.attempt == 2
    outs = late.receive(nodes[0].key, replace_attempt(call, 0), 0.0)
    assert outs == [outputs.Send(nodes[0].key, Ahead(round=0, attempt=2))]


def replace_attempt(call: Call, attempt: int) -> Call:
    return Call(round=call.round, attempt=attempt, prior=call.prior, form_s=1.0)


@pytest.mark.parametrize(("num_peers", "num_dead"), [(2, 1), (3, 2), (4, 2), (4, 3)])
def test_who_is_left_with_a_lock_goes_on_weakly_with_its_value(num_peers: int, num_dead: int) -> None:
    swarm, nodes = make(num_peers)
    swarm.close()
    swarm.run_until(lambda: any(node.journal is not None and node.journal.lock for node in nodes))
    locked = next(node for node in nodes if node.journal is not None and node.journal.lock)
    dead = [node for node in nodes if node is not locked][:num_dead]
    for node in dead:
        swarm.kill(node.key)
    assert locked.journal is not None
    assert locked.journal.lock is not None
    value = locked.journal.lock.value
    swarm.run(swarm.now + 600.0)
    left = [node for node in nodes if node.alive]
    for node in left:
        assert [certificate.kind for certificate in node.commits] == ["weak"]
        assert node.commits[0].value == value
        check_certificate(node.commits[0], node.machine.context.ledger.voters, toy_verify)
    for node in dead:  # they come back with the same value staged
        node.alive = True
    swarm.connect()
    for node in dead:
        outs = node.machine.receive(
            locked.key, Committed(round=0, attempt=0, certificate=locked.commits[0]), swarm.now
        )
        assert any(isinstance(out, outputs.Commit | outputs.NeedState) for out in outs)
