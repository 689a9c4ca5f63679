"""Dialling addresses without p2pd: whether the peer that an address names is there."""

import asyncio
from collections.abc import Iterable

from talkoot.dht.dialback import DIAL_S, Outcome, dial_back
from talkoot.dht.multiaddr import parse_address


async def try_addresses(addresses: Iterable[str]) -> dict[str, Outcome]:
    """Dial each address by ourselves and see whether the peer that it names answers."""
    outcomes: dict[str, Outcome] = dict.fromkeys(addresses, "unknown")

    async def one(text: str) -> None:
        address = parse_address(text)
        key = address.relay or address.peer
        if key is not None:
            outcomes[text] = await dial_back(address.host, address.port, key, timeout_s=DIAL_S)

    async with asyncio.TaskGroup() as group:
        for text in outcomes:
            group.create_task(one(text))
    return outcomes
