"""Connections to the peers of the swarm: who is there, and ordered delivery to each.

Two lanes to every peer: `control` for small messages, `bulk` for chunks, so that no vote waits behind a
megabyte. A lane uses any open channel, ours or theirs, and dials when there is none; peers that cannot be
dialled are reached through the channels that they opened.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from talkoot.averaging.messages import MAX_BULK_HEADER_BYTES, MAX_CONTROL_BYTES
from talkoot.dht import limits
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import peer_id_of
from talkoot.dht.meter import Flow, Rate
from talkoot.dht.network import Buffer, Channel, Frame, Network, ProtocolSpec
from talkoot.peer import clock
from talkoot.peer.uplink import UploadMeter

log = logging.getLogger("talkoot.links")

MAX_BULK_PAYLOAD = 4 << 20
"""Longest payload of a bulk frame: an encoded chunk of 2**18 elements, or an index."""

MAX_QUEUED = 4096
"""Control messages that may wait for one peer; it is given up when there are more."""

DIAL_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 20.0
REDIAL_S = (0.25, 8.0)
"""First and longest pause between two attempts to reach a peer."""

RENEW_S = 20.0
"""Pause between two attempts to move a lane to a better connection."""

TOLD_S = 1.0
"""A peer that sends too fast is reported so often, however many frames it sends."""

OnFrame = Callable[[bytes, Frame], Awaitable[None]]
"""(peer, frame): takes one frame; while it waits, nothing more is read from this channel."""


def protocols(swarm: bytes) -> dict[str, ProtocolSpec]:
    """The two lanes' protocols for one swarm."""
    prefix = f"talkoot/{swarm.hex()[:16]}"
    return {
        "control": ProtocolSpec(
            name=f"{prefix}/control/1", max_header=MAX_CONTROL_BYTES, max_payload=0, urgent=True
        ),
        "bulk": ProtocolSpec(
            name=f"{prefix}/bulk/1", max_header=MAX_BULK_HEADER_BYTES, max_payload=MAX_BULK_PAYLOAD
        ),
    }


class _Lane:
    """One lane to one peer: open channels, and what waits to be sent."""

    def __init__(self, peer: bytes, spec: ProtocolSpec) -> None:
        self.peer = peer
        self.spec = spec
        self.channels: list[Channel] = []
        self.ours: list[Channel] = []  # of them, those that we opened
        self.queue: deque[tuple[bytes, Buffer]] = deque()
        self.wake = asyncio.Event()  # set when a channel is gone
        self.sending = False
        self.relayed: bool | None = None  # whether the channel in use goes through a relay, if it is known
        self.renew_at = 0.0  # not to be tried again before


class Links:
    """All links of one node. Call `run` as a service; the rest is valid while it runs."""

    def __init__(
        self,
        network: Network,
        swarm: bytes,
        *,
        on_control: OnFrame,
        on_bulk: OnFrame,
        on_change: Callable[[frozenset[bytes]], None],
        upload: UploadMeter | None = None,
    ) -> None:
        """`on_change` is told whom we are connected to whenever that changes; `upload` measures."""
        self._network = network
        self._specs = protocols(swarm)
        self._on_frame = {"control": on_control, "bulk": on_bulk}
        self._on_change = on_change
        self._lanes: dict[tuple[bytes, str], _Lane] = {}
        self._kept: frozenset[bytes] = frozenset()
        self._keepers: dict[bytes, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._idle = asyncio.Event()
        """Set whenever a lane has nothing left to send."""
        self.upload = upload or UploadMeter()
        self._known: frozenset[bytes] = frozenset()
        self.connections = 0
        """Times that a peer was connected that was not before."""
        self.disconnections: Counter[str] = Counter()
        """Times that a peer's last control channel ended, by why."""
        self._flows = {
            "control": Flow(
                Rate(limits.CONTROL_PER_S, limits.CONTROL_BURST),
                Rate(limits.STRANGERS_CONTROL_PER_S, limits.STRANGERS_CONTROL_BURST),
            ),
            "bulk": Flow(
                Rate(limits.BULK_PER_S, limits.BULK_BURST),
                Rate(limits.STRANGERS_BULK_PER_S, limits.STRANGERS_BULK_BURST),
            ),
        }
        self.on_reroute: Callable[[bytes], object] = lambda _peer: None
        """Told of a peer whose control channel goes another way than before: through a relay, or no
        longer."""
        self._told: dict[bytes, float] = {}
        self._dial_after: dict[tuple[bytes, str], float] = {}
        """When a lane may be dialled again; outlives the lane, so that no peer takes us for a flood."""
        for name, spec in self._specs.items():
            network.serve(spec, lambda channel, name=name: self._serve(name, channel))  # type: ignore[misc]

    async def run(self) -> None:
        """Own the tasks of all lanes until cancelled; closes the channels in band at the end."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await asyncio.get_running_loop().create_future()
        finally:
            self._group = None
            for lane in list(self._lanes.values()):  # each that closes is forgotten
                for channel in list(lane.channels):
                    with suppress(RemoteError, TimeoutError):
                        await channel.close()

    @property
    def connected(self) -> frozenset[bytes]:
        """Peers with an open control channel."""
        return self._known

    @property
    def outbound(self) -> frozenset[bytes]:
        """Of them, those to which we opened a control channel that is still there."""
        return frozenset(peer for peer in self._known if self._lane(peer, "control").ours)

    @property
    def seen(self) -> Mapping[bytes, str]:
        """By peer, the address prefix that it was connected from."""
        return self._network.company.places

    def keep(self, peers: frozenset[bytes]) -> None:
        """Stay connected to these peers, dialling them again and again; forget the others."""
        self._kept = peers - {self._network.key}
        self._network.company.wanted = self._kept
        for peer in list(self._keepers):
            if peer not in self._kept:
                self._keepers.pop(peer).cancel()
        if self._group is not None:
            for peer in sorted(self._kept - self._keepers.keys()):
                self._keepers[peer] = self._group.create_task(self._keep(peer))

    def send(self, peer: bytes, message: bytes) -> None:
        """Queue a control message."""
        self._enqueue(self._lane(peer, "control"), message, b"")

    def send_bulk(self, peer: bytes, header: bytes, payload: Buffer) -> None:
        """Queue a bulk frame; `payload` must stay unchanged until it is sent or dropped."""
        self._enqueue(self._lane(peer, "bulk"), header, payload)

    def drop_bulk(self) -> None:
        """Forget bulk frames that are not sent yet: their attempt is over."""
        for (_, name), lane in self._lanes.items():
            if name == "bulk":
                lane.queue.clear()

    def waiting(self) -> dict[str, int]:
        """Frames in the longest queue of each kind of lane."""
        longest = dict.fromkeys(self._specs, 0)
        for (_, name), lane in self._lanes.items():
            longest[name] = max(longest[name], len(lane.queue))
        return longest

    def reconnect(self, peer: bytes) -> None:
        """Close what is open to this peer, which may lead nowhere; a peer that is kept is dialled again."""
        if self._group is not None:
            for name in self._specs:
                lane = self._lanes.get((peer, name))
                for channel in list(lane.channels) if lane is not None else ():
                    self._group.create_task(self._drop(self._lane(peer, name), channel))

    def renew(self) -> None:
        """Move lanes that go through a relay, and have nothing to send, to a better connection where there is
        one: a stream stays on the connection that it was opened on. Whoever opened a channel moves it."""
        now = clock.now()
        for lane in list(self._lanes.values()):
            old = [channel for channel in lane.ours if channel.relay is not None]
            better = self._network.paths.of(lane.peer) in ("direct", "punched")
            if old and better and now >= lane.renew_at and not lane.sending and self._group is not None:
                lane.renew_at = now + RENEW_S
                self._group.create_task(self._renew(lane, old))

    async def _renew(self, lane: _Lane, old: list[Channel]) -> None:
        try:
            channel = await self._network.dial(lane.peer, lane.spec, timeout_s=DIAL_TIMEOUT_S)
        except (RemoteError, TimeoutError):
            return
        if channel.relay is not None or self._group is None:
            await channel.close()
            return
        lane.ours.append(channel)
        self._opened(lane, channel, first=True)
        self._group.create_task(self._read_own(_name(lane.spec), channel))
        for each in old:
            await self._drop(lane, each)

    async def sent_control(self) -> None:
        """Wait until no control message waits to be sent."""
        while any(lane.sending for (_, name), lane in self._lanes.items() if name == "control"):
            self._idle.clear()
            await self._idle.wait()

    # -- sending -------------------------------------------------------------------------------------

    def _lane(self, peer: bytes, name: str) -> _Lane:
        lane = self._lanes.get((peer, name))
        if lane is None:
            lane = self._lanes[peer, name] = _Lane(peer, self._specs[name])
        return lane

    def _enqueue(self, lane: _Lane, header: bytes, payload: Buffer) -> None:
        if self._group is None:
            return
        if lane.spec.max_payload == 0 and len(lane.queue) >= MAX_QUEUED:
            log.warning("peer %s does not read; dropping what waits for it", peer_id_of(lane.peer))
            lane.queue.clear()
        lane.queue.append((header, payload))
        if not lane.sending:
            lane.sending = True
            self._group.create_task(self._pump(lane))

    async def _pump(self, lane: _Lane) -> None:
        """Send what waits, then end; a new message starts it again."""
        bulk = lane.spec.max_payload > 0
        if bulk:
            self.upload.begin()
        try:
            while lane.queue:
                channel = await self._channel(lane)
                if channel is None:
                    lane.queue.clear()  # unreachable: the round's own deadlines decide what follows
                    return
                if not lane.queue:
                    return  # dropped while we dialled
                header, payload = lane.queue.popleft()
                try:
                    await channel.send(header, payload, timeout_s=SEND_TIMEOUT_S)
                    if bulk:
                        self.upload.sent(len(payload), relayed=channel.relay is not None)
                except (RemoteError, TimeoutError):
                    await self._drop(lane, channel)
        finally:
            lane.sending = False
            self._idle.set()
            if bulk:
                self.upload.end()

    async def _channel(self, lane: _Lane) -> Channel | None:
        """An open channel of the lane, dialled if need be; None when the peer cannot be reached."""
        place, now = (lane.peer, lane.spec.name), clock.now()
        if not lane.channels and (pause_s := self._dial_after.get(place, now) - now) > 0:
            await asyncio.sleep(pause_s)
        if lane.channels:
            return lane.channels[0]
        now = clock.now()
        self._dial_after = {key: at for key, at in self._dial_after.items() if at > now}
        self._dial_after[place] = now + REDIAL_S[0]
        try:
            channel = await self._network.dial(lane.peer, lane.spec, timeout_s=DIAL_TIMEOUT_S)
        except (RemoteError, TimeoutError):
            return None
        assert self._group is not None
        lane.ours.append(channel)
        self._opened(lane, channel)
        self._group.create_task(self._read_own(_name(lane.spec), channel))
        return lane.channels[0]  # perhaps one that they opened meanwhile: order holds within one channel only

    async def _keep(self, peer: bytes) -> None:
        """Stay connected to one peer."""
        lane, pause_s = self._lane(peer, "control"), REDIAL_S[0]
        while True:
            began = clock.now()
            channel = await self._channel(lane)
            if channel is not None:
                while lane.channels:
                    lane.wake.clear()
                    await lane.wake.wait()
                pause_s = REDIAL_S[0] if clock.now() - began > REDIAL_S[1] else pause_s
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, REDIAL_S[1])

    # -- receiving -----------------------------------------------------------------------------------

    async def _serve(self, name: str, channel: Channel) -> None:
        """A channel that the other side opened; closed again while we take no part ourselves."""
        if self._group is None:
            return
        lane = self._lane(channel.peer, name)
        self._opened(lane, channel)
        why = "other"
        try:
            await self._read(name, channel)
        except RemoteError as error:
            why = error.reason
            raise
        finally:
            await self._drop(lane, channel, why)

    async def _read_own(self, name: str, channel: Channel) -> None:
        """A channel that we opened: its failures end here, as those of accepted ones do in the network."""
        why = "other"
        try:
            await self._read(name, channel)
        except RemoteError as error:
            why = error.reason
            if why != "ended":
                self._network.events.reject(why, channel.peer)
        except TimeoutError:
            self._network.events.reject("timeout", channel.peer)
        finally:
            await self._drop(self._lane(channel.peer, name), channel, why)

    async def _read(self, name: str, channel: Channel) -> None:
        while True:
            frame = await channel.receive()
            await self._wait_for_turn(name, channel.peer, frame)
            await self._on_frame[name](channel.peer, frame)

    async def _wait_for_turn(self, name: str, peer: bytes, frame: Frame) -> None:
        """Hold a peer to its rate: what it sends beyond it waits in its channel, and so does the peer."""
        flow, now = self._flows[name], clock.now()
        cost = 1 + len(frame.header) // limits.FRAME_UNIT_BYTES
        stranger = not self._network.company.is_wanted(peer)
        wait_s = flow.wait_s(peer, cost, now, stranger=stranger)
        if flow.at_fault and now - self._told.get(peer, -TOLD_S) >= TOLD_S:
            self._told = {key: at for key, at in self._told.items() if now - at < TOLD_S} | {peer: now}
            self._network.events.reject("flood", peer)
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    def _opened(self, lane: _Lane, channel: Channel, *, first: bool = False) -> None:
        """`first`: it is used from now on, not one that was there before."""
        lane.channels.insert(0 if first else len(lane.channels), channel)
        self._note_way(lane)
        self._announce()

    def _note_way(self, lane: _Lane) -> None:
        relayed = lane.channels[0].relay is not None if lane.channels else lane.relayed
        changed = lane.relayed is not None and relayed != lane.relayed
        lane.relayed = relayed
        if changed and lane.spec.max_payload == 0:
            self.on_reroute(lane.peer)

    async def _drop(self, lane: _Lane, channel: Channel, why: str = "closed") -> None:
        """`why` it has ended: a reason of `RemoteError`, `closed` by us, `other`."""
        if channel in lane.ours:
            lane.ours.remove(channel)
        if channel in lane.channels:
            lane.channels.remove(channel)
            lane.wake.set()
            self._note_way(lane)
            self._announce(why)
        await channel.close()
        if not (lane.channels or lane.queue or lane.sending or lane.peer in self._kept):
            self._lanes.pop((lane.peer, _name(lane.spec)), None)  # strangers come and go

    def _announce(self, why: str = "other") -> None:
        known = frozenset(
            peer for (peer, name), lane in self._lanes.items() if name == "control" and lane.channels
        )
        if known != self._known:
            self.connections += len(known - self._known)
            self.disconnections[why] += len(self._known - known)
            self._known = known
            self._on_change(known)


def _name(spec: ProtocolSpec) -> str:
    return "bulk" if spec.max_payload else "control"
