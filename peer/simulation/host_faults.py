"""Faults of one computer: its process, its disk, its clock, its speed."""

from talkoot.peer.simulation.harm import Harm, Maker
from talkoot.peer.simulation.peers import SimPeer
from talkoot.peer.simulation.virtual_time import virtual_loop

STOP_S = 70.0
"""An orderly stop takes at most that long."""

WRITE_S = 10.0
"""If a peer writes nothing for so long, its power is cut anyway."""


async def _start_later(harm: Harm, peer: SimPeer, least_s: float, most_s: float) -> None:
    """After a random while the peer, which does not run, is there again."""
    await harm.last(least_s, most_s)
    harm.world.start(peer)
    harm.up(peer)


async def crash(harm: Harm) -> None:
    """See `kinds.DESCRIPTIONS`, as for all of them."""
    peer = harm.take_down()
    if peer is None:
        return
    harm.note(f"crash {peer.number}")
    harm.world.crash(peer)
    await _start_later(harm, peer, 1.0, 20.0)


async def torn(harm: Harm) -> None:
    peer = harm.take_down()
    if peer is None:
        return
    peer.host.fuse = harm.random.randint(1, 12)
    harm.note(f"torn {peer.number} {peer.host.fuse}")
    for _ in range(int(WRITE_S)):
        await harm.last(1.0, 1.0)
        if peer.task is None:
            break
    harm.world.crash(peer)
    await _start_later(harm, peer, 1.0, 20.0)


async def restart(harm: Harm) -> None:
    peer = harm.take_down()
    if peer is None:
        return
    harm.note(f"restart {peer.number}")
    if not await harm.world.stop(peer, STOP_S):
        harm.world.trouble(f"peer {peer.number} did not stop within {STOP_S:.0f} s")
    await _start_later(harm, peer, 0.5, 10.0)


async def disk(harm: Harm) -> None:
    peer = harm.take_down()
    if peer is None:
        return
    harm.note(f"disk {peer.number}")
    peer.host.full = True
    await harm.last(1.0, 15.0)
    peer.host.full = False
    if peer.task is None:
        harm.world.start(peer)
    harm.up(peer)


async def freeze(harm: Harm) -> None:
    peer = harm.take_down()
    if peer is None:
        return
    harm.note(f"freeze {peer.number}")
    hub, ways = harm.world.hub, harm.world.hub.ways_of(peer.key)
    virtual_loop().freeze(peer.host)
    hub.hold(*ways)
    await harm.last(1.0, 25.0)
    virtual_loop().thaw(peer.host)
    hub.release(*ways)
    harm.up(peer)


async def slow(harm: Harm) -> None:
    peer = harm.anyone()
    if peer.slowness < 1.0:
        return
    harm.note(f"slow {peer.number}")
    peer.slowness = 0.1
    peer.adjust()
    await harm.last(5.0, 30.0)
    peer.slowness = 1.0
    peer.adjust()


async def skew(harm: Harm) -> None:
    peer = harm.anyone()
    jump_s = harm.random.choice((-1.0, 1.0)) * 10 ** harm.random.uniform(-1.0, 2.8)
    harm.note(f"skew {peer.number} {jump_s:.3f}")
    peer.wall_jump_s += jump_s
    peer.adjust()
    await harm.last(5.0, 30.0)
    peer.wall_jump_s -= jump_s
    peer.adjust()


MAKERS: dict[str, Maker] = {
    "crash": crash,
    "torn": torn,
    "restart": restart,
    "disk": disk,
    "freeze": freeze,
    "slow": slow,
    "skew": skew,
}
