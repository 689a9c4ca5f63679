"""Links: ordered lanes to every peer, kept up as long as they are wanted."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

import pytest

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity
from talkoot.dht.memory import Link, MemoryHub, MemoryNetwork
from talkoot.dht.memory_channel import MemoryChannel
from talkoot.dht.network import Buffer, Channel, Frame
from talkoot.dht.relays import by_relay
from talkoot.peer.links import MAX_QUEUED, Links, protocols
from talkoot.peer.simulation.virtual_time import run_virtual

SWARM = b"w" * 32


class End:
    """One node with links; what it received and whom it saw."""

    def __init__(self, hub: MemoryHub, number: int, link: Link | None = None) -> None:
        identity = Identity.from_seed(bytes([number]) * 32)
        self.network = hub.node(identity, swarm=SWARM, link=link)
        self.key = identity.key
        self.control: list[tuple[bytes, bytes]] = []
        self.bulk: list[tuple[bytes, bytes]] = []
        self.seen: list[frozenset[bytes]] = []
        self.changed = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.links = Links(
            self.network,
            SWARM,
            on_control=self._on_control,
            on_bulk=self._on_bulk,
            on_change=self._on_change,
        )

    async def _on_control(self, peer: bytes, frame: Frame) -> None:
        if frame.header == b"bad":
            raise RemoteError(peer, "malformed", "as the runner would say")
        self.control.append((peer, frame.header))
        self.changed.set()

    async def _on_bulk(self, peer: bytes, frame: Frame) -> None:
        await self.gate.wait()
        self.bulk.append((peer, frame.header + bytes(frame.payload)))
        self.changed.set()

    def _on_change(self, peers: frozenset[bytes]) -> None:
        self.seen.append(peers)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to be so."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def connected_to(self, *others: "End") -> None:
        await self.until(lambda: self.links.connected == frozenset(other.key for other in others))


class World:
    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.hub = MemoryHub()
        self.group = group
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self, number: int, link: Link | None = None) -> End:
        end = End(self.hub, number, link)
        await self.start_network(end.network)
        self.tasks.append(self.group.create_task(end.links.run()))
        await asyncio.sleep(0)
        return end

    async def start_network(self, network: MemoryNetwork) -> None:
        started = asyncio.Event()
        self.tasks.append(self.group.create_task(network.run(started=started.set)))
        await started.wait()


def run(main: Callable[[World], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(3600), asyncio.TaskGroup() as group:
            world = World(group)
            try:
                await main(world)
            finally:
                for task in world.tasks:
                    task.cancel()

    run_virtual(bounded())


def test_messages_arrive_in_order_in_both_lanes_and_directions() -> None:
    async def main(world: World) -> None:
        one, other = await world.start(1), await world.start(2)
        for number in range(50):
            one.links.send(other.key, b"%d" % number)
            one.links.send_bulk(other.key, b"%d:" % number, bytes([number]))
            other.links.send(one.key, b"%d" % number)
        await one.until(lambda: len(one.control) == 50)
        await other.until(lambda: len(other.control) == len(other.bulk) == 50)
        assert one.control == [(other.key, b"%d" % number) for number in range(50)]
        assert other.control == [(one.key, b"%d" % number) for number in range(50)]
        assert other.bulk == [(one.key, b"%d:" % number + bytes([number])) for number in range(50)]

    run(main)


def test_order_holds_while_both_sides_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[bytes, MemoryChannel]] = []
    send = MemoryChannel.send

    async def recorded(
        self: MemoryChannel, header: bytes, payload: Buffer = b"", *, timeout_s: float
    ) -> None:
        used.append((header, self))
        await send(self, header, payload, timeout_s=timeout_s)

    monkeypatch.setattr(MemoryChannel, "send", recorded)

    async def main(world: World) -> None:
        one, other = await world.start(1), await world.start(2)
        one.links.send_bulk(other.key, b"hello", b"")
        await asyncio.sleep(0.001)  # theirs is open before ours
        for name in (b"first", b"second", b"third"):
            other.links.send_bulk(one.key, name, b"")
        await one.until(lambda: len(one.bulk) == 3)
        assert len({channel for header, channel in used if header != b"hello"}) == 1  # only then in order

    run(main)


def test_kept_peers_are_dialled_and_both_sides_know() -> None:
    async def main(world: World) -> None:
        one, two, three = [await world.start(number) for number in (1, 2, 3)]
        one.links.keep(frozenset({one.key, two.key, three.key}))
        await one.connected_to(two, three)
        await two.connected_to(one)
        await three.connected_to(one)

    run(main)


def test_a_cut_is_noticed_and_mended() -> None:
    async def main(world: World) -> None:
        one, two = await world.start(1), await world.start(2)
        one.links.keep(frozenset({two.key}))
        await one.connected_to(two)
        world.hub.cut(one.key, two.key)
        await one.connected_to()
        await one.connected_to(two)
        one.links.send(two.key, b"again")
        await two.until(lambda: (one.key, b"again") in two.control)

    run(main)


def test_a_crash_is_noticed_and_a_peer_that_comes_back_is_found() -> None:
    async def main(world: World) -> None:
        one, two = await world.start(1), await world.start(2)
        one.links.keep(frozenset({two.key}))
        await one.connected_to(two)
        world.hub.crash(two.key)
        await one.connected_to()
        one.links.send(two.key, b"lost")
        one.links.send_bulk(two.key, b"lost", b"")
        await asyncio.sleep(60)
        again = await world.start(2)
        await one.connected_to(again)
        assert again.control == []

    run(main)


def test_who_is_not_kept_any_more_is_not_dialled_again() -> None:
    async def main(world: World) -> None:
        one, two = await world.start(1), await world.start(2)
        one.links.keep(frozenset({two.key}))
        await one.connected_to(two)
        one.links.keep(frozenset())
        world.hub.cut(one.key, two.key)
        await one.connected_to()
        dials = one.network.events.dials
        await asyncio.sleep(120)
        assert one.network.events.dials == dials
        assert one.links.connected == frozenset()

    run(main)


def test_a_peer_that_cannot_be_dialled_is_reached_through_its_own_channel() -> None:
    async def main(world: World) -> None:
        one, two = await world.start(1), await world.start(2)
        two.links.send(one.key, b"hello")
        await one.connected_to(two)
        one.links.send(two.key, b"welcome")
        await two.until(lambda: two.control == [(one.key, b"welcome")])
        assert one.network.events.dials == 0

    run(main)


def test_a_peer_that_breaks_the_protocol_loses_its_channel_only() -> None:
    async def main(world: World) -> None:
        one, two, three = [await world.start(number) for number in (1, 2, 3)]
        three.links.keep(frozenset({one.key}))
        two.links.send(one.key, b"bad")
        await two.until(lambda: two.seen == [frozenset({one.key}), frozenset()])
        assert dict(one.network.events.rejected) == {"malformed": 1}
        assert one.links.connected == frozenset({three.key})
        two.links.send(one.key, b"good")
        await one.until(lambda: one.control == [(two.key, b"good")])

    run(main)


def test_the_dialling_side_survives_a_bad_frame_too() -> None:
    async def main(world: World) -> None:
        one, two = await world.start(1), await world.start(2)
        one.links.keep(frozenset({two.key}))
        await two.connected_to(one)
        two.links.send(one.key, b"bad")
        await one.until(lambda: one.network.events.rejected["malformed"] == 1)
        await one.until(lambda: len(one.seen) >= 3)
        await one.connected_to(two)

    run(main)


@pytest.mark.parametrize("change", [("/control/1", "/control/2"), (SWARM.hex()[:16], "00" * 8)])
def test_another_version_and_another_swarm_find_no_door(change: tuple[str, str]) -> None:
    async def main(world: World) -> None:
        one = await world.start(1)
        stranger = world.hub.node(Identity.from_seed(b"s" * 32), swarm=SWARM)
        await world.start_network(stranger)
        spec = protocols(SWARM)["control"]
        other = dataclasses.replace(spec, name=spec.name.replace(*change))
        assert other.name != spec.name
        with pytest.raises(RemoteError, match="unsupported"):
            await stranger.dial(one.key, other, timeout_s=10)
        assert stranger.events.dial_failures["unsupported"] == 1
        assert one.links._lanes == {}
        assert not one.seen

    run(main)


def test_an_orderly_end_closes_the_channels_of_strangers_too() -> None:
    async def main(world: World) -> None:
        one = await world.start(1)
        links = world.tasks[-1]
        channels = []
        for number in range(10, 15):
            stranger = world.hub.node(Identity.from_seed(bytes([number]) * 32), swarm=SWARM)
            await world.start_network(stranger)
            channels.append(await stranger.dial(one.key, protocols(SWARM)["control"], timeout_s=10))
            await channels[-1].send(b"hello", timeout_s=10)
        await one.until(lambda: len(one.control) == 5)
        links.cancel()
        for channel in channels:
            with pytest.raises(RemoteError, match="ended"):
                await channel.receive(timeout_s=10)

    run(main)


def test_strangers_leave_nothing_behind() -> None:
    async def main(world: World) -> None:
        one = await world.start(1)
        for number in range(10, 20):
            stranger = world.hub.node(Identity.from_seed(bytes([number]) * 32), swarm=SWARM)
            await world.start_network(stranger)
            for spec in protocols(SWARM).values():
                channel = await stranger.dial(one.key, spec, timeout_s=10)
                await channel.send(b"hello", timeout_s=10)
            world.hub.crash(stranger.key)
        await one.until(lambda: one.links.connected == frozenset())
        await asyncio.sleep(10)
        assert one.links._lanes == {}

    run(main)


def test_what_waits_for_a_peer_that_does_not_read_is_bounded() -> None:
    async def main(world: World) -> None:
        one = await world.start(1)
        silent = world.hub.node(Identity.from_seed(b"s" * 32), swarm=SWARM)
        for spec in protocols(SWARM).values():
            silent.serve(spec, lambda channel: asyncio.Event().wait())  # type: ignore[arg-type, return-value]
        await world.start_network(silent)
        for number in range(MAX_QUEUED + 100):
            one.links.send(silent.key, b"%d" % number)
        assert len(one.links._lanes[silent.key, "control"].queue) <= MAX_QUEUED
        await asyncio.sleep(600)  # it is let go when a frame is not taken for long
        left = one.links._lanes.get((silent.key, "control"))
        assert left is None or len(left.queue) <= MAX_QUEUED

    run(main)


def test_bulk_of_an_attempt_that_is_over_is_not_sent() -> None:
    async def main(world: World) -> None:
        slow = Link(upload=1000.0)
        one, two = await world.start(1, slow), await world.start(2)
        for number in range(20):
            one.links.send_bulk(two.key, b"%d" % number, bytes(1000))
        one.links.send(two.key, b"control")
        await two.until(lambda: len(two.bulk) >= 2)
        one.links.drop_bulk()
        await asyncio.sleep(60)
        assert len(two.bulk) < 6
        assert two.control == [(one.key, b"control")]

    run(main)


def test_dropping_bulk_while_its_lane_dials() -> None:
    async def main(world: World) -> None:
        one, two = await world.start(1), await world.start(2)
        one.links.send_bulk(two.key, b"old", b"")
        await asyncio.sleep(0)
        one.links.drop_bulk()
        await asyncio.sleep(1)
        one.links.send_bulk(two.key, b"new", b"")
        await two.until(lambda: two.bulk == [(one.key, b"new")])

    run(main)


def test_while_bulk_waits_control_goes_on() -> None:
    async def main(world: World) -> None:
        one, two = await world.start(1), await world.start(2)
        two.gate.clear()
        one.links.send_bulk(two.key, b"chunk", bytes(1000))
        one.links.send(two.key, b"vote")
        await two.until(lambda: two.control == [(one.key, b"vote")])
        assert two.bulk == []
        two.gate.set()
        await two.until(lambda: len(two.bulk) == 1)

    run(main)


def test_the_upload_is_measured() -> None:
    async def main(world: World) -> None:
        one, two = await world.start(1, Link(upload=1e6)), await world.start(2)
        assert one.links.upload.rate == 0.0
        for _ in range(8):
            one.links.send_bulk(two.key, b"h", bytes(1 << 20))
        await two.until(lambda: len(two.bulk) == 8)
        await asyncio.sleep(1)
        assert one.links.upload.rate == pytest.approx(1e6, rel=0.05)

    run(main)


def test_a_peer_that_closes_at_once_is_not_dialled_all_the_time() -> None:
    """More than a few openings a second would be a flood to it."""

    async def main(world: World) -> None:
        one = await world.start(1)
        other = world.hub.node(Identity.from_seed(bytes([2]) * 32), swarm=SWARM)
        opened: list[bytes] = []

        async def close_at_once(channel: Channel) -> None:
            opened.append(channel.peer)

        other.serve(protocols(SWARM)["control"], close_at_once)
        await world.start_network(other)
        for _ in range(100):
            one.links.send(other.key, b"hello")
            await asyncio.sleep(0.03)
        assert 2 <= len(opened) <= 3 * 4 + 1

    run(main)


def test_channels_move_off_a_relay_once_there_is_a_better_way() -> None:
    async def main(world: World) -> None:
        relay = world.hub.relay(b"r" * 32)
        one, other = await world.start(1), await world.start(2, Link(dialled=False))
        other.network.relays.wanted = True
        other.network.relays.name("operator", by_relay([relay.address]))
        world.tasks.append(world.group.create_task(other.network._reserve()))
        await asyncio.sleep(1)
        rerouted: list[bytes] = []
        one.links.on_reroute = rerouted.append
        one.links.send(other.key, b"through the relay")
        await other.until(lambda: len(other.control) == 1)
        assert one.network.paths.of(other.key) == "relayed"
        one.links.renew()
        await asyncio.sleep(1)
        assert not rerouted, "there is no better way yet"
        one.network.paths.opened(other.key, None)  # a hole was punched
        one.links.renew()
        await asyncio.sleep(5)
        assert rerouted == [other.key]
        assert other.key in one.links.connected
        world.hub.crash(relay.key)
        one.links.send(other.key, b"without it")
        await other.until(lambda: len(other.control) == 2)
        assert one.links.connections == 1, "it was connected all the time"

    run(main)
