"""One process of `benchmarks/download.py`: a source of a state, or the newcomer that fetches it.

    download_peer.py serve DIR LISTEN      download_peer.py join DIR LISTEN

DIR holds the state that is served; a newcomer reads its manifest only. LISTEN is an IP address; empty:
loopback. The first line of the answer names key, addresses and p2pd. Each line of JSON on the standard input
is an order, its end the end.

* A source: `{"rate": bytes a second, 0 for any, "corrupt_after": chunks, or null}` (from so many chunks on
  every one has a wrong bit) and `{"report": true}`, answered with its memory and the bytes that it gave.
* A newcomer: `{"into": DIR, "sources": [[key, address], ...], "marks": [share, ...]}`: says
  `{"mark": number}` as soon as such a share has come, and then the result.
"""

import asyncio
import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
import uvloop

from talkoot.dht.config import NetworkConfig
from talkoot.dht.host import P2PNetwork
from talkoot.dht.identity import Identity
from talkoot.peer.holdings import open_holdings
from talkoot.peer.joining import Joiner
from talkoot.peer.manifest import Manifest, from_canonical
from talkoot.peer.roundlog import replayable_rounds
from talkoot.peer.rules_of import rules_of
from talkoot.peer.serving import Gate
from talkoot.peer.statedir import StateDir
from talkoot.peer.sync_progress import SyncProgress
from talkoot.peer.transfer import Answered, AskChunk, Request, StateServer

SAMPLE_S = 0.01
"""Pause between two looks at the progress, and at the memory at every fifth."""

Json = dict[str, Any]


def say(told: Json) -> None:
    """One line for whoever started this."""
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


async def order() -> Json | None:
    """The next line; None at the end of the input."""
    text = await asyncio.to_thread(sys.stdin.readline)
    return json.loads(text) if text else None


def anonymous_bytes(pid: int | str | None) -> int:
    """Memory of a process that no file backs: RssAnon."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def link_bytes() -> int:
    """Bytes that came over the network interface, with all headers; 0 where there is only loopback."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "eth0":
            return int(counts.split()[0])
    return 0


class Memory:
    """The most that this process and its p2pd took above what they had at first."""

    def __init__(self, network: P2PNetwork) -> None:
        self._pids = ("self", network.p2pd_pid)
        self._idle = [anonymous_bytes(pid) for pid in self._pids]
        self._peak = list(self._idle)

    def look(self) -> None:
        """Take a sample."""
        for index, pid in enumerate(self._pids):
            self._peak[index] = max(self._peak[index], anonymous_bytes(pid))

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(5 * SAMPLE_S)

    def told(self) -> Json:
        """Bytes above idle, and idle."""
        self.look()
        grown = [peak - idle for peak, idle in zip(self._peak, self._idle, strict=True)]
        return {"anonymous_bytes": grown[0], "p2pd_bytes": grown[1], "idle_bytes": self._idle}


class Choices(logging.Handler):
    """Which states were chosen, and why."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the words."""
        if record.msg.startswith("fetching the state of"):
            self.heard.append(str(record.args[0]) if isinstance(record.args, tuple) else "")


choices = Choices()


class FaultyServer(StateServer):
    """Flips a bit in chunks once it was told to."""

    corrupt_after: int | None = None
    given = 0

    def _answer(self, request: Request) -> Answered:
        status, payload = super()._answer(request)
        if isinstance(request, AskChunk) and status == "ok":
            self.given += 1
            if self.corrupt_after is not None and self.given > self.corrupt_after:
                damaged = bytearray(payload)
                damaged[7919 * self.given % len(damaged)] ^= 1 << self.given % 8
                return status, bytes(damaged)
        return status, payload


def network_of(manifest: Manifest, listen: str) -> P2PNetwork:
    """On loopback, or on the address in a namespace."""
    config = NetworkConfig.lan(listen=(listen,)) if listen else NetworkConfig.test()
    return P2PNetwork(Identity.generate(), config, swarm=manifest.swarm_id)


async def started(group: asyncio.TaskGroup, network: P2PNetwork) -> asyncio.Task[None]:
    """A running network, which has said where it is."""
    ready = asyncio.Event()
    task = group.create_task(network.run(started=ready.set))
    await ready.wait()
    say({"key": network.key.hex(), "addresses": network.addresses, "p2pd": network.p2pd_pid})
    return task


async def serve(path: Path, manifest: Manifest, listen: str) -> None:
    """A source."""
    holdings = open_holdings(StateDir(path), rules_of(manifest), manifest.state)
    network = network_of(manifest, listen)
    rate = math.inf
    server = FaultyServer(
        network,
        manifest.swarm_id,
        manifest=manifest.canonical,
        tokenizer=lambda: None,
        holdings=lambda: holdings,
        gate=Gate(lambda: rate),
    )
    async with asyncio.TaskGroup() as group:
        task = await started(group, network)
        memory = Memory(network)
        watch = group.create_task(memory.watch())
        while (told := await order()) is not None:
            if "report" in told:
                say(memory.told() | {"sent_bytes": server.gate.sent_bytes})
                continue
            rate = told["rate"] or math.inf
            server.corrupt_after, server.given = told["corrupt_after"], 0
        watch.cancel()
        task.cancel()


async def join(manifest: Manifest, listen: str) -> None:
    """A newcomer, for one download after the other."""
    network = network_of(manifest, listen)
    async with asyncio.TaskGroup() as group:
        task = await started(group, network)
        while (told := await order()) is not None:
            say(await download(group, network, manifest, told))
        task.cancel()


async def download(group: asyncio.TaskGroup, network: P2PNetwork, manifest: Manifest, told: Json) -> Json:
    """One state into an empty folder; what was measured."""
    paths = StateDir(Path(told["into"]))
    paths.prepare()
    joiner = Joiner(network, manifest.swarm_id, paths, None)
    choices.heard = []
    seen: list[SyncProgress] = []
    joiner.tell(seen.append)
    sources = [(bytes.fromhex(key), address) for key, address in told["sources"]]
    for key, address in sources:
        await network.add_addresses(key, [address])
    joiner.keep, joiner.replays = manifest.state, replayable_rounds(manifest)
    rules, memory = rules_of(manifest), Memory(network)
    times: list[float] = []
    most_sources = 0

    async def watch() -> None:
        nonlocal most_sources
        marks = list(enumerate(told["marks"]))
        while True:
            if (progress := joiner.progress) is not None and progress.total_bytes:
                times.append(time.monotonic())
                most_sources = max(most_sources, len(progress.sources))
                while marks and progress.received_bytes >= marks[0][1] * progress.total_bytes:
                    say({"mark": marks.pop(0)[0]})
            await asyncio.sleep(SAMPLE_S)  # between two samples

    watchers = [group.create_task(watch()), group.create_task(memory.watch())]
    rejected, received, link = network.events.rejected.copy(), network.traffic.bytes_received, link_bytes()
    began = time.monotonic()
    holdings = await joiner.first_state([key for key, _ in sources], rules, rules.founders)
    seconds = time.monotonic() - began
    for watcher in watchers:
        watcher.cancel()
    result: Json = {"ok": holdings is not None, "seconds": seconds, "sources": most_sources}
    result["choices"] = choices.heard
    if holdings is not None:
        result |= {"digest": holdings.digest.hex(), "round": holdings.ledger.round}
        holdings.close()
    if seen:
        result |= {"bytes": seen[-1].total_bytes, "wasted_bytes": seen[-1].wasted_bytes}
        result["download_s"] = times[-1] - times[0] + SAMPLE_S
    return result | {
        "received_bytes": network.traffic.bytes_received - received,
        "link_bytes": link_bytes() - link,
        "rejected": dict(network.events.rejected - rejected),
        "blamed": sorted(key.hex() for key, _ in sources if key not in joiner._usable([key])),
        **memory.told(),
    }


def main() -> None:
    """Serve or join."""
    what, folder, listen = sys.argv[1:]
    torch.set_num_threads(1)
    logger = logging.getLogger("talkoot.sync")
    logger.setLevel(logging.INFO)
    logger.addHandler(choices)
    data = StateDir(Path(folder)).load_manifest()
    assert data is not None
    manifest = from_canonical(data)
    uvloop.run(serve(Path(folder), manifest, listen) if what == "serve" else join(manifest, listen))


if __name__ == "__main__":
    main()
