"""A relay for anybody on loopback, in its own process: prints its address, and relays until it is killed."""

import trio
from relay_rig import relaying


async def main() -> None:
    async with relaying() as relay:
        place = next(text for text in relay.addresses if "/ip4/" in text)
        print(f"{place}/p2p/{relay.identity.peer_id}", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
