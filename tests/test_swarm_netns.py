"""Two daemons on two machines, almost: network namespaces that share nothing but a virtual cable."""

import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from swarm_help import daemons, small_manifest

from talkoot.cli.demo_chaos_network import Cables, inside, why_not
from talkoot.cli.demo_node import TALKOOT, DemoNode

pytestmark = pytest.mark.processes


@pytest.fixture
def cables() -> Iterator[Cables]:
    """Two namespaces, 10.77.0.1 in the first and 10.77.0.2 in the second."""
    reason = why_not()
    if reason:
        print(f"SKIPPED: {reason}", file=sys.stderr)
        pytest.skip(reason)
    with Cables(2) as made:
        yield made


@pytest.mark.trial
def test_two_namespaces_train_together_by_invite(tmp_path: Path, cables: Cables) -> None:
    with daemons(tmp_path) as swarm:
        first, second = (
            DemoNode(name, tmp_path, TALKOOT, cables.place(index))
            for index, name in enumerate(("founder", "joiner"))
        )
        founder = swarm.found(small_manifest(peers=2, step_ms=20), first, profile="lan")
        joiner = swarm.join(second, profile="lan")
        swarm.counted(founder, joiner, since=1)
        status = swarm.status(joiner)
        assert any(address.startswith("/ip4/10.77.0.2/") for address in status["addresses"])
        assert status["state_bytes_received"] > 4 * status["numel"]
        assert status["bytes_received"] > 0
    assert [node.exit_code for node in (founder, joiner)] == [0, 0]


def test_who_is_mute_hears_the_others(cables: Cables) -> None:
    """Datagrams of ours arrive or not, by the direction that is cut."""
    sockets = []
    for name in cables.names:
        with inside(name):
            sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sockets[0], sockets[1]:
        for index, end in enumerate(sockets):
            end.bind((cables.address(index), 7000))

        def arrives(sender: int, patience_s: float = 10.0) -> bool:
            """Whether a datagram of `sender`, sent again and again, reaches the other in time."""
            sockets[1 - sender].settimeout(0.1)
            for _ in range(int(patience_s / 0.1)):
                sockets[sender].sendto(b"hello", (cables.address(1 - sender), 7000))
                with suppress(TimeoutError):
                    return sockets[1 - sender].recv(10) == b"hello"
            return False

        def drained(receiver: int) -> None:
            sockets[receiver].settimeout(0.1)
            with suppress(TimeoutError):
                while sockets[receiver].recv(10):
                    pass

        assert arrives(0)
        assert arrives(1)
        cables.mute(0)
        drained(1)
        assert not arrives(0, 0.3)
        assert arrives(1)
        cables.unmute(0)
        assert arrives(0)
        cables.link(1, "down")
        drained(1)
        assert not arrives(0, 0.3)
        cables.link(1, "up")
        assert arrives(0)
