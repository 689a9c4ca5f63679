"""Bad messages while a round forms: refused with a reason, without a change, and the honest commit."""

from typing import Any

import pytest
from averaging_help import prepared
from hostile_rig import (
    STRANGER,
    Attack,
    Scene,
    exchanging,
    fingerprint,
    formed,
    from_leader,
    from_villain,
    leaders,
    replace,
    run,
    scene,
    some_value,
    votes_of,
    weak_lock,
)
from round_swarm import Node, Swarm

from talkoot.averaging import outputs
from talkoot.averaging.certificate import Contribution
from talkoot.averaging.messages import Abort, Ahead, Call, Cut, Join, Lock, Proposal, Roster, Vote, sign
from talkoot.averaging.parts import Part, assign_parts
from talkoot.averaging.pulls import WORDS
from talkoot.averaging.round import MAX_JUMP

# -- while a follower waits for the roster -----------------------------------------------------------------


def roster(made: Scene, signer: Any = None, **changes: Any) -> Roster:
    """A roster of all four as the leader would sign it."""
    members = changes.pop("members", None) or [made.join_of(node) for node in made.swarm.nodes.values()]
    rules = made.victim.machine.context.rules
    values: dict[str, Any] = {
        "leader": made.order[0], "prior": made.victim.digest, "weak": False, "locked": None,
        "took_s": 0.1, "exchange_s": 2.0, "certify_s": 2.0,
        "members": tuple(sorted(members, key=lambda join: join.key)),
        "parts": assign_parts([(key, 0.0) for key in made.order], rules.num_chunks, 4),
    }  # fmt: skip
    return sign(Roster(**(made.here | values | changes)), signer or made.leader.signer)


def joins(made: Scene, node: Node | None = None, **changes: Any) -> list[Join]:
    """Joins of all four, one of them changed."""
    changed = node or made.villain
    return [
        made.join_of(other, **(changes if other is changed else {})) for other in made.swarm.nodes.values()
    ]


def without(made: Scene, *left_out: bytes) -> list[Join]:
    return [join for join in joins(made) if join.key not in left_out]


def client(made: Scene) -> list[Join]:
    """Joins of all four, of whom the last in order does not reduce."""
    return joins(made, made.swarm.nodes[made.order[3]], role="client")


def parts(made: Scene, *ranges: tuple[int, int, int]) -> tuple[Part, ...]:
    return tuple(Part(made.order[peer], first, count) for peer, first, count in ranges)


def contribution(made: Scene, node: Node, **changes: Any) -> Contribution:
    assert node.machine.local is not None
    header = replace(node.machine.local.header, **changes)
    return replace(header, signature=node.signer.sign(header.unsigned()))


TO_A_FOLLOWER: dict[str, tuple[Attack, str]] = {
    "an earlier round": (from_leader(lambda s: Ahead(round=-1, attempt=0)), "stale"),
    "a call of another branch": (
        from_leader(lambda s: Call(**s.here, prior=b"x" * 32, form_s=1.0)),
        "wrong_branch",
    ),
    "a call by who does not lead": (
        from_villain(lambda s: Call(**s.here, prior=s.victim.digest, form_s=1.0)),
        "not_the_leader",
    ),
    "a call from outside": (
        lambda s: (STRANGER.key, Call(**s.here, prior=s.victim.digest, form_s=1.0)),
        "not_the_leader",
    ),
    "a call to a far attempt": (
        lambda s: (
            s.victim.machine.context.leader(MAX_JUMP + 1),
            Call(round=0, attempt=MAX_JUMP + 1, prior=s.victim.digest, form_s=1.0),
        ),
        "too_far",
    ),
    "ahead, from no voter": (lambda s: (STRANGER.key, Ahead(round=0, attempt=1)), "not_a_voter"),
    "ahead, too far": (from_villain(lambda s: Ahead(round=0, attempt=MAX_JUMP + 1)), "too_far"),
    "a join, but we do not lead": (from_villain(lambda s: s.join_of(s.villain)), "not_the_leader"),
    "a message of another attempt": (from_leader(lambda s: roster(s, attempt=1)), "stale"),
    "a roster of another leader": (
        from_villain(lambda s: roster(s, s.villain.signer, leader=s.villain.key)),
        "signature",
    ),
    "a roster signed by another": (from_leader(lambda s: roster(s, s.villain.signer)), "signature"),
    "a roster for another branch": (from_leader(lambda s: roster(s, prior=b"x" * 32)), "wrong_round"),
    "a roster changed on its way": (
        from_leader(lambda s: replace(roster(s), parts=parts(s, (0, 0, 3)))),
        "signature",
    ),
    "a peer twice": (
        from_leader(lambda s: roster(s, members=[*joins(s), s.join_of(s.villain)])),
        "malformed",
    ),
    "not its leader": (from_leader(lambda s: roster(s, members=without(s, s.leader.key))), "malformed"),
    "without us": (
        from_leader(lambda s: roster(s, members=without(s, s.victim.key), parts=parts(s, (0, 0, 3)))),
        "left_out",
    ),
    "weak before others had their turn": (
        from_leader(lambda s: roster(s, members=without(s, *s.order[2:]), weak=True)),
        "too_early",
    ),
    "weak without need": (from_leader(lambda s: roster(s, weak=True)), "malformed"),
    "final without a quorum": (
        from_leader(lambda s: roster(s, members=without(s, *s.order[2:]))),
        "malformed",
    ),
    "a join of another attempt": (
        from_leader(lambda s: roster(s, members=joins(s, attempt=1))),
        "wrong_round",
    ),
    "a join of another branch": (
        from_leader(lambda s: roster(s, members=joins(s, prior=b"x" * 32))),
        "wrong_round",
    ),
    "a forged join": (
        from_leader(lambda s: roster(s, members=[replace(j, upload=1.0) for j in joins(s)])),
        "signature",
    ),
    "a lock of weak votes": (
        from_leader(lambda s: roster(s, parts=(), locked=weak_lock(s))),
        "weak",
    ),
    "a lock without a quorum": (
        from_leader(lambda s: roster(s, parts=(), locked=prepared(some_value(s), votes_of(s, 2)))),
        "no_quorum",
    ),
    "no parts": (from_leader(lambda s: roster(s, parts=())), "malformed"),
    "parts that overlap": (
        from_leader(lambda s: roster(s, parts=parts(s, (0, 0, 2), (1, 1, 2)))),
        "malformed",
    ),
    "parts with a hole": (
        from_leader(lambda s: roster(s, parts=parts(s, (0, 0, 1), (1, 2, 1)))),
        "malformed",
    ),
    "parts that end early": (from_leader(lambda s: roster(s, parts=parts(s, (0, 0, 2)))), "malformed"),
    "parts beyond the end": (from_leader(lambda s: roster(s, parts=parts(s, (0, 0, 4)))), "malformed"),
    "a reducer twice": (from_leader(lambda s: roster(s, parts=parts(s, (0, 0, 2), (0, 2, 1)))), "malformed"),
    "a reducer from outside": (
        from_leader(lambda s: roster(s, parts=(Part(STRANGER.key, 0, 3),))),
        "malformed",
    ),
    "a reducer that is a client": (
        from_leader(lambda s: roster(s, parts=parts(s, (3, 0, 3)), members=client(s))),
        "malformed",
    ),
    "a cut before the roster": (
        from_leader(lambda s: Cut(**s.here, roster=b"", contributors=(), holdings=(), took_s=0.1)),
        "out_of_order",
    ),
    "a vote before the roster": (
        from_villain(
            lambda s: Vote(**s.here, value_hash=b"", phase="commit", voter=s.villain.key, signature=b"")
        ),
        "out_of_order",
    ),
    "a proposal before the roster": (
        from_leader(lambda s: Proposal(**s.here, value=some_value(s), weak=False, prepared=None)),
        "out_of_order",
    ),
    "a lock before the roster": (
        from_leader(lambda s: Lock(**s.here, prepared=prepared(some_value(s), votes_of(s, 3)))),
        "out_of_order",
    ),
    "an abort before the roster": (
        from_villain(lambda s: Abort(**s.here, reason="bored", suspects=())),
        "out_of_order",
    ),
}


@pytest.mark.parametrize("name", TO_A_FOLLOWER)
def test_while_a_follower_waits_for_the_roster(name: str) -> None:
    run(scene(victim=1, until=formed), *TO_A_FOLLOWER[name])


def test_a_roster_out_of_order() -> None:
    made = scene(victim=1, until=formed)
    good = roster(made)
    bad = sign(replace(good, members=good.members[::-1]), made.leader.signer)
    run(made, lambda s: (s.leader.key, bad), "malformed")


# -- while the leader waits for joins ----------------------------------------------------------------------


def stranger_join(made: Scene) -> Join:
    return replace(made.join_of(made.villain), key=STRANGER.key)


TO_THE_LEADER: dict[str, tuple[Attack, str]] = {
    "on behalf of another": (from_villain(lambda s: s.join_of(s.swarm.nodes[s.order[2]])), "unasked"),
    "signed by another": (lambda s: (STRANGER.key, stranger_join(s)), "signature"),
    "for another branch": (from_villain(lambda s: s.join_of(s.villain, prior=b"x" * 32)), "wrong_round"),
    "for an attempt of another": (from_villain(lambda s: s.join_of(s.villain, attempt=1)), "not_the_leader"),
    "with another's contribution": (
        from_villain(lambda s: s.join_of(s.villain, contribution=contribution(s, s.leader))),
        "wrong_round",
    ),
    "with a contribution to another round": (
        from_villain(lambda s: s.join_of(s.villain, contribution=contribution(s, s.villain, round=1))),
        "wrong_round",
    ),
    "with a contribution to another branch": (
        from_villain(
            lambda s: s.join_of(s.villain, contribution=contribution(s, s.villain, prior=b"x" * 32))
        ),
        "wrong_round",
    ),
    "with a contribution to another swarm": (
        from_villain(
            lambda s: s.join_of(s.villain, contribution=contribution(s, s.villain, swarm=b"x" * 32))
        ),
        "wrong_round",
    ),
    "with a forged contribution": (
        from_villain(
            lambda s: s.join_of(s.villain, contribution=replace(contribution(s, s.villain), tokens=10**9))
        ),
        "signature",
    ),
    "with too few steps": (
        from_villain(lambda s: s.join_of(s.villain, contribution=contribution(s, s.villain, steps=3))),
        "too_few_steps",
    ),
    "of another size": (
        from_villain(lambda s: s.join_of(s.villain, contribution=contribution(s, s.villain, numel=7))),
        "wrong_layout",
    ),
    "in another codec": (
        from_villain(lambda s: s.join_of(s.villain, contribution=contribution(s, s.villain, codec="fp32"))),
        "wrong_layout",
    ),
    "with a norm that is no number": (
        from_villain(
            lambda s: s.join_of(s.villain, contribution=contribution(s, s.villain, norm2=float("nan")))
        ),
        "not_finite",
    ),
    "with a norm beyond bounds": (
        from_villain(lambda s: s.join_of(s.villain, contribution=contribution(s, s.villain, norm2=1e300))),
        "not_finite",
    ),
    "with a weak lock": (from_villain(lambda s: s.join_of(s.villain, lock=weak_lock(s))), "weak"),
    "with a lock without quorum": (
        from_villain(lambda s: s.join_of(s.villain, lock=prepared(some_value(s), votes_of(s, 2)))),
        "no_quorum",
    ),
    "with a lock of another round": (
        from_villain(
            lambda s: s.join_of(s.villain, lock=prepared(replace(some_value(s), round=7), votes_of(s, 3)))
        ),
        "wrong_round",
    ),
}


@pytest.mark.parametrize("name", TO_THE_LEADER)
def test_joins_that_a_leader_refuses(name: str) -> None:
    run(scene(victim=0, until=formed), *TO_THE_LEADER[name])


def test_the_first_join_of_a_peer_stands() -> None:
    made = scene(victim=0, until=formed)
    made.receive(made.villain.key, made.join_of(made.villain))
    before = fingerprint(made.victim.machine)
    assert made.receive(made.villain.key, made.join_of(made.villain, upload=1e9)) == []
    assert made.receive(made.villain.key, made.join_of(made.villain)) == []
    assert fingerprint(made.victim.machine) == before
    made.finish()


def test_a_join_after_the_roster_is_late() -> None:
    made = scene(victim=0, until=exchanging)
    run(made, lambda s: (s.villain.key, s.join_of(s.villain)), "late")


def test_who_speaks_of_a_later_round_is_only_reported() -> None:
    made = scene(victim=1, until=formed)
    before = fingerprint(made.victim.machine)
    assert made.receive(STRANGER.key, Ahead(round=9, attempt=0)) == [outputs.Behind(STRANGER.key, 9)]
    assert fingerprint(made.victim.machine) == before
    made.finish()


def test_a_call_that_was_held_and_is_too_far_is_refused_when_its_time_comes() -> None:
    made = scene(victim=1, until=formed)
    swarm, victim = made.swarm, made.victim
    swarm.give_round(victim)
    victim.machine._earliest = swarm.now + 1.0
    attempt = MAX_JUMP + 1
    call = Call(round=0, attempt=attempt, prior=victim.digest, form_s=1.0)
    sender = victim.machine.context.leader(attempt)
    assert victim.machine.receive(sender, call, swarm.now) == []
    assert victim.machine.next_tick == swarm.now + 1.0
    (refused,) = victim.machine.tick(swarm.now + 1.0)
    assert isinstance(refused, outputs.Refused)
    assert (refused.sender, refused.reason) == (sender, "too_far")
    assert victim.machine.next_tick is None


def test_a_voter_ends_few_attempts_of_others_in_a_round() -> None:
    """It calls everybody to its own next attempt whenever anything is delivered, and never goes there."""
    swarm = Swarm(4)
    order = leaders(swarm)
    caller = swarm.nodes[order[2]]

    def call_away(_count: int) -> None:
        for node in swarm.nodes.values():
            machine = node.machine
            if node is caller or machine.phase in ("idle", "done"):
                continue
            later = range(machine.attempt + 1, machine.attempt + 1 + MAX_JUMP)
            attempt = next(k for k in later if machine.context.leader(k) == caller.key)
            call = Call(round=0, attempt=attempt, prior=node.digest, form_s=1.0)
            swarm.perform(node, machine.receive(caller.key, call, swarm.now))

    swarm.on_delivery = call_away
    swarm.close()
    swarm.run(300.0)
    nodes = [node for node in swarm.nodes.values() if node is not caller]
    assert [len(node.commits) for node in nodes] == [1, 1, 1]
    assert {node.commits[0].kind for node in nodes} == {"final"}
    ended = [note.reason for node in nodes for note in node.notes if isinstance(note, outputs.AttemptOver)]
    assert ended.count("others_ahead") <= 2 * WORDS * len(nodes)
    refused = [note.reason for node in nodes for note in node.notes if isinstance(note, outputs.Refused)]
    assert "too_often" in refused


@pytest.mark.parametrize(
    ("seen", "desperate", "follows"), [(3, False, False), (3, True, True), (1, False, True)]
)
def test_a_leader_that_sees_nobody_but_one_finds_no_weak_round(
    seen: int, desperate: bool, follows: bool
) -> None:
    """In the third attempt, of which nobody else knows; only who sees a quorum itself knows better."""
    swarm = Swarm(4)
    order = leaders(swarm)
    victim, leader = swarm.nodes[order[1]], swarm.nodes[order[2]]
    machine = victim.machine
    machine.reachable({key for key in order if key != victim.key} if seen == 3 else {leader.key}, 0.0)
    if desperate:
        machine._failures = len(order)
    call = Call(round=0, attempt=2, prior=victim.digest, form_s=1.0)
    swarm.perform(victim, machine.receive(leader.key, call, 0.0))
    swarm.perform(leader, leader.machine.reachable({victim.key}, 0.0))
    leader.machine._start_attempt(2, 0.0)
    swarm.perform(leader, leader.machine._flush(0.0))
    swarm.run(60.0)
    assert [certificate.kind for certificate in victim.commits[:1]] == ["weak" if follows else "final"]
