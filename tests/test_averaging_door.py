"""The door: a leader keeps newcomers out whose invites do not hold now; whom the ledger knows passes."""

from dataclasses import replace

from round_swarm import Node, Swarm

from talkoot.averaging import outputs
from talkoot.dht.identity import Identity
from talkoot.peer import admission


def swarm_with_door(reason: str | None) -> tuple[Swarm, Node, list[bytes]]:
    """Three voters and a newcomer; who was asked at the door is listed."""
    swarm = Swarm(4, num_voters=3)
    asked: list[bytes] = []

    def door(key: bytes, proof: bytes) -> str | None:
        assert proof == b"token-" + key[:8]
        asked.append(key)
        return reason

    swarm.start_round()
    for node in swarm.nodes.values():
        assert node.round is not None
        object.__setattr__(node.round.context, "door", door)
    newcomer = next(node for node in swarm.nodes.values() if node.key not in node.ledger.voters)
    return swarm, newcomer, asked


def test_a_refused_newcomer_is_left_out_and_not_waited_for() -> None:
    swarm, newcomer, asked = swarm_with_door("expired")
    swarm.close()
    swarm.run(0.9 * swarm.timing.form_s)
    voters = [node for node in swarm.nodes.values() if node is not newcomer]
    assert set(asked) == {newcomer.key}
    for node in voters:
        assert len(node.commits[0].value.cut) == 3
        assert newcomer.key not in node.ledger.voters
    refused = [note for node in voters for note in node.notes if isinstance(note, outputs.Refused)]
    assert (newcomer.key, "expired") in [(note.sender, note.reason) for note in refused]


def test_a_welcome_newcomer_is_asked_for_its_invite_once() -> None:
    swarm, newcomer, asked = swarm_with_door(None)
    swarm.close()
    swarm.run(30.0)
    assert asked == [newcomer.key]
    assert newcomer.key in newcomer.ledger.voters


def test_whom_the_ledger_knows_is_not_asked() -> None:
    swarm, newcomer, asked = swarm_with_door("expired")
    object.__setattr__(newcomer.machine.context.rules, "founders", (newcomer.key,))
    swarm.close()
    swarm.run(30.0)
    assert asked == []
    assert newcomer.key in newcomer.ledger.voters


def test_where_peers_are_listed_no_invite_helps() -> None:
    swarm, newcomer, asked = swarm_with_door(None)
    swarm.rules = replace(swarm.rules, listed=(bytes(32),))
    for node in swarm.nodes.values():
        object.__setattr__(node.machine.context, "rules", swarm.rules)
    swarm.close()
    swarm.run(30.0)
    assert asked == []
    assert swarm.counted["uninvited"]
    assert newcomer.key not in next(node.ledger for node in swarm.nodes.values() if node.commits).voters


def test_the_rule_of_the_door_asks_the_clock() -> None:
    founder, joiner = Identity.from_seed(b"f" * 32), Identity.from_seed(b"j" * 32)
    swarm, seed = b"s" * 32, b"t" * 32
    token = admission.issue(founder, swarm=swarm, seed=seed, expires=1000)
    proof = admission.prove(token, swarm=swarm, seed=seed, key=joiner.key)
    now = 999.0
    rule = admission.door_rule(swarm, (founder.key,), lambda: now)
    assert rule(joiner.key, proof) is None
    assert rule(joiner.key, b"") == "uninvited"
    assert rule(founder.key, proof) == "signature"
    now = 1001.0
    assert rule(joiner.key, proof) == "expired"
