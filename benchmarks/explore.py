"""`talkoot explore` on a directory of many peers: how soon there is a table, what it takes, what it misses.

    nice python benchmarks/explore.py [--peers 200] [--nodes 4] [--seconds 600] [--starts 5]

Real nodes on loopback keep the directory. They store signed records of simulated peers in it, each anew every
20 seconds with new steps, and all of them in the next round every 30 seconds; nobody answers at their
addresses. First `--starts` explorers are started on a terminal of 160 by 60, one after another: seconds until
a row of a peer is drawn, and seconds of a core. Then one with `--serve` is asked for its status every second.
Prints one JSON object. A hiccup is an answer that takes more than a second, fewer peers than there are (once
all were there), or a reading older than 15 seconds.
"""

import argparse
import asyncio
import fcntl
import json
import os
import pty
import struct
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import psutil
import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from dht_rig import SWARM, Node, Rig, record_of

from talkoot.dht import records
from talkoot.dht.entries import directory_key
from talkoot.dht.host import P2PNetwork
from talkoot.dht.identity import Identity, peer_id_of
from talkoot.peer.invite import Invite, encode

ANNOUNCE_S = 20.0
ROUND_S = 30.0
TTL_S = 90.0
SLOW_S = 1.0
OLD_S = 15.0
PROGRAM = [sys.executable, "-m", "talkoot.cli.main", "explore"]


async def announce(
    nodes: Sequence[Node], identities: Sequence[Identity], began: float, told: asyncio.Event
) -> None:
    """Keep the simulated peers in the directory; `told` is set when all were stored once."""
    network = nodes[0].network
    assert isinstance(network, P2PNetwork)
    inner = network._directory._node
    assert inner is not None
    key, turn = directory_key(SWARM), 0
    while True:
        for number, identity in enumerate(identities):
            now = time.time()
            record = record_of(
                network,
                key=identity.key,
                addresses=(f"/ip4/127.0.0.1/tcp/{20000 + number}",),
                round=int((time.monotonic() - began) / ROUND_S),
                steps=turn,
                speed=1 + number % 7,
                loss=2 + number / 1000,
            )
            envelope = records.seal(identity, record, issued=now, expires=now + TTL_S)
            await inner.store(key, envelope, now + TTL_S, subkey=identity.key)
            await asyncio.sleep(ANNOUNCE_S / len(identities) if told.is_set() else 0.02)
        told.set()
        turn += 1


async def refresh(nodes: Sequence[Node], began: float) -> None:
    """The nodes' own records."""
    while True:
        for node in nodes:
            number = int((time.monotonic() - began) / ROUND_S)
            await node.network.directory.publish(record_of(node.network, round=number), ttl_s=TTL_S)
        await asyncio.sleep(ANNOUNCE_S)


def first_row_s(invite: str, names: Sequence[str]) -> tuple[float, float, float]:
    """Seconds from the start on a terminal until a row is drawn; bytes resident and core seconds then."""
    began = time.monotonic()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(PROGRAM[0], [*PROGRAM, invite])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 160, 0, 0))
    drawn = ""
    while not any(name in drawn for name in names):
        drawn += os.read(terminal, 65536).decode("utf-8", "replace")
        assert time.monotonic() - began < 60, drawn[-500:]
    took = time.monotonic() - began
    resident = psutil.Process(pid).memory_info().rss
    cpu = psutil.Process(pid).cpu_times()
    os.write(terminal, b"q")
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass  # the other end is closed
    os.waitpid(pid, 0)
    os.close(terminal)
    return took, resident, cpu.user + cpu.system


async def watched(invite: str, expected: int, seconds: float) -> dict[str, Any]:
    """What a serving explorer says, second by second."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, invite, "--serve", "0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    began = time.monotonic()
    address = (await process.stdout.readline()).decode().strip()
    resources = psutil.Process(process.pid)
    hiccups: list[str] = []
    answers: list[float] = []
    resident, all_s, rounds, status = 0, None, set(), {}
    async with aiohttp.ClientSession(address) as client:
        while (elapsed := time.monotonic() - began) < seconds:
            asked = time.monotonic()
            async with client.get("/api/v1/status") as answer:
                status = await answer.json()
            answers.append(time.monotonic() - asked)
            resident = max(resident, resources.memory_info().rss)
            rounds.add(status["round"])
            if all_s is None:
                all_s = elapsed if len(status["peers"]) >= expected else None
            elif len(status["peers"]) < expected:
                hiccups.append(f"{elapsed:.0f} s: {len(status['peers'])} peers")
            elif time.time() - status["at_s"] > OLD_S:
                hiccups.append(f"{elapsed:.0f} s: a reading of {time.time() - status['at_s']:.0f} s ago")
            if answers[-1] > SLOW_S:
                hiccups.append(f"{elapsed:.0f} s: an answer after {answers[-1]:.1f} s")
            await asyncio.sleep(1.0)  # between two looks at the page
        cpu = resources.cpu_times()
    process.terminate()
    assert await process.wait() == 0
    answers.sort()
    return {
        "seconds": round(time.monotonic() - began),
        "peers": len(status["peers"]),
        "all_listed_after_s": all_s and round(all_s, 1),
        "hiccups": hiccups,
        "answer_ms": {"median": round(1e3 * median(answers), 1), "largest": round(1e3 * answers[-1], 1)},
        "resident_mb": round(resident / 1e6, 1),
        "cpu_share": round((cpu.user + cpu.system) / (time.monotonic() - began), 3),
        "rounds_seen": len(rounds),
        "by_path": status["swarm"]["by_path"],
        "refused": status["directory"]["rejected"],
        "failures": status["directory"]["failures"],
        "restarts": status["directory"]["restarts"],
    }


async def main(options: argparse.Namespace) -> dict[str, Any]:
    identities = [
        Identity.from_seed(b"simulated" + bytes(21) + n.to_bytes(2, "big")) for n in range(options.peers)
    ]
    names = [peer_id_of(identity.key)[-8:] for identity in identities]
    async with Rig("uvloop").swarm(options.nodes, lambda _node: None) as nodes, asyncio.TaskGroup() as tasks:
        began, told = time.monotonic(), asyncio.Event()
        work = [
            tasks.create_task(refresh(nodes, began)),
            tasks.create_task(announce(nodes, identities, began, told)),
        ]
        await told.wait()
        invite = encode(Invite(swarm=SWARM, addresses=nodes[0].network.addresses))
        starts = [await asyncio.to_thread(first_row_s, invite, names) for _ in range(options.starts)]
        result = await watched(invite, options.peers + options.nodes, options.seconds)
        for task in work:
            task.cancel()
    return {
        "first_row_s": sorted(round(took, 2) for took, _, _ in starts),
        "first_row_cpu_s": sorted(round(cpu, 2) for _, _, cpu in starts),
        "resident_at_first_row_mb": sorted(round(resident / 1e6, 1) for _, resident, _ in starts),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "served": result,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--starts", type=int, default=5)
    print(json.dumps(uvloop.run(main(parser.parse_args())), indent=2))
