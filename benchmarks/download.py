"""A newcomer downloads an outer state over libp2p from several sources, each a process of its own.

    python benchmarks/download.py [--numel 125000000] [--sources 3] [--mbit 400] [--dir DIR] [--json FILE]

`--mbit` puts every process into a network namespace of its own (root, iproute2) and shapes the newcomer's
link with a token bucket; 0: loopback as it is. All sources serve one directory, so the disk holds the state
twice. Prints megabytes a second, the share of the link, what was wasted, and how much anonymous memory the
newcomer took above what it had when its network had started.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import torch

from talkoot.averaging.certificate import genesis
from talkoot.cli.demo_chaos_network import Cables, run_tool
from talkoot.dht.config import NetworkConfig
from talkoot.dht.host import P2PNetwork
from talkoot.dht.identity import Identity, key_of_peer_id
from talkoot.dht.network import Network
from talkoot.peer import presets
from talkoot.peer.founding import first_ledger
from talkoot.peer.hashing import hash_state
from talkoot.peer.holdings import open_holdings
from talkoot.peer.joining import Joiner
from talkoot.peer.manifest import Manifest, from_canonical
from talkoot.peer.rules_of import founder_keys, rules_of
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.sync_progress import SyncProgress
from talkoot.peer.transfer import StateServer

FOUNDER = Identity.from_seed(b"d" * 32)
SHAPE = ("burst", "256kb", "latency", "50ms")
PAUSE_S = 0.05


def make_state(path: Path, numel: int) -> Manifest:
    """A founded swarm with one founder."""
    draft = presets.make("numpy-test", name="download")
    manifest = replace(
        draft,
        swarm=replace(draft.swarm, founders=(FOUNDER.peer_id,)),
        model=replace(draft.model, layout="00" * 32, numel=numel),
        state=replace(draft.state, snapshot_rounds=0),
    )
    paths = StateDir(path)
    paths.prepare()
    paths.save_manifest(manifest.canonical())
    ledger = first_ledger(manifest, founder_keys(manifest))
    theta = torch.randn(numel, generator=torch.Generator().manual_seed(1))
    digest = hash_state(theta, torch.zeros(numel), ledger.encode()).digest
    start = genesis(manifest.swarm_id, digest, ledger.voters, FOUNDER)
    OuterStore.create(paths.outer, numel, theta, ledger=ledger.encode(), certificate=start.encode())
    open_holdings(paths, rules_of(manifest), manifest.state).close()
    return manifest


def load_manifest(path: Path) -> Manifest:
    """Of a state directory."""
    data = StateDir(path).load_manifest()
    assert data is not None
    return from_canonical(data)


def network_of(identity: Identity, manifest: Manifest, listen: str) -> P2PNetwork:
    """On loopback, or on the address in a namespace."""
    config = NetworkConfig.lan(listen=(listen,)) if listen else NetworkConfig.test()
    return P2PNetwork(identity, config, swarm=manifest.swarm_id)


async def started(group: asyncio.TaskGroup, network: Network) -> asyncio.Task[None]:
    """A running network."""
    ready = asyncio.Event()
    task = group.create_task(network.run(started=ready.set))
    await ready.wait()
    return task


async def serve(path: Path, listen: str) -> None:
    """A source, until its standard input ends."""
    manifest = load_manifest(path)
    holdings = open_holdings(StateDir(path), rules_of(manifest), manifest.state)
    network = network_of(Identity.generate(), manifest, listen)
    StateServer(
        network,
        manifest.swarm_id,
        manifest=manifest.canonical,
        tokenizer=lambda: None,
        holdings=lambda: holdings,
    )
    async with asyncio.TaskGroup() as group:
        task = await started(group, network)
        sys.stdout.write(json.dumps(network.addresses) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        task.cancel()


def anonymous_bytes() -> int:
    """Anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


async def join(path: Path, source: Path, addresses: list[str], listen: str) -> dict[str, Any]:
    """A newcomer; what it measured."""
    manifest = load_manifest(source)
    network = network_of(Identity.generate(), manifest, listen)
    paths = StateDir(path)
    paths.prepare()
    joiner = Joiner(network, manifest.swarm_id, paths, None)
    seen: list[SyncProgress] = []
    joiner.tell(seen.append)
    peers = [key_of_peer_id(address.rpartition("/p2p/")[2]) for address in addresses]
    async with asyncio.TaskGroup() as group:
        task = await started(group, network)
        for peer, address in zip(peers, addresses, strict=True):
            await network.add_addresses(peer, [address])
        rules = rules_of(manifest)
        before = anonymous_bytes()
        peak = [before]
        chunks_s: list[float] = []

        async def watch() -> None:
            while True:
                await asyncio.sleep(PAUSE_S)
                peak.append(anonymous_bytes())
                if joiner.progress is not None:
                    chunks_s.append(time.monotonic())

        watcher = group.create_task(watch())
        began = time.monotonic()
        holdings = await joiner.first_state(peers, rules, rules.founders)
        seconds = time.monotonic() - began
        watcher.cancel()
        task.cancel()
    if holdings is None:
        raise SystemExit("nobody gave the state")
    return {
        "seconds": seconds,
        "download_s": chunks_s[-1] - chunks_s[0] + PAUSE_S,
        "bytes": seen[-1].total_bytes,
        "received_bytes": network.traffic.bytes_received,
        "wasted_bytes": seen[-1].wasted_bytes,
        "anonymous_bytes": max(peak) - before,
        "rejected": dict(network.events.rejected),
    }


def child(prefix: tuple[str, ...], *arguments: str) -> list[str]:
    """A command that runs this file."""
    return [*prefix, sys.executable, str(Path(__file__).resolve()), *arguments]


def start_source(prefix: tuple[str, ...], path: Path, listen: str) -> "subprocess.Popen[str]":
    """A source; its first line are its addresses."""
    command = child(prefix, "--serve", str(path), "--listen", listen)
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def first_address(source: "subprocess.Popen[str]") -> str:
    """Where it can be reached."""
    stream: IO[str] | None = source.stdout
    assert stream is not None
    addresses: list[str] = json.loads(stream.readline())
    return addresses[0]


def measure(folder: Path, numel: int, count: int, mbit: float) -> dict[str, Any]:
    """One download."""
    with ExitStack() as stack:
        prefixes: list[tuple[str, ...]] = [()] * (count + 1)
        listens = [""] * (count + 1)
        if mbit:
            cables = stack.enter_context(Cables(count + 1))
            prefixes = [("ip", "netns", "exec", name) for name in cables.names]
            listens = [cables.address(index) for index in range(count + 1)]
            hub = cables.names[0].rpartition("-")[0] + "-hub"
            rate = ("rate", f"{mbit:g}mbit", *SHAPE)
            run_tool("tc", "-n", hub, "qdisc", "replace", "dev", "peer0", "root", "tbf", *rate)
        sources = []
        for prefix, listen in zip(prefixes[1:], listens[1:], strict=True):
            source = start_source(prefix, folder / "source", listen)
            stack.callback(source.communicate)
            sources.append(source)
        addresses = [first_address(source) for source in sources]
        command = child(
            prefixes[0],
            *("--join", str(folder / "new"), "--serve", str(folder / "source"), "--listen", listens[0]),
            *("--addresses", json.dumps(addresses)),
        )
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"numel": numel, "sources": count, "mbit": mbit}


def report(found: dict[str, Any]) -> None:
    """Print it."""
    rate = found["bytes"] / found["download_s"]
    share = f", {100 * 8e-6 * rate / found['mbit']:.0f} % of the link" if found["mbit"] else ""
    print(f"{found['bytes'] / 1e6:,.0f} MB from {found['sources']} sources in {found['download_s']:.1f} s")
    print(f"{rate / 1e6:.1f} MB/s of state{share}; {found['seconds']:.1f} s with survey and install")
    print(f"{found['wasted_bytes'] / 1e6:.1f} MB wasted, {found['anonymous_bytes'] / 1e6:.0f} MB of memory")
    if found["rejected"]:
        print(f"rejected: {found['rejected']}")


def main() -> None:
    """Measure, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--numel", type=int, default=125_000_000)
    parser.add_argument("--sources", type=int, default=3)
    parser.add_argument("--mbit", type=float, default=400.0)
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    for hidden in ("--serve", "--join"):
        parser.add_argument(hidden, type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--listen", default="", help=argparse.SUPPRESS)
    parser.add_argument("--addresses", type=json.loads, default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.join is not None:
        print(
            json.dumps(
                asyncio.run(join(arguments.join, arguments.serve, arguments.addresses, arguments.listen))
            )
        )
    elif arguments.serve is not None:
        asyncio.run(serve(arguments.serve, arguments.listen))
    else:
        folder = Path(tempfile.mkdtemp(dir=arguments.dir))
        try:
            make_state(folder / "source", arguments.numel)
            found = measure(folder, arguments.numel, arguments.sources, arguments.mbit)
        finally:
            shutil.rmtree(folder)
        report(found)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
