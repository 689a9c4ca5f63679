"""Bad slices, statements, aggregates and cuts: refused with a reason, without a change, and the honest
commit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hostile_rig import CHUNK, STRANGER, Scene, exchanging, fingerprint, from_leader, replace, run, scene
from round_swarm import Node, Swarm

from talkoot.averaging import outputs
from talkoot.averaging.claims import sign_claim
from talkoot.averaging.contribution import ENTRY_BYTES, Entry, Index, LocalContribution, sign_contribution
from talkoot.averaging.digest import content_hash
from talkoot.averaging.messages import Aggregate, BulkHeader, Cut, Receipt, Roster, sign
from talkoot.averaging.parts import Part
from talkoot.averaging.wire import encode

Bulk = Callable[[Scene], tuple[bytes, BulkHeader, bytes]]
"""Who sends which frame."""


def part_of(made: Scene, key: bytes) -> Part:
    return next(part for part in made.roster.parts if part.reducer == key)


def local_of(node: Node) -> LocalContribution:
    assert node.machine.local is not None
    return node.machine.local


def index_frame(made: Scene, data: bytes | None = None) -> tuple[bytes, BulkHeader, bytes]:
    own = local_of(made.villain).index.encode() if data is None else data
    return made.villain.key, made.slice_header("index", made.villain.key, 0), own


def slice_frame(made: Scene, chunk: int, data: bytes | None = None) -> tuple[bytes, BulkHeader, bytes]:
    own = bytes(local_of(made.villain).chunks[chunk]) if data is None else data
    return made.villain.key, made.slice_header("slice", made.villain.key, chunk), own


def our_chunk(made: Scene) -> int:
    return part_of(made, made.victim.key).first_chunk


def foreign_chunk(made: Scene) -> int:
    return part_of(made, made.villain.key).first_chunk


def on_behalf(made: Scene) -> tuple[bytes, BulkHeader, bytes]:
    _, header, data = index_frame(made)
    return made.leader.key, header, data


def elsewhere(**changes: Any) -> Bulk:
    def frame(made: Scene) -> tuple[bytes, BulkHeader, bytes]:
        sender, header, data = index_frame(made)
        return sender, replace(header, **changes), data

    return frame


def with_norm(made: Scene, norm2: float) -> bytes:
    entries = list(local_of(made.villain).index.entries)
    entries[0] = Entry(entries[0].hash, norm2)
    return Index(entries).encode()


SLICES: dict[str, tuple[Bulk, str]] = {
    "of a later round": (elsewhere(round=1), "unasked"),
    "of a later attempt": (elsewhere(attempt=1), "unasked"),
    "on behalf of another": (on_behalf, "unasked"),
    "from outside": (lambda s: (STRANGER.key, s.slice_header("index", STRANGER.key, 0), b""), "unasked"),
    "an index that is too short": (lambda s: index_frame(s, b"x" * (ENTRY_BYTES - 1)), "malformed"),
    "an index that is too long": (lambda s: index_frame(s, bytes(10 * ENTRY_BYTES)), "malformed"),
    "an index of something else": (lambda s: index_frame(s, bytes(3 * ENTRY_BYTES)), "wrong_index"),
    "an index with another norm": (lambda s: index_frame(s, with_norm(s, 1.0)), "wrong_index"),
    "an index with norms that overflow": (lambda s: index_frame(s, with_norm(s, 1.7e308)), "not_finite"),
    "an index with a norm that is none": (lambda s: index_frame(s, with_norm(s, float("nan"))), "not_finite"),
    "a slice before its index": (lambda s: slice_frame(s, our_chunk(s)), "out_of_order"),
    "a slice of another part": (lambda s: slice_frame(s, foreign_chunk(s)), "unasked"),
    "a slice of no part": (lambda s: slice_frame(s, 99, b""), "unasked"),
}


@pytest.mark.parametrize("name", SLICES)
def test_slices_that_a_reducer_refuses(name: str) -> None:
    bad, reason = SLICES[name]
    made = scene(victim=1, until=exchanging)
    sender, header, data = bad(made)
    assert made.refuses(lambda: made.receive_bulk(sender, header, data), sender) == reason
    made.finish()


def test_slices_that_are_not_what_was_signed() -> None:
    made = scene(victim=1, until=exchanging)
    assert made.receive_bulk(*index_frame(made)) == []
    good = slice_frame(made, our_chunk(made))[2]
    for data, reason in (
        (b"", "malformed"),
        (good + b"\0", "malformed"),
        (bytes(len(good)), "wrong_hash"),
        (good[:-1] + bytes([good[-1] ^ 1]), "wrong_hash"),
    ):
        frame = slice_frame(made, our_chunk(made), data)
        assert made.refuses(lambda frame=frame: made.receive_bulk(*frame), frame[0]) == reason  # type: ignore[misc]
    made.finish()


def test_frames_that_come_twice_change_nothing() -> None:
    made = scene(victim=1, until=exchanging)
    for chunk in part_of(made, made.victim.key).chunks:
        made.receive_bulk(*index_frame(made))
        outs = made.receive_bulk(*slice_frame(made, chunk))
    (receipt,) = outs
    assert isinstance(receipt, outputs.Send)
    assert isinstance(receipt.message, Receipt)
    before = fingerprint(made.victim.machine)
    assert made.receive_bulk(*index_frame(made)) == []
    assert made.receive_bulk(*slice_frame(made, our_chunk(made))) == []
    assert fingerprint(made.victim.machine) == before
    made.swarm.perform(made.victim, outs)
    made.finish()


def test_a_client_does_not_reduce() -> None:
    made = scene(victim=3, until=exchanging, clients=1)
    frame = index_frame(made)
    assert made.refuses(lambda: made.receive_bulk(*frame), frame[0]) == "unasked"
    made.finish()


# -- aggregates --------------------------------------------------------------------------------------------


def statement(made: Scene, **changes: Any) -> Aggregate:
    """What the villain, a reducer, might say about its part."""
    part = part_of(made, made.villain.key)
    hashes = tuple(content_hash(bytes([chunk])) for chunk in part.chunks)
    values: dict[str, Any] = {"roster": made.roster.hash, "cut": tuple(sorted(made.order)), "hashes": hashes}
    values |= changes
    headers = [join.contribution for join in made.roster.members if join.key in values["cut"]]
    owner = part_of(made, values.pop("reducer", made.villain.key))
    claim = made.victim.machine.context.claim(owner, values["hashes"], [item for item in headers if item])
    return Aggregate(**(made.here | values), claim=sign_claim(claim, made.villain.signer))


def reclaimed(message: Aggregate, **changes: Any) -> Aggregate:
    """The same with another claim, signed by nobody who matters."""
    return replace(message, claim=replace(message.claim, **changes))


def said(made: Scene, message: Any) -> tuple[bytes, BulkHeader, bytes]:
    data = message if isinstance(message, bytes) else encode(message)
    return made.villain.key, made.slice_header("statement", made.villain.key, 0), data


def by_stranger(made: Scene) -> tuple[bytes, BulkHeader, bytes]:
    message = reclaimed(statement(made), reducer=STRANGER.key)
    return STRANGER.key, made.slice_header("statement", STRANGER.key, 0), encode(message)


AGGREGATES: dict[str, tuple[Bulk, str]] = {
    "garbage": (lambda s: said(s, b"\xc1"), "malformed"),
    "no statement": (lambda s: said(s, s.join_of(s.villain)), "malformed"),
    "by no reducer": (by_stranger, "unasked"),
    "about another's part": (lambda s: said(s, statement(s, reducer=s.leader.key)), "unasked"),
    "of another attempt": (lambda s: said(s, statement(s, attempt=1)), "wrong_round"),
    "of another roster": (lambda s: said(s, statement(s, roster=b"x" * 32)), "wrong_round"),
    "with too few hashes": (lambda s: said(s, statement(s, hashes=())), "malformed"),
    "with too many hashes": (lambda s: said(s, statement(s, hashes=(b"h" * 32,) * 9)), "malformed"),
    "not signed": (lambda s: said(s, reclaimed(statement(s), signature=bytes(64))), "signature"),
    "claimed for another cut": (lambda s: said(s, replace(statement(s), cut=())), "malformed"),
    "about strangers": (lambda s: said(s, replace(statement(s), cut=(STRANGER.key,))), "malformed"),
    "claimed for another state": (lambda s: said(s, reclaimed(statement(s), prior=b"x" * 32)), "malformed"),
    "claimed for other chunks": (lambda s: said(s, reclaimed(statement(s), root=b"x" * 32)), "malformed"),
    "claimed for another part": (lambda s: said(s, reclaimed(statement(s), first_chunk=99)), "malformed"),
    "a chunk before its statement": (
        lambda s: (s.villain.key, s.slice_header("aggregate", s.villain.key, foreign_chunk(s)), b""),
        "out_of_order",
    ),
    "a chunk of another part": (
        lambda s: (s.villain.key, s.slice_header("aggregate", s.villain.key, our_chunk(s)), b""),
        "unasked",
    ),
    "a chunk that nobody asked for": (
        lambda s: (STRANGER.key, s.slice_header("aggregate", STRANGER.key, 0), b""),
        "unasked",
    ),
}


@pytest.mark.parametrize("name", AGGREGATES)
def test_aggregates_that_a_member_refuses(name: str) -> None:
    bad, reason = AGGREGATES[name]
    made = scene(victim=1, until=exchanging)
    sender, header, data = bad(made)
    assert made.refuses(lambda: made.receive_bulk(sender, header, data), sender) == reason
    made.finish()


def test_two_statements_about_one_part_are_equivocation_and_cost_one_attempt() -> None:
    made = scene(victim=1, until=exchanging)
    first = statement(made)
    assert made.receive_bulk(*said(made, first)) == [outputs.Claimed(first.claim, first.hashes)]
    other = statement(made, hashes=(b"h" * 32,) * part_of(made, made.villain.key).num_chunks)
    before = fingerprint(made.victim.machine)
    claimed, refused = made.receive_bulk(*said(made, other))
    assert fingerprint(made.victim.machine) == before
    assert claimed == outputs.Claimed(other.claim, other.hashes)
    assert isinstance(refused, outputs.Refused)
    assert refused.reason == "equivocation"
    assert made.receive_bulk(*said(made, first)) == []  # the same again is none
    size = len(local_of(made.villain).chunks[foreign_chunk(made)])
    header = made.slice_header("aggregate", made.villain.key, foreign_chunk(made))
    for data, reason in ((bytes(size), "wrong_hash"), (bytes(size - 1), "malformed"), (b"", "malformed")):
        frame = (made.villain.key, header, data)
        assert made.refuses(lambda frame=frame: made.receive_bulk(*frame), made.villain.key) == reason  # type: ignore[misc]
    made.swarm.run(60.0)
    nodes = made.swarm.nodes.values()
    # The others have a quorum without the victim, which waits in vain for what it was promised.
    digests = {node.commits[0].value.digest for node in nodes if node.commits}
    informed = [n for n in nodes if any(isinstance(note, outputs.NeedState) for note in n.notes)]
    assert len(digests) == 1
    assert all(node.commits or node in informed for node in nodes)


# -- cuts --------------------------------------------------------------------------------------------------


def cut(made: Scene, *contributors: bytes, signer: Any = None, roster: Roster | None = None) -> Cut:
    names = contributors or tuple(sorted(made.order))
    last = made.victim.machine.last
    took_s = last.took_s.get("exchange", 0.1) if last is not None else 0.1
    message = Cut(
        **made.here, roster=(roster or made.roster).hash, contributors=names, holdings=(), took_s=took_s
    )
    return sign(message, signer or made.leader.signer)


CUTS: dict[str, tuple[Callable[[Scene], Cut], str]] = {
    "signed by another": (lambda s: cut(s, s.victim.key, signer=s.villain.signer), "signature"),
    "for another roster": (lambda s: replace(cut(s, s.victim.key), roster=b"x" * 32), "malformed"),
    "of nobody": (lambda s: sign(replace(cut(s), contributors=()), s.leader.signer), "malformed"),
    "with a peer twice": (lambda s: cut(s, s.victim.key, s.victim.key), "malformed"),
    "out of order": (lambda s: cut(s, *sorted(s.order, reverse=True)), "malformed"),
    "with unknown contributors": (lambda s: cut(s, *sorted([s.victim.key, STRANGER.key])), "malformed"),
    "with slices that were never acknowledged": (lambda s: cut(s), "malformed"),
}


@pytest.mark.parametrize("name", CUTS)
def test_cuts_that_a_reducer_refuses(name: str) -> None:
    bad, reason = CUTS[name]
    run(scene(victim=1, until=exchanging), from_leader(bad), reason)


def test_a_cut_by_who_does_not_lead() -> None:
    run(scene(victim=1, until=exchanging), lambda s: (s.villain.key, cut(s, s.victim.key)), "not_the_leader")


def test_a_second_roster_and_a_second_cut() -> None:
    made = scene(victim=1, until=lambda s: s.victim.machine.phase == "certifying")
    roster = made.roster
    for message, reason in (
        (roster, "stale"),
        (cut(made), "stale"),
        (cut(made, made.victim.key), "equivocation"),
    ):
        bad = message
        assert made.refuses(lambda bad=bad: made.receive(made.leader.key, bad), made.leader.key) == reason  # type: ignore[misc]
    made.finish()


# -- lies in a contribution --------------------------------------------------------------------------------


class LyingSwarm(Swarm):
    """The second voter signs a norm for its first chunk that is not the chunk's."""

    liar = b""

    def _encode(self, node: Node) -> LocalContribution | None:
        local = super()._encode(node)
        if node.key != self.liar or local is None:
            return local
        first = local.index.entries[0]
        index = Index([Entry(first.hash, first.norm2 / 4), *local.index.entries[1:]])
        header = sign_contribution(
            index,
            ledger=node.ledger,
            prior=node.digest,
            steps=node.steps,
            tokens=node.steps * 100,
            carried=0,
            carried_tokens=0,
            admission=b"",
            rules=self.rules,
            signer=node.signer,
        )
        return LocalContribution(header, index, local.chunks)


def test_a_chunk_with_a_wrong_norm_counts_as_zeros_everywhere() -> None:
    numel = 3 * CHUNK
    honest, lying = Swarm(4, numel=numel, chunk_size=CHUNK), LyingSwarm(4, numel=numel, chunk_size=CHUNK)
    lying.liar = sorted(lying.nodes)[1]
    for swarm in (honest, lying):
        swarm.start_round()
        swarm.close()
        swarm.run(30.0)
        assert len({node.commits[0].value.digest for node in swarm.nodes.values()}) == 1
        assert {len(node.commits[0].value.cut) for node in swarm.nodes.values()} == {4}
    before = Swarm(4, numel=numel, chunk_size=CHUNK).nodes[lying.liar]
    lie = next(iter(lying.nodes.values())).theta
    kept, lost = slice(CHUNK, numel), slice(0, CHUNK)
    truth = next(iter(honest.nodes.values())).theta
    moved = (before.theta - lie)[lost].norm() / (before.theta - truth)[lost].norm()
    assert 0.75 < moved < 0.98  # three of four quarters, and of unlike directions
    torch.testing.assert_close(lie[kept], truth[kept], rtol=0, atol=0.01)
