"""`talkoot explore` as people start it, on real nodes: a table, JSON, a page, words when that cannot be."""

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from dht_rig import SWARM, Node, Rig, record_of
from outside_rig import needs_libp2p

from talkoot.cli.main import main
from talkoot.dht.identity import peer_id_of
from talkoot.peer.invite import Invite, encode
from talkoot.peer.metrics import Metrics
from talkoot.peer.observing.protocol import MetricsServer
from talkoot.peer.observing.report import take

PROGRAM = [sys.executable, "-m", "talkoot.cli.main", "explore"]
MEMORY_BYTES = 120e6


def with_swarm(count: int, use: Callable[[list[Node], str], Awaitable[None]]) -> None:
    """Real nodes that announced themselves and share their metrics, and an invite to them."""

    def setup(node: Node) -> None:
        metrics = Metrics()
        metrics.round.set(7)
        MetricsServer(
            node.network,
            SWARM,
            share="all",
            refresh=metrics.refresh,
            take=lambda: take(metrics.registry, "all"),
        )

    async def main() -> None:
        async with asyncio.timeout(90), Rig("uvloop").swarm(count, setup) as nodes:
            for node in nodes:
                await node.network.directory.publish(record_of(node.network), ttl_s=60)
            await use(nodes, encode(Invite(swarm=SWARM, addresses=nodes[0].network.addresses)))

    asyncio.run(main())


async def explored(*arguments: str) -> tuple[int | None, str, str]:
    """Exit code, output and errors of one call."""
    process = await asyncio.create_subprocess_exec(*PROGRAM, *arguments, stdout=PIPE, stderr=PIPE)
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def address_of(process: Process) -> str:
    """Where it serves."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def until(client: aiohttp.ClientSession, good: Callable[[Any], bool]) -> Any:
    """The first status that is as wanted, by its events."""
    async with client.get("/api/v1/events") as answer:
        async for line in answer.content:
            if line.startswith(b"data: {") and "swarm" in (status := json.loads(line[6:])) and good(status):
                return status
    raise AssertionError("it ended")


@needs_libp2p
@pytest.mark.processes
def test_a_table_json_and_a_page_of_a_real_swarm() -> None:
    async def use(nodes: list[Node], invite: str) -> None:
        everybody = {peer_id_of(node.key) for node in nodes}
        code, output, errors = await explored(invite, "--json")
        assert (code, errors) == (0, "")
        seen = json.loads(output)
        assert {peer["peer_id"] for peer in seen["peers"]} == everybody
        assert {peer["path"] for peer in seen["peers"]} == {"direct"}
        assert seen["swarm"]["frontier"] == 7
        code, output, _ = await explored(invite, "--once")
        assert code == 0
        assert all(peer[-8:] in output for peer in everybody)

        process = await asyncio.create_subprocess_exec(*PROGRAM, invite, "--serve", "0", stdout=PIPE)
        async with aiohttp.ClientSession(await address_of(process)) as client:
            status = await until(client, lambda now: now["swarm"]["reached"] == len(nodes))
            assert {peer["peer_id"] for peer in status["peers"]} == everybody
            assert "<title>" in await (await client.get("/")).text()
            targets = await (await client.get("/sd")).json()
            paths = {target["labels"]["__metrics_path__"] for target in targets}
            assert paths == {"/metrics", *(f"/peer/{peer}/metrics" for peer in everybody)}
            for path in paths - {"/metrics"}:
                assert "talkoot_round 7.0" in await (await client.get(path)).text()
            text = await (await client.get("/metrics")).text()
            assert f'talkoot_explorer_peers{{role="full"}} {len(nodes)}.0' in text
            memory = re.search(r"^process_resident_memory_bytes (.*)$", text, re.MULTILINE)
            assert memory is not None
            assert float(memory[1]) < MEMORY_BYTES
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0

    with_swarm(3, use)


@needs_libp2p
@pytest.mark.processes
def test_nobody_there_is_said_in_one_line() -> None:
    async def main() -> None:
        address = f"/ip4/127.0.0.1/tcp/9/p2p/{peer_id_of(bytes(32))}"
        code, output, errors = await explored(encode(Invite(swarm=SWARM, addresses=(address,))), "--once")
        assert (code, output) == (1, "")
        assert errors.startswith("talkoot: no peer of the invite answered (unreachable)")
        assert errors.count("\n") == 1

    asyncio.run(main())


@needs_libp2p
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nonsense",), "not an invite"),
        (("talkoot://AQAA",), "cut short"),
        (("INVITE", "--host", "0.0.0.0"), "add --serve"),
        (("INVITE", "--serve", "--once"), "leave out"),
        (("INVITE", "--serve", "--host", "status.example"), "no IP address"),
    ],
)
def test_wrong_usage_is_said_in_one_line(
    arguments: tuple[str, ...],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = f"/ip4/127.0.0.1/tcp/9/p2p/{peer_id_of(bytes(32))}"
    invite = encode(Invite(swarm=SWARM, addresses=(address,)))
    given = [invite if word == "INVITE" else word for word in arguments]
    monkeypatch.setattr(sys, "argv", ["talkoot", "explore", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert words in said.err
    assert said.err.count("\n") == 1
