"""Who let a deadline pass is hardly waited for in the next attempt, and trusted again once it is heard."""

import pytest
from round_swarm import Node, Swarm

from talkoot.averaging import outputs
from talkoot.averaging.blame import blamed
from talkoot.averaging.messages import MAX_MEMBERS, Abort, BulkHeader
from talkoot.averaging.rules import Timing

TIMING = Timing(form_s=8.0, exchange_s=4.0, certify_s=2.0, floor_s=1.0)


FROZEN = [(b"f", b"a"), (b"f", b"b"), (b"a", b"f"), (b"b", b"f"), (b"f", b"f")]


@pytest.mark.parametrize(
    ("missing", "guilty"),
    [
        ([], set()),
        (FROZEN, {b"f"}),
        (FROZEN[:2], {b"f"}),  # it had received all, but sent nothing
        (FROZEN[2:4], {b"f"}),  # it had sent all, but acknowledged nothing
        ([(b"a", b"b")], {b"a", b"b"}),  # nobody knows which
        ([*FROZEN, (b"g", b"a"), (b"g", b"b"), (b"b", b"g")], {b"f", b"g"}),
    ],
)
def test_few_explain_what_is_missing(missing: list[tuple[bytes, bytes]], guilty: set[bytes]) -> None:
    assert blamed(missing) == guilty


def make() -> tuple[Swarm, list[Node]]:
    """Four peers that have begun to exchange, in the order in which they lead."""
    swarm = Swarm(4, numel=12 * 1024 - 100, chunk_size=1024, timing=TIMING)
    swarm.start_round()
    nodes = [swarm.nodes[key] for key in next(iter(swarm.nodes.values())).machine.context.order]
    swarm.close()
    swarm.run_until(lambda: all(node.machine.phase == "exchanging" for node in nodes))
    return swarm, nodes


@pytest.mark.parametrize("victim", [0, 1, 3])
def test_a_frozen_peer_costs_its_deadline_once(victim: int) -> None:
    swarm, nodes = make()
    nodes[victim].alive = False  # its connections stay
    began = swarm.now
    others = [node for node in nodes if node is not nodes[victim]]
    swarm.run_until(lambda: all(node.commits for node in others))
    assert swarm.now - began < 1.5 * (TIMING.exchange_s + TIMING.certify_s) + TIMING.floor_s
    assert {node.commits[0].kind for node in others} == {"final"}
    assert len({node.commits[0].value.digest for node in others}) == 1


def test_who_lacks_a_part_at_the_end_suspects_its_reducer() -> None:
    """The leader may have all parts itself, and not know why nobody votes."""
    swarm, nodes = make()
    swarm.run_until(lambda: all(node.machine.phase == "certifying" for node in nodes))
    member = nodes[1].machine
    running = member._running
    assert running is not None
    missing = set(running._exchange.missing if running._exchange is not None else ())
    message = Abort(round=0, attempt=0, reason="certifying_timeout", suspects=())
    assert missing - {member.context.key}
    late = swarm.now + running.limits["certify"].seconds
    member.receive(nodes[0].key, message, late)
    assert member.suspects == missing - {member.context.key}


def test_an_abort_right_after_the_cut_makes_nobody_suspect() -> None:
    swarm, nodes = make()
    swarm.run_until(lambda: all(node.machine.phase == "certifying" for node in nodes))
    message = Abort(round=0, attempt=0, reason="bored", suspects=())
    nodes[1].machine.receive(nodes[0].key, message, swarm.now)
    assert nodes[1].machine.suspects == set()


def test_a_bulk_frame_is_a_sign_of_life() -> None:
    swarm, nodes = make()
    machine = nodes[1].machine
    machine.suspects = frozenset({nodes[2].key, nodes[3].key})
    header = BulkHeader("slice", 0, 0, nodes[2].key, 0)
    machine.receive_bulk(nodes[2].key, header, b"", swarm.now)
    assert machine.suspects == {nodes[3].key}


def test_a_leader_without_a_quorum_waits_for_suspects_too() -> None:
    swarm = Swarm(4, numel=12 * 1024 - 100, chunk_size=1024, timing=TIMING)
    swarm.start_round()
    nodes = [swarm.nodes[key] for key in next(iter(swarm.nodes.values())).machine.context.order]
    for node in nodes:
        node.machine.suspects = frozenset(other.key for other in nodes[2:])
    for node in nodes[2:]:
        node.alive = False
    swarm.close(nodes[0].key, nodes[1].key)
    swarm.run(TIMING.form_s / 2)
    assert nodes[0].machine.phase == "forming"
    assert not any(isinstance(note, outputs.AttemptOver) for note in nodes[0].notes)


def test_what_a_leader_names_is_suspected_only_as_far_as_it_can_be_meant() -> None:
    """Else its keys would be carried from round to round for ever."""
    swarm, nodes = make()
    member, villain = nodes[1].machine, nodes[0].key
    strangers = tuple(bytes([n]) * 32 for n in range(100, 160))
    named = (nodes[1].key, nodes[2].key, *strangers, b"", b"odd", bytes(1000))
    member.receive(villain, Abort(round=0, attempt=0, reason="bored", suspects=named), swarm.now)
    assert member.suspects == {nodes[2].key}


def test_who_is_gone_is_forgotten_when_others_are_suspected() -> None:
    swarm, nodes = make()
    member = nodes[1].machine
    gone, guest = b"g" * 32, b"h" * 32  # neither votes
    member.reachable({*member._reachable, guest}, swarm.now)
    member.suspects = frozenset({gone, guest, nodes[3].key})
    abort = Abort(round=0, attempt=0, reason="bored", suspects=(nodes[2].key,))
    member.receive(nodes[0].key, abort, swarm.now)
    assert member.suspects == {guest, nodes[2].key, nodes[3].key}


def test_suspects_stay_bounded_over_many_rounds() -> None:
    suspects: frozenset[bytes] = frozenset()
    for round_number in range(5):
        swarm, nodes = make()
        member = nodes[1].machine
        member.suspects = suspects
        named = tuple(bytes([round_number, n]) * 16 for n in range(MAX_MEMBERS))
        abort = Abort(round=0, attempt=0, reason="bored", suspects=named)
        member.receive(nodes[0].key, abort, swarm.now)
        suspects = member.suspects
    assert suspects == frozenset()
