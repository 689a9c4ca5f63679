"""Scenarios of `relay_scenarios.py`: what no honest peer does, and what quotas do to those who pass them."""

import contextlib
import itertools
from functools import partial

import trio
from relay_rig import (
    FAILED,
    LIMIT,
    MALFORMED,
    NO_RESERVATION,
    OK,
    SCENARIOS,
    SOON_S,
    circuit,
    client_of,
    connect_to,
    cut,
    dialled,
    passed,
    relaying,
    scenario,
    until,
)

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity, multihash_of
from talkoot.dht.multiaddr import varint
from talkoot.dht.outside.wire import Message, number_field
from talkoot.dht.relay import negotiation
from talkoot.dht.relay.messages import HOP, MAX_MESSAGE_BYTES

# -- what no honest peer does ------------------------------------------------------------------------


@scenario
async def who_asks_in_a_loop_is_cut_off_alone() -> None:
    loop = Identity.generate()
    async with relaying() as relay, client_of(relay) as honest:
        async with client_of(relay, loop) as client:
            try:
                for count in itertools.count():
                    assert count < 1000
                    await client.reserve()
            except RemoteError:
                pass
            with trio.fail_after(SOON_S):
                await client.link.over.wait()
        async with client_of(relay, loop) as again:
            with trio.fail_after(SOON_S):
                await again.link.over.wait()
        assert relay.tally.shut["banned"] == 1
        assert await honest.reserve() == OK


@scenario
async def circuits_to_nobody_are_refused() -> None:
    async with relaying() as relay, client_of(relay) as here, client_of(relay) as there:
        assert await here.status(connect_to(there.name)) == NO_RESERVATION
        assert await here.status(connect_to(multihash_of(Identity.generate().key))) == NO_RESERVATION
        assert await here.status(connect_to(multihash_of(relay.identity.key))) == NO_RESERVATION
        assert await here.reserve() == OK
        assert await here.status(connect_to(here.name)) == NO_RESERVATION
        assert relay.tally.refused["no_reservation"] == 4


@scenario
async def a_target_may_say_no() -> None:
    async with relaying() as relay, client_of(relay) as here, client_of(relay) as there:
        assert await there.reserve() == OK
        there.refuses = True
        assert await here.status(connect_to(there.name)) == FAILED
        relay.count()
        assert relay.tally.circuits == 0


@scenario
async def bad_messages_are_refused() -> None:
    async with relaying() as relay, client_of(relay) as client:
        for bad in (
            b"\xff\xff",
            b"",
            number_field(1, 2),
            number_field(1, 9),
            number_field(1, 1),
            connect_to(b""),
            connect_to(bytes(65)),
        ):
            assert await client.status(bad) == MALFORMED, bad
        stream = client.link.open()
        await negotiation.choose(stream, client.relay, HOP)
        await stream.send(varint(MAX_MESSAGE_BYTES + 1))
        assert Message(await stream.read_message(4096)).number(5) == MALFORMED
        assert await client.reserve() == OK


@scenario
async def a_circuit_for_a_message_of_the_largest_size() -> None:
    async with relaying() as relay, client_of(relay) as here, client_of(relay) as there:
        assert await there.reserve() == OK
        padded = connect_to(there.name)
        padded += (
            b"\x7a" + varint(MAX_MESSAGE_BYTES - len(padded) - 3) + bytes(MAX_MESSAGE_BYTES - len(padded) - 3)
        )
        assert len(padded) == MAX_MESSAGE_BYTES
        assert await here.status(padded) == OK


@scenario
async def unknown_protocols_end_the_stream_alone() -> None:
    async with relaying() as relay, client_of(relay) as client:
        for line in (b"/multistream/9.9.9\n", b"x" * 900 + b"\n", b"no end"):
            stream = client.link.open()
            await stream.send_message(line)
            await cut(stream)
        stream = client.link.open()
        await stream.send_message(b"/multistream/1.0.0\n")
        for _ in range(12):
            await stream.send_message(b"/nothing/1.0.0\n")
        await cut(stream)
        assert await client.reserve() == OK


@scenario
async def garbage_and_silence_end_at_the_door() -> None:
    async with relaying(handshake_s=0.5) as relay, client_of(relay) as client:
        for data in (
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            bytes(1000),
            b"\x13/multistream/1.0.0\n\x07/noise\n" + b"\0\5abcde",
        ):
            socket = await dialled(relay)
            await socket.send_all(data or b"\x13")
            with trio.fail_after(SOON_S):
                try:
                    while await socket.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
        await until(lambda: relay.tally.failed.total() == 4)
        assert await client.reserve() == OK
        relay.count()
        assert relay.tally.connections == 1


@scenario
async def who_sends_past_its_window_loses_its_connection_alone() -> None:
    async with relaying() as relay, client_of(relay) as here, client_of(relay) as there:
        assert await there.reserve() == OK
        async with client_of(relay) as greedy:
            near = await greedy.dial(there)
            await there.incoming()
            session = greedy.link.session
            session._streams[near._number].send_room = 2**30
            with trio.fail_after(SOON_S):
                try:
                    while True:
                        await near.send(bytes(2**20))
                except RemoteError:
                    pass
                await greedy.link.over.wait()
        near, far = await circuit(here, there)
        await passed(near, far, 100_000)


@scenario
async def too_many_streams_are_reset() -> None:
    async with relaying() as relay, client_of(relay) as client:
        greedy = client.link.session
        import talkoot.dht.relay.yamux as yamux

        before, yamux.MAX_STREAMS = yamux.MAX_STREAMS, 10**6
        streams = [client.link.open() for _ in range(before + 5)]
        yamux.MAX_STREAMS = before
        assert len(greedy) == len(streams)
        for stream in streams[-5:]:
            await cut(stream)
        for stream in streams:
            stream.abort()
        assert await client.reserve() == OK


# -- quotas ------------------------------------------------------------------------------------------


@scenario
async def a_client_over_its_quota_is_cut_off_alone() -> None:
    async with (
        relaying(reservation_bytes=2_000_000) as relay,
        client_of(relay) as here,
        client_of(relay) as heavy,
        client_of(relay) as light,
    ):
        assert await heavy.reserve() == OK
        assert await light.reserve() == OK
        near, far = await circuit(here, heavy)
        other, end = await circuit(here, light)
        await passed(near, far, 1_900_000)
        await near.send(bytes(200_000))
        await cut(near)
        assert relay.tally.ended["quota"] == 1
        assert await here.status(connect_to(heavy.name)) == LIMIT
        assert await heavy.reserve() == OK, "to ask again wins nothing"
        assert await here.status(connect_to(heavy.name)) == LIMIT
        await passed(other, end, 1_000_000)
        assert relay.tally.refused["quota"] == 2


@scenario
async def a_circuit_has_its_bytes() -> None:
    async with (
        relaying(circuit_bytes=1_000_000) as relay,
        client_of(relay) as here,
        client_of(relay) as there,
    ):
        assert await there.reserve() == OK
        near, far = await circuit(here, there)
        await passed(near, far, 600_000)
        await passed(far, near, 300_000)
        await far.send(bytes(200_000))
        await cut(far)
        assert relay.tally.ended["bytes"] == 1
        near, far = await circuit(here, there)
        await passed(near, far, 600_000)


async def _ends(limit: str, value: float, end: str) -> None:
    async with relaying(None, **{limit: value}) as relay, client_of(relay) as here, client_of(relay) as there:
        assert await there.reserve() == OK
        near, far = await circuit(here, there)
        if end == "stalled":
            with trio.move_on_after(SOON_S):
                try:
                    while True:
                        await near.send(bytes(2**18))
                except RemoteError:
                    pass
        else:
            await cut(near)
        await until(lambda: relay.tally.ended[end] == 1)
        assert far.peer == near.peer


SCENARIOS["a_circuit_has_its_time"] = partial(_ends, "circuit_s", 0.3, "time")
SCENARIOS["silence_ends_a_circuit"] = partial(_ends, "circuit_idle_s", 0.3, "idle")
SCENARIOS["who_takes_nothing_is_cut_off"] = partial(_ends, "stall_s", 0.3, "stalled")


async def _slow(limit: str) -> None:
    async with (
        relaying(None, **{limit: 1_000_000}) as relay,
        client_of(relay) as here,
        client_of(relay) as there,
    ):
        assert await there.reserve() == OK
        near, far = await circuit(here, there)
        began = trio.current_time()
        await passed(near, far, 2_000_000)
        took = trio.current_time() - began
        assert took > 0.7, f"{took:.2f} s: the first second's bytes are there at once, the rest at the rate"


SCENARIOS["a_circuit_has_its_rate"] = partial(_slow, "circuit_rate")
SCENARIOS["a_reservation_has_its_rate"] = partial(_slow, "reservation_rate")
SCENARIOS["the_node_has_its_rate"] = partial(_slow, "rate")


@scenario
async def the_node_has_its_number_of_everything() -> None:
    async with (
        relaying(reservations=1, circuits=2, connections=3, idle_s=1000.0) as relay,
        client_of(relay) as here,
        client_of(relay) as there,
    ):
        assert await there.reserve() == OK
        assert await here.reserve() == LIMIT
        for _ in range(2):
            await circuit(here, there)
        assert await here.status(connect_to(there.name)) == LIMIT
        assert relay.tally.refused == {"full": 2}
        async with client_of(relay):
            socket = await dialled(relay)
            with trio.fail_after(SOON_S):
                with contextlib.suppress(trio.BrokenResourceError):
                    assert await socket.receive_some() == b""
        assert relay.tally.shut["connections"] == 1


@scenario
async def without_memory_nothing_new_is_taken() -> None:
    async with relaying(memory_bytes=1) as relay, client_of(relay) as client:
        await until(lambda: relay._book.short_of_memory)
        assert await client.reserve() == LIMIT
        assert relay.tally.refused["memory"] == 1


@scenario
async def connections_without_use_are_closed() -> None:
    async with relaying(idle_s=0.1) as relay, client_of(relay) as idle, client_of(relay) as there:
        assert await there.reserve() == OK
        with trio.fail_after(SOON_S):
            await idle.link.over.wait()
        assert not there.link.is_over
