"""Whoever reads a directory from outside outlives nodes that lie in it, are silent, or send too much."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from dht_rig import SWARM, Node, Rig, record_of
from hostile_node import answer_find, constant, dictionary, never, sealed
from outside_rig import needs_libp2p, outside

from talkoot.dht.identity import peer_id_of
from talkoot.dht.outside.unary import MAX_CALL_BYTES
from talkoot.dht.outside.wire import bytes_field
from talkoot.dht.table import MAX_OWNERS, MAX_TABLE_BYTES, VERIFY_BURST, VERIFY_RATE

pytestmark = [pytest.mark.trial, pytest.mark.processes, needs_libp2p]


def with_liar(lie: Callable[[Node, Node], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """Have an honest node and one that lies looked at; what the reader says."""
    found: dict[str, Any] = {}

    async def main() -> None:
        async with Rig("uvloop").swarm(2) as nodes:
            for node in nodes:
                await node.network.directory.publish(record_of(node.network), ttl_s=60)
            found.update(await lie(*nodes))

    async def bounded() -> None:
        async with asyncio.timeout(90):
            await main()

    asyncio.run(bounded())
    return found


async def read(*nodes: Node, **task: Any) -> dict[str, Any]:
    bootstrap = [address for node in nodes for address in node.network.addresses]
    return await outside("look", bootstrap=bootstrap, swarm=SWARM.hex(), **task)


def test_garbage_silence_and_floods_of_bytes_cost_only_themselves() -> None:
    async def lie(honest: Node, liar: Node) -> dict[str, Any]:
        answers = {
            "garbage": constant(b"\xff" * 1000),
            "nothing": constant(b""),
            "huge": constant(bytes_field(2, bytes(MAX_CALL_BYTES - 4096))),
            "never": never,
        }
        seen = {}
        for name, answer in answers.items():
            answer_find(liar, answer)
            seen[name] = await read(liar, honest)
            assert peer_id_of(honest.key) in seen[name]["peers"]
        return seen

    seen = with_liar(lie)
    assert seen["garbage"]["failures"] == {"malformed": 1}
    assert seen["nothing"]["failures"] == {"malformed": 1}
    assert seen["huge"]["failures"] in ({"malformed": 1}, {"lost": 1}, {"oversized": 1})
    assert seen["never"]["failures"] == {"timeout": 1}
    assert seen["never"]["took_s"] < 9


def test_forged_expired_and_replayed_records_are_refused_and_counted() -> None:
    async def lie(honest: Node, liar: Node) -> dict[str, Any]:
        owner, good = sealed(honest, 1, round=9)
        _, older = sealed(honest, 1, age_s=10.0, round=8)
        forged = {
            owner: good,
            bytes(31) + b"\1": sealed(honest, 2)[1],  # another's place
            sealed(honest, 3)[0]: sealed(honest, 3)[1][:-1] + b"x",  # changed
            sealed(honest, 4)[0]: sealed(honest, 4, age_s=400.0)[1],  # expired
            sealed(honest, 5)[0]: sealed(honest, 5, age_s=-60.0)[1],  # of tomorrow
            sealed(honest, 6)[0]: b"x" * 3000,
            sealed(honest, 7)[0]: sealed(honest, 7, swarm=bytes(32))[1],
        }
        turns = [dictionary(forged), dictionary({owner: older})]

        async def answer(_request: bytes, _remote: Any) -> bytes:
            return turns.pop(0) if len(turns) > 1 else turns[0]

        answer_find(liar, answer)
        return await read(liar, honest, looks=2) | {
            "owner": peer_id_of(owner),
            "honest": peer_id_of(honest.key),
        }

    found = with_liar(lie)
    assert found["owner"] in found["peers"]
    assert found["rounds"][found["owner"]] == 9  # the older one did not bring round 8 back
    assert found["honest"] in found["peers"]
    assert len(found["peers"]) == 3
    assert found["rejected"] == {"signature": 2, "stale": 2, "older": 1, "oversized": 1, "foreign": 1}


def test_thousands_of_peers_that_do_not_exist_fill_a_table_and_no_more() -> None:
    async def lie(honest: Node, liar: Node) -> dict[str, Any]:
        many = dict(sealed(honest, number) for number in range(MAX_OWNERS))
        answer_find(liar, constant(dictionary(many)))
        return await read(honest, liar) | {"honest": peer_id_of(honest.key), "made_up": len(many)}

    found = with_liar(lie)
    assert found["honest"] in found["peers"]  # whose node was asked first
    at_most = VERIFY_BURST + VERIFY_RATE * (found["took_s"] + 1)
    assert VERIFY_BURST <= len(found["peers"]) <= min(MAX_OWNERS, at_most)
    assert found["rejected"]["busy"] == found["made_up"] + 2 - len(found["peers"])
    assert MAX_TABLE_BYTES < MAX_CALL_BYTES
    assert found["took_s"] < 9
