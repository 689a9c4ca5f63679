"""Faults between computers: see `kinds.DESCRIPTIONS`."""

from typing import Any

from talkoot.peer.simulation.harm import Harm, Maker
from talkoot.peer.simulation.peers import SimPeer


async def _silence(harm: Harm, ways: list[tuple[bytes, bytes]]) -> None:
    """Nothing arrives these ways for a while. Connections that were silent for long may break."""
    hub = harm.world.hub
    hub.hold(*ways)
    await harm.last(2.0, 25.0)
    hub.release(*ways)
    if harm.random.random() < 0.3:
        for one, other in ways:
            hub.cut(one, other)


async def hole(harm: Harm) -> None:
    sender, receiver = harm.random.sample(harm.world.peers, 2)
    harm.note(f"hole {sender.number} to {receiver.number}")
    await _silence(harm, [(sender.key, receiver.key)])


async def oneway(harm: Harm) -> None:
    senders, receivers = harm.group()
    harm.note("oneway from " + _numbers(senders))
    await _silence(harm, [(one.key, other.key) for one in senders for other in receivers])


async def partition(harm: Harm) -> None:
    one_side, other_side = harm.group()
    between = [(one.key, other.key) for one in one_side for other in other_side]
    if harm.random.random() < 0.5:
        harm.note("partition " + _numbers(one_side))
        harm.world.hub.partition([peer.key for peer in one_side])
        await harm.last(2.0, 25.0)
        harm.world.hub.heal()
    else:
        harm.note("silent partition " + _numbers(one_side))
        await _silence(harm, between + [(other, one) for one, other in between])


async def cut(harm: Harm) -> None:
    one, other = harm.random.sample(harm.world.peers, 2)
    harm.note(f"cut {one.number} {other.number}")
    harm.world.hub.cut(one.key, other.key)


async def _worse(harm: Harm, peer: SimPeer, **change: Any) -> None:
    """A link is worse for a while."""
    words = " ".join(f"{name} {value:.3f}" for name, value in change.items())
    harm.note(f"link {peer.number} {words}")
    peer.changes.append(change)
    peer.adjust()
    await harm.last(5.0, 30.0)
    peer.changes.remove(change)
    peer.adjust()


async def latency(harm: Harm) -> None:
    await _worse(harm, harm.anyone(), latency_s=harm.random.uniform(0.1, 1.5))


async def jitter(harm: Harm) -> None:
    await _worse(harm, harm.anyone(), jitter_s=harm.random.uniform(0.05, 0.5))


async def loss(harm: Harm) -> None:
    await _worse(harm, harm.anyone(), loss=harm.random.uniform(0.05, 0.3))


async def bandwidth(harm: Harm) -> None:
    rate = harm.random.uniform(5e3, 50e3)
    which = harm.random.choice((("upload",), ("download",), ("upload", "download")))
    await _worse(harm, harm.anyone(), **dict.fromkeys(which, rate))


async def duplicate(harm: Harm) -> None:
    await _worse(harm, harm.anyone(), duplicates=1 / 3)


async def reorder(harm: Harm) -> None:
    await _worse(harm, harm.anyone(), reorders=1 / 3)


def _numbers(peers: list[SimPeer]) -> str:
    return " ".join(str(peer.number) for peer in sorted(peers, key=lambda peer: peer.number))


MAKERS: dict[str, Maker] = {
    "hole": hole,
    "oneway": oneway,
    "partition": partition,
    "cut": cut,
    "latency": latency,
    "jitter": jitter,
    "loss": loss,
    "bandwidth": bandwidth,
    "duplicate": duplicate,
    "reorder": reorder,
}
