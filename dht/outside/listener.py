"""py-libp2p 0.8.1 accepts 250 connections in the life of a swarm and then none, for good.

`Swarm._handle_inbound_connection` takes a place of a limiter for each connection and gives it back when its
task ends; after the handshake that task waits until the whole swarm ends (`manager.wait_finished`), not until
the connection does. So every connection that was ever made keeps its place, and a task. Here the task is told
when its connection is over.

It can go when a test says so (`test_outside_listener.py`: without it, py-libp2p still stops accepting).
"""

from libp2p.abc import IMuxedConn, IRawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from multiaddr import Multiaddr


def give_back_places(swarm: Swarm) -> None:
    """Correct a swarm before it listens."""
    upgrade = swarm.upgrade_inbound_raw_conn

    async def upgrade_and_stay(raw_conn: IRawConnection, maddr: Multiaddr) -> IMuxedConn:
        connection = await upgrade(raw_conn, maddr)
        await connection.event_closed.wait()
        raise SwarmException("the connection is over")  # which ends the task that keeps the place

    swarm.upgrade_inbound_raw_conn = upgrade_and_stay
