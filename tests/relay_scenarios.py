"""What a relay does with peers that behave and with peers that do not: a program that runs every scenario
here and prints what came of each, because py-libp2p and hivemind cannot be in one process.
`test_relay_live.py` runs it."""

import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable

import msgspec
import relay_abuse
import trio
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.peer.envelope import unmarshal_envelope
from relay_rig import (
    DENIED,
    LIMIT,
    NO_RESERVATION,
    OK,
    REFUSED,
    RESERVE,
    SCENARIOS,
    SOON_S,
    MadeDirectory,
    circuit,
    client_of,
    connect_to,
    cut,
    dialled,
    passed,
    record_of,
    relaying,
    scenario,
    until,
)

from talkoot.dht.entries import pack_envelope
from talkoot.dht.identity import Identity, multihash_of
from talkoot.dht.multiaddr import varint
from talkoot.dht.outside import kademlia, unary
from talkoot.dht.outside.wire import Message, bytes_field, number_field
from talkoot.dht.records import seal
from talkoot.dht.relay import negotiation
from talkoot.dht.relay.admission import Admission
from talkoot.dht.relay.identify import IDENTIFY, PING
from talkoot.dht.relay.link import Stream
from talkoot.dht.relay.messages import HOP

# -- as it should be ---------------------------------------------------------------------------------


@scenario
async def carries_bytes_in_both_directions() -> None:
    async with relaying() as relay, client_of(relay) as here, client_of(relay) as there:
        assert await there.reserve() == OK
        near, far = await circuit(here, there)
        for one, other in ((near, far), (far, near)):
            await passed(one, other, 3_000_000)
        await near.finish()
        assert await far.receive() == b""
        await passed(far, near, 100_000)  # one end may have said all, and still hear
        await far.finish()
        await until(lambda: relay.tally.ended["ended"] == 1)
        assert relay.tally.passed_bytes == 6_100_000
        relay.count()
        assert (relay.tally.circuits, relay.tally.reservations) == (0, 1)


@scenario
async def many_circuits_at_once_keep_their_bytes_apart() -> None:
    async with relaying() as relay, client_of(relay) as here, client_of(relay) as there:
        assert await there.reserve() == OK
        async with trio.open_nursery() as nursery:
            for near, far in [await circuit(here, there) for _ in range(20)]:
                nursery.start_soon(passed, near, far, 300_000)
                nursery.start_soon(passed, far, near, 200_000)
        assert relay.tally.passed_bytes == 20 * 500_000


@scenario
async def the_voucher_is_one_for_libp2p() -> None:
    async with relaying() as relay, client_of(relay) as client:
        answer, _ = await client.ask(RESERVE)
        reservation = Message(answer.bytes(3))
        envelope = unmarshal_envelope(reservation.bytes(3))
        envelope.validate("libp2p-relay-rsvp")
        assert envelope.payload_type == b"\x03\x02"
        voucher = Message(envelope.raw_payload)
        assert voucher.bytes(1) == multihash_of(relay.identity.key)
        assert voucher.bytes(2) == client.name
        assert voucher.number(3) == reservation.number(1)
        name = multihash_of(relay.identity.key)
        assert reservation.all_bytes(2)[0].endswith(varint(421) + varint(len(name)) + name)
        assert 4 not in answer, "a limit would make go-libp2p refuse streams on the circuit"


@scenario
async def says_who_it_is_and_answers_pings() -> None:
    async with relaying() as relay, client_of(relay) as client:
        stream = client.link.open()
        await negotiation.choose(stream, client.relay, IDENTIFY)
        told = Message(await stream.read_message(4096))
        assert HOP.encode() in told.all_bytes(3)
        key = deserialize_public_key(told.bytes(1))
        assert key.to_bytes() == relay.identity.key
        stream = client.link.open()
        await negotiation.choose(stream, client.relay, PING)
        await stream.send(bytes(range(32)))
        assert await stream.read(32) == bytes(range(32))


@scenario
async def a_reservation_ends_with_its_connection() -> None:
    async with relaying() as relay, client_of(relay) as here:
        async with client_of(relay) as there:
            assert await there.reserve() == OK
            assert await there.reserve() == OK
            assert (relay.tally.reserved, relay.tally.renewed) == (1, 1)
            name = there.name
        await until(lambda: not relay._book.num_reservations)
        assert await here.status(connect_to(name)) == NO_RESERVATION


@scenario
async def stopping_tells_clients_and_ends_circuits() -> None:
    async with relaying() as relay, client_of(relay) as here, client_of(relay) as there:
        assert await there.reserve() == OK
        near, far = await circuit(here, there)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.stop)
            await until(lambda: here.link.leaving and there.link.leaving)
            await cut(near)
            await cut(far)
        assert relay.tally.ended["stopped"] == 1
        assert relay.tally.draining
        try:
            await dialled(relay)
        except OSError:
            return
    raise AssertionError("still listening")


# -- whom it serves ----------------------------------------------------------------------------------


@scenario
async def an_outsider_gets_no_reservation() -> None:
    directory, member = MadeDirectory(), Identity.generate()
    directory.add(member.key)
    relays = Identity.generate()
    directory.add(relays.key, role="relay")
    admission = Admission([directory], patience_s=1.0)
    async with relaying(admission) as relay, client_of(relay, member) as inside, client_of(relay) as outside:
        await until(lambda: directory.looks > 0)
        assert await inside.reserve() == OK
        began = trio.current_time()
        assert await outside.reserve() == DENIED
        assert trio.current_time() - began > 0.5, "it was looked for"
        assert await outside.reserve() == DENIED
        async with client_of(relay, relays) as another:
            assert await another.reserve() == DENIED, "a relay is no member"
        assert relay.tally.refused["outsider"] == 3
        assert await inside.status(connect_to(outside.name)) == NO_RESERVATION


@scenario
async def a_newcomer_is_let_in_as_soon_as_its_record_is_there() -> None:
    directory, newcomer = MadeDirectory(), Identity.generate()
    directory.at_look = lambda look: directory.add(newcomer.key) if look == 3 else None
    async with relaying(Admission([directory])) as relay, client_of(relay, newcomer) as client:
        assert await client.reserve() == OK
        assert directory.looks == 3


class Node:
    """A client that keeps records, as p2pd with our directory does, and tells them when it is asked."""

    def __init__(self, identity: Identity, swarm: bytes, envelope: bytes) -> None:
        dictionary = msgspec.msgpack.encode((None, 4e9, [(identity.key, pack_envelope(envelope), 4e9)]))
        value = msgspec.msgpack.encode(msgspec.msgpack.Ext(0x50, dictionary))
        self._answer = bytes_field(2, number_field(1, 2) + bytes_field(2, value))

    async def served(self, stream: Stream) -> None:
        await negotiation.answer(stream, stream.peer, (kademlia.FIND,))
        call_id, _ = await unary.read_call(stream, stream.peer, max_bytes=4096)
        await unary.write_answer(stream, call_id, self._answer)
        await stream.finish()
        await stream.linger(SOON_S)


async def _asked(
    *, issued: float, signer: Identity | None = None, **changes: object
) -> tuple[int, list[str]]:
    """How a peer fares that is in no directory, and whose own record is like this."""
    directory, newcomer = MadeDirectory(), Identity.generate()
    directory.answers = False
    signer = signer or newcomer
    record = record_of(directory.swarm, signer.key, **changes)
    envelope = seal(signer, record, issued=issued, expires=issued + 60)
    node = Node(newcomer, directory.swarm, envelope)
    admission = Admission([directory], patience_s=1.0)
    async with relaying(admission) as relay, client_of(relay, newcomer, node.served) as client:
        return await client.reserve(), directory.refused


@scenario
async def where_nobody_can_be_dialled_a_peer_shows_its_record_itself() -> None:
    now = time.time()
    assert await _asked(issued=now) == (OK, [])


@scenario
async def records_that_are_forged_or_old_admit_nobody() -> None:
    now, other = time.time(), Identity.generate()
    assert await _asked(issued=now, signer=other) == (REFUSED, ["signature"])
    assert await _asked(issued=now - 61) == (REFUSED, ["stale"])
    assert await _asked(issued=now + 60) == (REFUSED, ["stale"])
    assert await _asked(issued=now, swarm=bytes([1]) * 32) == (REFUSED, ["foreign"])
    assert await _asked(issued=now, role="relay") == (REFUSED, [])


@scenario
async def without_a_directory_nobody_new_is_let_in() -> None:
    directory = MadeDirectory()
    directory.answers = False
    async with relaying(Admission([directory], patience_s=1.0)) as relay, client_of(relay) as client:
        assert await client.reserve() == REFUSED
        assert relay.tally.refused["directory"] == 1


@scenario
async def strangers_have_few_circuits() -> None:
    directory, member = MadeDirectory(), Identity.generate()
    directory.add(member.key)
    admission = Admission([directory])
    async with relaying(admission) as relay, client_of(relay, member) as there, client_of(relay) as stranger:
        assert await there.reserve() == OK
        for _ in range(4):
            await circuit(stranger, there)
        assert await stranger.status(connect_to(there.name)) == LIMIT
        assert relay.tally.refused["circuits"] == 1


async def _run(run: Callable[[], Awaitable[None]]) -> str:
    try:
        with trio.fail_after(60):
            await run()
    except Exception:  # noqa: BLE001 - it is told of
        return traceback.format_exc()
    return ""


def main() -> None:
    assert relay_abuse.__doc__, "it has added its scenarios"
    for name in sys.argv[1:] or SCENARIOS:
        print(json.dumps({"name": name, "failed": trio.run(_run, SCENARIOS[name])}), flush=True)
    loaded = [name for name in ("torch", "hivemind", "numpy") if name in sys.modules]
    print(json.dumps({"name": "imports", "failed": ", ".join(loaded)}), flush=True)


if __name__ == "__main__":
    main()
