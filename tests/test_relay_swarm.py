"""A relay and a swarm: it announces itself there, and lets in whoever has a record in it."""

import asyncio
import contextlib
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dht_rig import SPEC, SWARM, Node, Rig, record_of
from outside_rig import needs_libp2p

from talkoot.dht.host import P2PNetwork
from talkoot.dht.identity import Identity, key_of_peer_id
from talkoot.peer.invite import Invite, encode

pytestmark = [pytest.mark.processes, needs_libp2p]
RIG = Rig("p2pd")


@contextlib.asynccontextmanager
async def relay_of(invite: str, folder: Path) -> AsyncIterator[tuple[str, str]]:
    """`talkoot relay INVITE`: its address, and where its pages are."""
    where = ("--listen", "127.0.0.1", "--port", "0", "--http", "127.0.0.1:0", "--state-dir", str(folder))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "talkoot.cli.main", "relay", invite, *where, stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    try:
        address = (await process.stdout.readline()).decode().strip()
        said = (await process.stdout.readline()).decode()
        found = re.search(r"http://([0-9.]+):([0-9]+)", said)
        assert found, said
        yield address, f"{found[1]}:{found[2]}"
        process.terminate()
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def metric(pages: str, name: str) -> float:
    """One series of the relay's metrics."""
    host, _, port = pages.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    lines = [line for line in text.splitlines() if line.startswith(name)]
    assert lines, f"no {name} in {text!r}"
    return float(lines[0].split(" ")[-1])


def held(node: Node) -> frozenset[bytes]:
    assert isinstance(node.network, P2PNetwork)
    return node.network.relays.held


def test_a_relay_serves_the_peers_of_its_swarm(tmp_path: Path) -> None:
    async def main() -> None:
        async with RIG.swarm(1) as nodes, asyncio.TaskGroup() as tasks:
            (first,) = nodes
            await first.network.directory.publish(record_of(first.network), ttl_s=120)
            invite = encode(Invite(SWARM, first.network.addresses[:1]))
            async with relay_of(invite, tmp_path) as (address, pages):
                key = key_of_peer_id(address.rpartition("/")[2])
                while (found := (await first.network.directory.peers()).get(key)) is None:
                    pass
                assert (found.role, found.addresses, found.state) == ("relay", (address,), "relaying")

                hidden = await RIG.start(
                    tasks, Identity.generate(), first.network.addresses, relay=True, relays=(address,)
                )
                while await metric(pages, 'talkoot_relay_refusals_total{reason="outsider"}') == 0:
                    pass
                assert not held(hidden), "it has no record yet"
                await hidden.network.directory.publish(record_of(hidden.network), ttl_s=120)
                while not held(hidden):
                    await metric(pages, "talkoot_relay_clients")
                through = [each for each in hidden.network.addresses if "p2p-circuit" in each]
                assert through

                caller = await RIG.start(tasks, Identity.generate(), relay=True)
                await caller.network.add_addresses(hidden.key, through)
                ours = await caller.network.dial(hidden.key, SPEC, timeout_s=20)
                theirs = await hidden.accepted.get()
                assert await metric(pages, "talkoot_relay_made_circuits_total") == 1
                await ours.close()
                await theirs.close()
                for node in (caller, hidden):
                    await node.stop()
            assert (await first.network.directory.peers())[key].state == "draining"

    RIG.run(main(), timeout_s=120)
