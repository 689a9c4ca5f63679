"""`talkoot explore --serve`: follow a swarm and serve what is seen, until told to stop."""

import asyncio
import signal
from collections.abc import Callable, Sequence

from talkoot.dht.outside.channel import OutsideCalls
from talkoot.dht.outside.follower import following
from talkoot.peer.exploring.server import ExplorerServer
from talkoot.peer.exploring.view import Explored


async def serve(
    swarm: bytes, addresses: Sequence[str], *, host: str, port: int, started: Callable[[int], None]
) -> None:
    """Serve until SIGTERM or SIGINT; `started` is called with the port. Raises ConfigError."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    with following(swarm, addresses) as follower:
        explored = Explored(follower, OutsideCalls(follower), swarm)
        server = ExplorerServer(explored, host=host, port=port)
        async with asyncio.TaskGroup() as tasks:
            work = [
                tasks.create_task(explored.follow(), name="follow"),
                tasks.create_task(server.run(started=started), name="serve"),
            ]
            await told.wait()
            for task in work:
                task.cancel()
