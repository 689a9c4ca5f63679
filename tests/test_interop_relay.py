"""What is relied upon between p2pd, our relay and the explorer.

A circuit has none of p2pd's own limits, a relay in the directory counts as nobody, and a hidden peer is seen
to be behind it.
"""

import asyncio
from pathlib import Path

import pytest
from dht_rig import SPEC, SWARM, Rig, record_of
from outside_rig import needs_libp2p
from test_explore import explored
from test_relay_swarm import held, metric, relay_of

from talkoot.dht.identity import Identity, peer_id_of
from talkoot.dht.network import Channel
from talkoot.peer.invite import Invite, encode

pytestmark = [pytest.mark.trial, pytest.mark.processes, needs_libp2p]
RIG = Rig("uvloop")


async def sent(source: Channel, target: Channel, count: int) -> None:
    """So many MiB."""
    payload = bytes(range(256)) * 4096

    async def send() -> None:
        for _ in range(count):
            await source.send(b"", payload, timeout_s=20)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        for _ in range(count):
            assert (await target.receive(timeout_s=20)).payload == payload


def test_a_hidden_peer_is_reached_through_our_relay_and_seen_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with RIG.swarm(1) as nodes, asyncio.TaskGroup() as tasks:
            (first,) = nodes
            await first.network.directory.publish(record_of(first.network), ttl_s=120)
            invite = encode(Invite(SWARM, first.network.addresses[:1]))
            async with relay_of(invite, tmp_path) as (address, pages):
                hidden = await RIG.start(
                    tasks, Identity.generate(), first.network.addresses, relay=True, relays=(address,)
                )
                await hidden.network.directory.publish(record_of(hidden.network), ttl_s=120)
                while not held(hidden):
                    await metric(pages, "talkoot_relay_clients")
                through = tuple(each for each in hidden.network.addresses if "p2p-circuit" in each)
                record = record_of(hidden.network, addresses=through, role="client")
                await hidden.network.directory.publish(record, ttl_s=120)

                caller = await RIG.start(tasks, Identity.generate(), relay=True)
                await caller.network.add_addresses(hidden.key, through)
                ours = await caller.network.dial(hidden.key, SPEC, timeout_s=20)
                theirs = await hidden.accepted.get()
                await sent(ours, theirs, 8)  # p2pd's own relay ends a circuit after 128 KiB
                await sent(theirs, ours, 8)
                await ours.close()

                code, output, errors = await explored(invite, "--once")
                assert (code, errors) == (0, "")
                assert "2 peers announced, 1 reached" in output
                assert "1 relay" in output
                (line,) = [line for line in output.splitlines() if peer_id_of(hidden.key)[-8:] in line]
                assert line.split()[:3] == [peer_id_of(hidden.key)[-8:], "client", "training"]
                assert "relayed" in line
                for node in (caller, hidden):
                    await node.stop()

    RIG.run(main(), timeout_s=150)
