"""Peers that lie, for tests and benchmarks of what the others do about it: each changes one running node.

All of them know the protocol and sign with their own key. What they change is what an honest node would have
sent; the rest of it goes on as before.
"""

import asyncio
from collections.abc import Callable, Collection
from functools import partial

import msgspec

from talkoot.averaging import outputs
from talkoot.averaging.aggregate import EncodedPart
from talkoot.averaging.certificate import Certificate
from talkoot.averaging.claims import Claim, sign_claim
from talkoot.averaging.digest import content_hash, root
from talkoot.averaging.messages import Aggregate, Call, Committed, Message
from talkoot.averaging.proof import Basis, Lie, encode_head
from talkoot.averaging.round import MAX_JUMP, Round
from talkoot.averaging.wire import decode, encode
from talkoot.dht.identity import Identity
from talkoot.peer.audits.protocol import AskChunk, AskIndex, AskProof
from talkoot.peer.node import Node

Villainy = Callable[[Node], None]
"""Makes a villain of a node."""

HURRY_S = 3.0
"""After which one that goes alone closes a round."""

CALLS_S = 0.25
"""How often one that calls away does so."""

Change = Callable[[EncodedPart], EncodedPart]
"""What is told instead of an aggregate."""


def lie(node: Node) -> None:
    """As a reducer: one number of its part is another, and all are told the same."""
    change_aggregates(node, lambda _round, part: tampered(part), lambda _round, _to: None)


def equivocate(node: Node) -> None:
    """As a reducer: every other peer is told something else."""

    def other_for(_round: Round, to: bytes) -> Change | None:
        return tampered if to[0] % 2 else None

    change_aggregates(node, lambda _round, part: part, other_for)


def withhold_slices(node: Node) -> None:
    """As a reducer: it says of everything that it does not have it (any more)."""

    async def nothing(_request: AskIndex | AskChunk | AskProof) -> None:
        return None

    node.proofs.held = nothing  # type: ignore[method-assign, assignment]


def withhold_from(victim: bytes) -> Villainy:
    """As a contributor: the victim gets no slices of it."""

    def withhold(node: Node) -> None:
        send = node.links.send_bulk

        def send_bulk(peer: bytes, header: bytes, payload: bytes | memoryview) -> None:
            if peer != victim or b"slice" not in header[:16]:
                send(peer, header, payload)

        node.links.send_bulk = send_bulk  # type: ignore[assignment, method-assign]

    return withhold


def count_only(friends: Collection[bytes]) -> Villainy:
    """As a leader: of what has arrived only its friends' contributions are in its cuts."""

    def choose(node: Node) -> None:
        set_round = node.runner.set_round

        def set_changed(machine: Round | None) -> None:
            if machine is not None:
                _choose_cuts(machine, friends)
            set_round(machine)

        if node.runner.round is not None:
            _choose_cuts(node.runner.round, friends)
        node.runner.set_round = set_changed  # type: ignore[method-assign]

    return choose


def _choose_cuts(machine: Round, friends: Collection[bytes]) -> None:
    start = machine._start_attempt

    def start_changed(attempt: int, now: float) -> None:
        start(attempt, now)
        leading = machine._running._leader if machine._running is not None else None
        if leading is not None:
            all_of_them = leading.held_by_all
            leading.held_by_all = lambda: all_of_them() & set(friends) or all_of_them()  # type: ignore[method-assign]

    machine._start_attempt = start_changed  # type: ignore[method-assign]


def call_away(node: Node) -> None:
    """As a voter: it calls everybody to the next attempt that it leads, again and again, and goes to none. It
    begins when the others have hardly made a step."""
    loop = asyncio.get_running_loop()

    def call() -> None:
        machine = node.runner.round
        if machine is not None and machine.phase != "done":
            context = machine.context
            first = machine.attempt + (machine.phase != "idle")
            later = range(first, first + MAX_JUMP)
            attempt = next((k for k in later if context.leader(k) == context.key), None)
            if attempt is not None:
                said = Call(round=context.ledger.round, attempt=attempt, prior=context.prior, form_s=1.0)
                for peer in node.links.connected:
                    node.runner.say(peer, said)
        loop.call_later(CALLS_S, call)

    call()


def alone(machine: Round) -> bool:
    """Whether this is a round in which `go_alone` does."""
    return machine.context.ledger.round % 2 == 1


def go_alone(friends: Collection[bytes]) -> Villainy:
    """As a voter: every other round it sees nobody but its friends, certifies weakly with them before others
    have done their steps, and tells everybody. In between it takes part, or it would lose its vote."""

    def desert(node: Node) -> None:
        runner, set_round = node.runner, node.runner.set_round

        def close(machine: Round) -> None:
            if runner.round is machine:
                runner.close()

        def set_changed(machine: Round | None) -> None:
            if machine is not None and node.swarming is not None:
                _spread(node, node.swarming.holdings.head)
                if alone(machine):
                    _shut_out(machine, friends)
                    asyncio.get_running_loop().call_later(HURRY_S, close, machine)
            set_round(machine)

        runner.set_round = set_changed  # type: ignore[method-assign]

    return desert


def _spread(node: Node, head: Certificate) -> None:
    """Tell everybody of a weak round."""
    if head.kind == "weak":
        message = Committed(round=head.value.round, attempt=head.attempt, certificate=head)
        for peer in node.links.connected:
            node.runner.say(peer, message)


def _shut_out(machine: Round, friends: Collection[bytes]) -> None:
    """A round in which nobody else is there."""
    reachable, receive = machine.reachable, machine.receive

    def hear(sender: bytes, message: Message, now: float) -> list[outputs.Output]:
        return receive(sender, message, now) if sender in friends else []

    machine.reachable = lambda peers, now: reachable(peers & set(friends), now)  # type: ignore[method-assign]
    machine.receive = hear  # type: ignore[method-assign]


def accuse(victim: bytes) -> Villainy:
    """It tells everybody of a proof against the victim, which proves nothing."""

    def tell(node: Node) -> None:
        claim = Claim(
            swarm=node.membership.swarm,
            round=0,
            prior=bytes(32),
            cut=bytes(32),
            reducer=victim,
            first_chunk=0,
            num_chunks=1,
            root=bytes(32),
            signature=bytes(64),
        )
        bogus = encode_head(Lie(claim=claim, basis=Basis(bytes(32), bytes(32), b""), cut=(), hashes=()))
        with node.proofs.files.draft(len(bogus)) as draft:
            draft.write(0, bogus)
            node.proofs.files.keep(draft, victim, len(bogus))
        node.proofs.convictions.convict(victim, "lied", node.proofs.running)
        node.proofs.remind()

    return tell


def tampered(part: EncodedPart) -> EncodedPart:
    """The lowest bit of its last number is another: it decodes, with whatever codec."""
    last = bytearray(part.chunks[-1])
    last[-1] ^= 1
    chunks = (*part.chunks[:-1], bytes(last))
    return EncodedPart(chunks, tuple(content_hash(chunk) for chunk in chunks))


def change_aggregates(
    node: Node,
    mine: Callable[[Round, EncodedPart], EncodedPart],
    other_for: Callable[[Round, bytes], Change | None],
) -> None:
    """Aggregate `mine` instead of the truth, and tell each peer what `other_for` it makes of that."""
    set_round = node.runner.set_round

    def change(machine: Round) -> None:
        give = machine.aggregated

        def aggregated(attempt: int, encoded: EncodedPart, now: float) -> list[outputs.Output]:
            said = mine(machine, encoded)
            outs = give(attempt, said, now)
            return [_to_each(out, said, partial(other_for, machine), node.identity) for out in outs]

        machine.aggregated = aggregated  # type: ignore[method-assign]

    def set_changed(machine: Round | None) -> None:
        if machine is not None:
            change(machine)
        set_round(machine)

    if node.runner.round is not None:
        change(node.runner.round)
    node.runner.set_round = set_changed  # type: ignore[method-assign]


def note_parts(node: Node, rounds: set[int]) -> None:
    """Add to `rounds` those in which the node had a part and said something about it, in whatever attempt."""

    def note(machine: Round, said: EncodedPart) -> EncodedPart:
        rounds.add(machine.context.ledger.round)
        return said

    change_aggregates(node, note, lambda _round, _to: None)


def _to_each(
    out: outputs.Output,
    said: EncodedPart,
    other_for: Callable[[bytes], Change | None],
    identity: Identity,
) -> outputs.Output:
    make = other_for(out.to) if isinstance(out, outputs.SendBulk) else None
    if make is None or not isinstance(out, outputs.SendBulk):
        return out
    other = make(said)
    if out.header.kind == "statement":
        statement = decode(bytes(out.payload))
        assert isinstance(statement, Aggregate)
        claim = msgspec.structs.replace(statement.claim, root=root(other.hashes), signature=b"")
        changed = msgspec.structs.replace(statement, hashes=other.hashes, claim=sign_claim(claim, identity))
        return outputs.SendBulk(out.to, out.header, encode(changed))
    place = said.chunks.index(bytes(out.payload))
    return outputs.SendBulk(out.to, out.header, other.chunks[place])
