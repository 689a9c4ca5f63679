"""Lies in a sparse exchange: refused with a reason and without a change, and the honest commit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hostile_rig import STRANGER, fingerprint, replace
from round_swarm import Node
from sparse_rig import CHUNK, NUMEL, SparseSwarm, exchange_of

from talkoot.averaging import outputs
from talkoot.averaging.holdings import state_holding
from talkoot.averaging.messages import (
    Asked,
    BulkHeader,
    BulkKind,
    Cut,
    Have,
    Holding,
    Message,
    Roster,
    Run,
    Wait,
    Want,
    sign,
)

PIECES = -(-NUMEL // CHUNK)


@dataclass
class Scene:
    """Four voters in the middle of a sparse exchange; `victim` is the second in the order of leaders."""

    swarm: SparseSwarm
    order: list[bytes]
    place: int = 1

    @property
    def leader(self) -> Node:
        return self.swarm.nodes[self.order[0]]

    @property
    def victim(self) -> Node:
        return self.swarm.nodes[self.order[self.place]]

    @property
    def villain(self) -> Node:
        return self.swarm.nodes[self.order[2]]

    @property
    def other(self) -> Node:
        return self.swarm.nodes[self.order[3]]

    @property
    def roster(self) -> Roster:
        running = self.victim.machine.last
        assert running is not None
        assert running.roster is not None
        return running.roster

    @property
    def here(self) -> dict[str, int]:
        return {"round": 0, "attempt": 0}

    def number(self, node: Node) -> int:
        """The number of a node's blob."""
        return sorted(self.order).index(node.key)

    def header(self, kind: BulkKind, owner: bytes, piece: int) -> BulkHeader:
        return BulkHeader(kind, 0, 0, owner, piece)

    def refuses(self, bad: Callable[[], list[outputs.Output]]) -> str:
        before = fingerprint(self.victim.machine)
        outs = bad()
        assert len(outs) == 1, outs
        assert isinstance(outs[0], outputs.Refused), outs
        assert fingerprint(self.victim.machine) == before
        return outs[0].reason

    def finish(self) -> None:
        """Everyone commits the same round."""
        self.swarm.run(self.swarm.now + 60.0)
        nodes = self.swarm.nodes.values()
        assert all(len(node.commits) == 1 for node in nodes)
        assert len(self.swarm.digests()) == 1
        assert {node.commits[0].kind for node in nodes} == {"final"}
        assert {node.commits[0].attempt for node in nodes} == {0}


def scene(place: int = 1) -> Scene:
    """Stopped when everyone has the roster and the victim the first of others' pieces."""
    swarm = SparseSwarm(4)
    swarm.start_round()
    made = Scene(swarm, swarm.order, place)
    swarm.close()
    swarm.run_until(lambda: all(node.machine.phase == "exchanging" for node in swarm.nodes.values()))
    swarm.run_until(
        lambda: any(
            blob.held and blob.header.key != made.victim.key for blob in exchange_of(made.victim)._blobs
        )
    )
    return made


Say = Callable[[Scene], tuple[bytes, Message]]

MESSAGES: dict[str, tuple[Say, str]] = {
    "pieces of a stranger": (
        lambda s: (STRANGER.key, Have(**s.here, runs=(Run(0, 0, 1),))),
        "unasked",
    ),
    "pieces of no blob": (
        lambda s: (s.villain.key, Have(**s.here, runs=(Run(4, 0, 1),))),
        "malformed",
    ),
    "more pieces than there are": (
        lambda s: (s.villain.key, Have(**s.here, runs=(Run(0, 1, PIECES),))),
        "malformed",
    ),
    "a request of a stranger": (
        lambda s: (STRANGER.key, Want(**s.here, pieces=(Asked(0, 0, True),))),
        "out_of_order",
    ),
    "a request for no blob": (
        lambda s: (s.villain.key, Want(**s.here, pieces=(Asked(63, 0, True),))),
        "unasked",
    ),
    "a request for a piece that there is not": (
        lambda s: (s.villain.key, Want(**s.here, pieces=(Asked(s.number(s.victim), PIECES, True),))),
        "unasked",
    ),
    "a request for what we never named": (
        lambda s: (s.villain.key, Want(**s.here, pieces=(Asked(*lacking(s), True),))),
        "unasked",
    ),
    "a wait for no piece": (lambda s: (s.villain.key, Wait(**s.here, blob=9, piece=0)), "malformed"),
    "a holding, but we do not lead": (
        lambda s: (s.villain.key, holding(s, s.villain, 1)),
        "not_the_leader",
    ),
    "an announcement for a later attempt": (
        lambda s: (s.villain.key, Have(round=0, attempt=1, runs=())),
        "stale",
    ),
}


def lacking(made: Scene) -> tuple[int, int]:
    """A piece that the victim does not hold."""
    for number, blob in enumerate(exchange_of(made.victim)._blobs):
        for piece in range(PIECES):
            if not blob.held >> piece & 1:
                return number, piece
    raise AssertionError


def holding(made: Scene, voter: Node, mask: int) -> Holding:
    numbers = [number for number in range(4) if mask >> number & 1]
    return state_holding(voter.machine.context, made.roster, numbers)


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_that_a_member_refuses(name: str) -> None:
    made = scene()
    sender, message = MESSAGES[name][0](made)
    assert (
        made.refuses(lambda: made.victim.machine.receive(sender, message, made.swarm.now))
        == (MESSAGES[name][1])
    )
    made.finish()


Bulk = Callable[[Scene], tuple[bytes, BulkHeader, bytes]]

FRAMES: dict[str, tuple[Bulk, str]] = {
    "a piece of another's blob that was not asked for": (
        lambda s: (s.villain.key, s.header("piece", s.other.key, lacking_of(s, s.other)), b"x"),
        "unasked",
    ),
    "a piece of a stranger": (
        lambda s: (STRANGER.key, s.header("piece", s.other.key, 0), b"x"),
        "unasked",
    ),
    "a piece of a blob that there is not": (
        lambda s: (s.villain.key, s.header("piece", STRANGER.key, 0), b"x"),
        "unasked",
    ),
    "a piece that there is not": (
        lambda s: (s.villain.key, s.header("piece", s.villain.key, PIECES), b"x"),
        "unasked",
    ),
    "a slice": (lambda s: (s.villain.key, s.header("slice", s.villain.key, 0), b"x"), "unasked"),
    "an index that was not asked for": (
        lambda s: (STRANGER.key, s.header("index", s.other.key, 0), b"x"),
        "unasked",
    ),
}


def lacking_of(made: Scene, owner: Node) -> int:
    """A piece of this blob that the victim neither has nor asked the villain for."""
    exchange = exchange_of(made.victim)
    number = made.number(owner)
    for piece in range(PIECES):
        asked = exchange._fetch.was_asked(made.villain.key, (number, piece))
        if not exchange._blobs[number].held >> piece & 1 and not asked:
            return piece
    raise AssertionError


@pytest.mark.parametrize("name", FRAMES)
def test_frames_that_a_member_refuses(name: str) -> None:
    made = scene()
    sender, header, payload = FRAMES[name][0](made)
    receive = made.victim.machine.receive_bulk
    assert made.refuses(lambda: receive(sender, header, payload, made.swarm.now)) == FRAMES[name][1]
    made.finish()


@pytest.mark.parametrize("damage", ["short", "long", "other bytes"])
def test_a_wrong_piece_is_refused_and_fetched_elsewhere(damage: str) -> None:
    made = scene()
    owner = made.villain
    number = made.number(owner)
    blob = exchange_of(made.victim)._blobs[number]
    whole = exchange_of(owner)._blobs[number]
    assert whole.index is not None
    machine, now = made.victim.machine, made.swarm.now
    machine.receive_bulk(owner.key, made.header("index", owner.key, 0), whole.index.encode(), now)
    piece = next(piece for piece in range(PIECES) if not blob.held >> piece & 1)
    good = bytes(whole.payload(piece))
    bad = {"short": good[:-1], "long": good + b"x", "other bytes": bytes(len(good))}[damage]
    held = blob.held
    outs = machine.receive_bulk(owner.key, made.header("piece", owner.key, piece), bad, now)
    reasons = [out.reason for out in outs if isinstance(out, outputs.Refused)]
    assert reasons == ["wrong_hash" if damage == "other bytes" else "malformed"]
    assert blob.held == held
    made.swarm.perform(made.victim, outs)
    made.finish()


def test_a_piece_before_its_index_and_twice() -> None:
    made = scene()
    owner = made.other
    exchange, machine, now = exchange_of(made.victim), made.victim.machine, made.swarm.now
    number = made.number(owner)
    blob, whole = exchange._blobs[number], exchange_of(owner)._blobs[number]
    piece = next(piece for piece in range(PIECES) if not blob.held >> piece & 1)
    header = made.header("piece", owner.key, piece)
    if blob.index is None:
        frame = whole.payload(piece)
        assert made.refuses(lambda: machine.receive_bulk(owner.key, header, frame, now)) == "out_of_order"
    assert whole.index is not None
    machine.receive_bulk(owner.key, made.header("index", owner.key, 0), whole.index.encode(), now)
    made.swarm.perform(made.victim, machine.receive_bulk(owner.key, header, whole.payload(piece), now))
    before = fingerprint(machine)
    assert machine.receive_bulk(owner.key, header, whole.payload(piece), now) == []
    assert fingerprint(machine) == before
    made.finish()


# -- statements and cuts -----------------------------------------------------------------------------------

STATEMENTS: dict[str, tuple[Callable[[Scene], Holding], str]] = {
    "for another roster": (lambda s: replace(holding(s, s.other, 1), roster=b"x" * 32), "wrong_round"),
    "of a stranger": (lambda s: replace(holding(s, s.other, 1), voter=STRANGER.key), "not_a_voter"),
    "of contributions that there are not": (
        lambda s: sign(replace(holding(s, s.other, 1), blobs=b"\x10"), s.other.signer),
        "malformed",
    ),
    "too long": (
        lambda s: sign(replace(holding(s, s.other, 1), blobs=b"\x01\x00"), s.other.signer),
        "malformed",
    ),
    "not signed": (lambda s: replace(holding(s, s.other, 1), signature=bytes(64)), "signature"),
    "signed for less": (
        lambda s: replace(holding(s, s.other, 1), blobs=b"\x0f"),
        "signature",
    ),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_that_a_leader_refuses(name: str) -> None:
    made = scene(place=0)
    bad, reason = STATEMENTS[name]
    message = bad(made)
    receive = made.victim.machine.receive
    assert made.refuses(lambda: receive(made.other.key, message, made.swarm.now)) == reason
    made.finish()


def test_a_statement_that_takes_back_another() -> None:
    made = scene(place=0)
    receive, now = made.victim.machine.receive, made.swarm.now
    made.swarm.perform(made.victim, receive(made.other.key, holding(made, made.other, 0b1111), now))
    back = holding(made, made.other, 0b0001)
    assert made.refuses(lambda: receive(made.other.key, back, now)) == "equivocation"
    made.finish()


def cut(made: Scene, *masks: int, **changes: Any) -> Cut:
    """A cut from statements of the first voters, signed by the leader."""
    nodes = [made.swarm.nodes[key] for key in sorted(made.order)][: len(masks)]
    holdings = tuple(holding(made, node, mask) for node, mask in zip(nodes, masks, strict=True))
    values: dict[str, Any] = {
        "roster": made.roster.hash, "contributors": tuple(sorted(made.order)), "holdings": holdings,
        "took_s": 0.1,
    }  # fmt: skip
    return sign(Cut(**(made.here | values | changes)), made.leader.signer)


ALL = 0b1111

CUTS: dict[str, tuple[Callable[[Scene], Cut], str]] = {
    "of more than all of them hold": (lambda s: cut(s, ALL, ALL, 0b0111), "wrong_cut"),
    "of less than all of them hold": (
        lambda s: cut(s, ALL, ALL, ALL, contributors=tuple(sorted(s.order)[:3])),
        "wrong_cut",
    ),
    "from too few statements": (lambda s: cut(s, ALL, ALL), "no_quorum"),
    "from more than a quorum": (lambda s: cut(s, ALL, ALL, ALL, ALL), "no_quorum"),
    "without statements": (lambda s: cut(s), "no_quorum"),
    "with one voter twice": (
        lambda s: cut(s, holdings=(holding(s, s.other, ALL),) * 3),
        "no_quorum",
    ),
    "with a forged statement": (
        lambda s: cut(s, holdings=forged(s)),
        "signature",
    ),
    "of nobody": (lambda s: cut(s, 0, 0, 0, contributors=()), "malformed"),
    "for another roster": (lambda s: cut(s, ALL, ALL, ALL, roster=b"x" * 32), "malformed"),
    "signed by another": (
        lambda s: sign(cut(s, ALL, ALL, ALL), s.villain.signer),
        "signature",
    ),
}


def forged(made: Scene) -> tuple[Holding, ...]:
    good = cut(made, ALL, ALL, ALL).holdings
    return (good[0], good[1], replace(good[2], signature=bytes(64)))


@pytest.mark.parametrize("name", CUTS)
def test_cuts_that_a_member_refuses(name: str) -> None:
    made = scene()
    bad, reason = CUTS[name]
    message = bad(made)
    receive = made.victim.machine.receive
    assert made.refuses(lambda: receive(made.leader.key, message, made.swarm.now)) == reason
    made.finish()
