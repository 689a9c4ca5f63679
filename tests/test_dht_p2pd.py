"""What only the real network can suffer: deaths of p2pd, ports, restarts, hostile DHT nodes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from dht_rig import SPEC, SWARM, Node, Rig, pair, record_of

from talkoot.dht import host, p2pd, port
from talkoot.dht.addresses import AddressBook
from talkoot.dht.config import NetworkConfig
from talkoot.dht.entries import pack_envelope
from talkoot.dht.errors import ConfigError, RemoteError
from talkoot.dht.host import P2PNetwork
from talkoot.dht.identity import Identity
from talkoot.dht.records import seal
from talkoot.dht.substrate import DHTID, DHTLocalStorage, DictionaryDHTValue, PeerID
from talkoot.dht.validator import directory_id

pytestmark = pytest.mark.processes
RIG = Rig("p2pd")


def real(node: Node) -> P2PNetwork:
    assert isinstance(node.network, P2PNetwork)
    return node.network


async def publish_all(nodes: list[Node]) -> None:
    for node in nodes:
        await node.network.directory.publish(record_of(node.network), ttl_s=120)


async def all_seen(nodes: list[Node]) -> None:
    """Until each node's directory shows all of them."""
    for node in nodes:
        while len(await node.network.directory.peers()) < len(nodes):
            pass


def test_a_killed_p2pd_comes_back_with_directory_and_handlers() -> None:
    async def main() -> None:
        async with RIG.swarm(2) as nodes:
            await publish_all(nodes)
            await all_seen(nodes)
            ours, theirs = await pair(nodes)
            before = real(nodes[0]).addresses
            pid = real(nodes[0]).p2pd_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            for channel in (ours, theirs):
                with pytest.raises(RemoteError, match="lost"):
                    await channel.receive(timeout_s=10)
            back = await dial_again(nodes[1], nodes[0].key)
            await back.send(b"again", timeout_s=10)
            assert nodes[0].network.addresses == before
            assert nodes[0].network.events.restarts["p2pd"] == 1
            newer = record_of(nodes[0].network, round=99)
            await nodes[0].network.directory.publish(newer, ttl_s=120)
            while (await nodes[1].network.directory.peers())[nodes[0].key] != newer:
                pass

    RIG.run(main())


async def dial_again(node: Node, peer: bytes) -> Any:
    """Until the peer answers; libp2p refuses to dial for a moment after a failure."""
    while True:
        try:
            return await node.network.dial(peer, SPEC, timeout_s=5)
        except RemoteError:
            continue


def test_a_restarted_bootstrap_peer_does_not_split_the_swarm() -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            founder = Identity.from_seed(b"f" * 32)
            first = await RIG.start(tasks, founder)
            address = first.network.addresses
            port = int(address[0].split("/")[4])
            others = [
                await RIG.start(tasks, Identity.from_seed(bytes([n]) * 32), address, ping_bootstrap_s=0.3)
                for n in (1, 2)
            ]
            await publish_all([first, *others])
            await all_seen([first, *others])
            await first.stop()
            second = await RIG.start(tasks, founder, port=port)  # knows nobody
            assert second.network.addresses == address
            await second.network.directory.publish(record_of(second.network, round=50), ttl_s=120)
            await all_seen([second])
            while (await others[0].network.directory.peers())[founder.key].round != 50:
                pass
            for node in (second, *others):
                await node.stop()

    RIG.run(main())


def test_a_node_finds_the_swarm_by_what_it_saved(tmp_path: Path) -> None:
    async def main() -> None:
        async with RIG.swarm(1) as nodes:
            path = tmp_path / "peers.json"
            path.write_bytes(msgspec.json.encode({nodes[0].identity.peer_id: nodes[0].network.addresses}))
            await publish_all(nodes)
            async with asyncio.TaskGroup() as tasks:
                late = await RIG.start(tasks, Identity.from_seed(b"l" * 32), state_dir=tmp_path)
                while nodes[0].key not in await late.network.directory.peers():
                    pass
                await late.stop()

    RIG.run(main())


def test_whom_a_node_meets_is_on_its_disk_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_SAVE_S", 0.1)

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            first = await RIG.start(tasks, Identity.from_seed(b"f" * 32), state_dir=tmp_path)
            second = await RIG.start(tasks, Identity.from_seed(b"s" * 32), first.network.addresses)
            await publish_all([first, second])
            await all_seen([first, second])
            saved = AddressBook()
            while second.key not in saved.recent(9):
                await first.network.directory.peers()
                saved.load(tmp_path / "peers.json")
            assert tuple(map(str, saved.of(second.key))) == second.network.addresses
            for node in (second, first):
                await node.stop()

    RIG.run(main())


def test_a_port_in_use_is_a_matter_for_the_operator() -> None:
    async def main() -> None:
        async with RIG.swarm(1) as nodes:
            ports = [int(nodes[0].network.addresses[0].split("/")[4])]  # p2pd would share it
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                ports.append(taken.getsockname()[1])
                for number in ports:
                    network = RIG.make(Identity.generate(), port=number)
                    with pytest.raises(
                        ConfigError, match=f"port {number} is in use: choose another with --port"
                    ):
                        await network.run(started=lambda: None)

    RIG.run(main())


def test_a_node_has_its_port_again_unless_it_is_taken(tmp_path: Path) -> None:
    identity = Identity.from_seed(b"p" * 32)

    async def addresses_of_a_life() -> tuple[str, ...]:
        async with asyncio.TaskGroup() as tasks:
            node = await RIG.start(tasks, identity, state_dir=tmp_path)
            found = node.network.addresses
            await node.stop()
        return found

    async def main() -> None:
        first = await addresses_of_a_life()
        assert await addresses_of_a_life() == first
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", int(first[0].split("/")[4])))
            taken.listen()
            other = await addresses_of_a_life()
        assert other != first
        assert await addresses_of_a_life() == other

    RIG.run(main())


@pytest.mark.parametrize(
    "content", [b"", b"0", b"22", b"65536", b"99999999", b"-5", b"4\xff", b"\xb2\xb3", None]
)
def test_a_port_file_of_no_use_is_no_port(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / port.FILE
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    assert asyncio.run(port.choose_port(NetworkConfig.test(), file)) == 0
    port.remember_port(file, 4001)
    chosen = asyncio.run(port.choose_port(NetworkConfig.test(), file))
    assert chosen == (0 if content is None else 4001)


def test_a_node_has_its_port_again_where_there_is_no_ipv6(tmp_path: Path) -> None:
    file = tmp_path / port.FILE
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    port.remember_port(file, free)
    config = NetworkConfig.test(listen=("127.0.0.1", "2001:db8::1"))  # not an address of this machine
    assert asyncio.run(port.choose_port(config, file)) == free


def test_hostile_stores_are_refused() -> None:
    async def main() -> None:
        async with RIG.swarm(2) as nodes:
            victim, evil = nodes
            await victim.network.directory.publish(record_of(victim.network), ttl_s=60)
            now = time.time()
            good = seal(evil.identity, record_of(evil.network), issued=now, expires=now + 60)
            foreign = record_of(evil.network, bytes(32))
            for_others = seal(evil.identity, foreign, issued=now, expires=now + 60)
            place = directory_id(SWARM)
            stores: list[tuple[DHTID, Any, bytes, float]] = [
                (place, evil.key, good, now + 60),  # not msgpack
                (place, evil.key, pack_envelope(for_others), now + 60),  # another swarm
                (place, victim.key, pack_envelope(good), now + 60),  # another's place
                (place, evil.key, pack_envelope(good), now + 3600),  # too long
                (place, evil.key, pack_envelope(good), float("nan")),
                (place, evil.key, pack_envelope(good[:-1]), now + 60),
                (place, evil.key, pack_envelope(bytes(100)), now + 60),
                (place, evil.key, pack_envelope(bytes(3_000_000)), now + 60),
                (place, "text", pack_envelope(good), now + 60),  # hangs readers of plain nodes
                (place, evil.key.hex(), pack_envelope(good), now + 60),
                (place, 7, pack_envelope(good), now + 60),
                (place, None, pack_envelope(good), now + 60),  # a value without subkeys
                (DHTID.generate(), evil.key, pack_envelope(good), now + 60),  # a stranger's storage
                (DHTID.generate(), None, b"\x01", now + 60),
            ]
            for key, subkey, value, expires in stores:
                assert await store(evil, victim, key, subkey, value, expires) == [False], (subkey, value[:20])
            async with asyncio.timeout(5):
                assert set(await victim.network.directory.peers()) == {victim.key}
            poisoned = poisoned_dictionary(good, evil.key, now)
            await store(evil, victim, place, None, poisoned, now + 60)
            async with asyncio.timeout(5):
                assert set(await victim.network.directory.peers()) <= {victim.key, evil.key}
            assert await store(evil, victim, place, evil.key, pack_envelope(good), now + 60) == [True]
            assert set(await victim.network.directory.peers()) == {victim.key, evil.key}

    RIG.run(main())


def poisoned_dictionary(good: bytes, owner: bytes, now: float) -> DictionaryDHTValue:
    """Good and bad entries with subkeys of several types."""
    dictionary = DictionaryDHTValue()
    dictionary.store("text", pack_envelope(good), now + 50)
    dictionary.store(owner, pack_envelope(good), now + 60)
    dictionary.store(7, b"\x01", now + 55)
    dictionary.store(bytes(32), pack_envelope(good), now + 56)
    dictionary.store(bytes(31), b"x", now + 1e9)
    return dictionary


async def store(evil: Node, victim: Node, key: DHTID, subkey: Any, value: Any, expires: float) -> Any:
    """Straight into the other node, past all our own checks."""
    node = real(evil)._directory._node
    assert node is not None
    target = PeerID(bytes.fromhex("002408011220") + victim.key)
    return await node.protocol.call_store(target, [key], [value], [expires], subkeys=[subkey])


def test_a_hostile_node_that_is_read_from() -> None:
    async def main() -> None:
        async with RIG.swarm(2) as nodes:
            victim, evil = nodes
            await victim.network.directory.publish(record_of(victim.network), ttl_s=60)
            now = time.time()
            good = seal(evil.identity, record_of(evil.network), issued=now, expires=now + 60)
            storage = DHTLocalStorage()
            dictionary = poisoned_dictionary(good, evil.key, now)
            dictionary.maxsize, dictionary.frozen = "many", True  # no number; frozen, so it can be sent
            DHTLocalStorage.__mro__[1].store(storage, directory_id(SWARM), dictionary, 1e300)
            node = real(evil)._directory._node
            assert node is not None
            node.protocol.storage = storage
            async with asyncio.timeout(10):
                for _ in range(3):
                    assert set(await victim.network.directory.peers()) == {victim.key, evil.key}

    RIG.run(main())


NODE_PROGRAM = """
import asyncio
from talkoot.dht.config import NetworkConfig
from talkoot.dht.host import P2PNetwork
from talkoot.dht.identity import Identity
network = P2PNetwork(Identity.generate(), NetworkConfig.test(), swarm=bytes(32))
asyncio.run(network.run(started=lambda: print(network.p2pd_pid, flush=True)))
"""


def test_p2pd_dies_with_us() -> None:
    program = [sys.executable, "-W", "ignore", "-c", NODE_PROGRAM]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        child = psutil.Process(int(node.stdout.readline()))
        node.kill()
        child.wait(timeout=10)


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    old, gone, early, young, alive = (
        tmp_path / f"talkoot-p2pd-{rest}"
        for rest in ("x", f"{dead.pid}-x", f"{dead.pid}-unlocked", "y", f"{os.getppid()}-x")
    )
    for directory in (old, gone, early, young, alive):
        directory.mkdir()
        (directory / "control.sock").touch()
        if directory is not early:  # killed before it had made its lock
            (directory / "lock").touch()
    os.utime(old, (0, 0))
    with p2pd._private_directory() as ours:
        os.utime(ours, (0, 0))
        p2pd._remove_stale()
        assert ours.stat().st_mode & 0o777 == 0o700
        assert ours.name.startswith(f"talkoot-p2pd-{os.getpid()}-")
        assert sorted(tmp_path.iterdir()) == sorted([ours, young, alive])
    assert sorted(tmp_path.iterdir()) == sorted([young, alive])


def test_each_switch_is_set_on_purpose() -> None:
    arguments = p2pd.arguments(NetworkConfig.test(), 0, Path("/x"))
    for expected in (
        "relay=0",
        "relayService=0",
        "relayDiscovery=0",
        "autonat=0",
        "natPortMap=0",
        "autoRelay=0",
    ):
        assert f"-{expected}" in arguments
    assert "-hostAddrs=/ip4/127.0.0.1/tcp/0" in arguments
    assert "quic" not in " ".join(arguments)
