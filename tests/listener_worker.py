"""Connects to a host on py-libp2p again and again: `python listener_worker.py COUNT [uncorrected]` prints
how many connections were made, one after the other, before one failed. Without hivemind."""

import sys

import trio

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity, multihash_of
from talkoot.dht.outside import host, listener
from talkoot.dht.relay.handshake import Handshaker

AT_ONCE = 8


async def main(count: int) -> None:
    shaker, made, failed = Handshaker(Identity.generate()), 0, False
    async with host.running(
        Identity.generate(), listen=["/ip4/127.0.0.1/tcp/0"], security=["noise"]
    ) as served:
        port = int(served.addresses[0].split("/")[4])

        async def connect() -> None:
            nonlocal made, failed
            while made < count and not failed:
                socket = await trio.open_tcp_stream("127.0.0.1", port)
                try:
                    link = await shaker.connect(socket, multihash_of(served.key), timeout_s=10)
                except RemoteError:
                    failed = True
                    return
                made += 1
                link.close()

                async def nothing(_: object) -> None:
                    """There are no streams."""

                await link.run(nothing)

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(connect)
    print(made)


if __name__ == "__main__":
    if "uncorrected" in sys.argv:
        listener.give_back_places = lambda swarm: None
    trio.run(main, int(sys.argv[1]))
