"""What a place's translation does, measured with plain sockets from two hosts outside (RFC 4787, 5382)."""

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from nat_lab import Spot

PORTS = (7001, 7002)
STRANGER_PORT = 7003
"""From which an outside host sends that nobody wrote to."""
PATIENCE_S = 5.0
"""For what should arrive."""
SILENCE_S = 0.5
"""For what should not: the kernel alone answers, so milliseconds are enough."""

Address: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Of one translation for one protocol."""

    mapping: Literal["independent", "dependent"]
    """Whether a port inside has the same port outside for all whom it writes to."""
    filtering: Literal["open", "restricted"]
    """Whether somebody who was not written to gets in there."""


def of_tcp(spot: Spot, outside: tuple[Spot, Spot]) -> Behaviour | None:
    """None: nothing gets out."""
    with ExitStack() as stack:
        listener = stack.enter_context(bound(spot, socket.SOCK_STREAM, spot.port))
        listener.listen()
        seen = []
        for other, port in ((outside[0], PORTS[0]), (outside[0], PORTS[1]), (outside[1], PORTS[0])):
            server = stack.enter_context(bound(other, socket.SOCK_STREAM, port, spot))
            server.listen()
            client = stack.enter_context(bound(spot, socket.SOCK_STREAM, spot.port))
            try:
                client.connect((_address(other, spot), port))
            except OSError:
                return None
            accepted, name = server.accept()
            stack.enter_context(accepted)
            seen.append(name[:2])
        let_in = reaches(outside[1], seen[0], spot, listener)
        return Behaviour(_mapping(seen), "open" if let_in else "restricted")


def reaches(sender: Spot, target: Address, spot: Spot, listener: socket.socket) -> bool:
    """Whether a TCP connection of `sender`, from a port not used yet, comes to `listener` of `spot`."""
    with bound(sender, socket.SOCK_STREAM, STRANGER_PORT, spot) as stranger:
        stranger.settimeout(SILENCE_S)
        try:
            stranger.connect(target)
        except OSError:
            return False
        accepted, _ = listener.accept()
        accepted.close()
        return True


def of_udp(spot: Spot, outside: tuple[Spot, Spot]) -> Behaviour | None:
    """None: nothing gets out."""
    with ExitStack() as stack:
        ours = stack.enter_context(bound(spot, socket.SOCK_DGRAM, spot.port))
        seen: list[Address] = []
        for other, port in ((outside[0], PORTS[0]), (outside[0], PORTS[1]), (outside[1], PORTS[0])):
            server = stack.enter_context(bound(other, socket.SOCK_DGRAM, port, spot))
            server.settimeout(SILENCE_S if not seen else PATIENCE_S)
            ours.sendto(b"hello", (_address(other, spot), port))
            try:
                seen.append(server.recvfrom(10)[1][:2])
            except TimeoutError:
                return None
        stranger = stack.enter_context(bound(outside[1], socket.SOCK_DGRAM, STRANGER_PORT, spot))
        stranger.sendto(b"stranger", seen[0])
        ours.settimeout(SILENCE_S)
        try:
            ours.recv(10)
        except TimeoutError:
            return Behaviour(_mapping(seen), "restricted")
        return Behaviour(_mapping(seen), "open")


def _mapping(seen: list[Address]) -> Literal["independent", "dependent"]:
    return "independent" if len(set(seen)) == 1 else "dependent"


def _address(other: Spot, spot: Spot) -> str:
    """Of an open host, one that `spot` can speak to."""
    return other.addresses[0 if _version(spot) == 4 else 1]


def _version(spot: Spot) -> int:
    return ipaddress.ip_address(spot.address).version


@contextmanager
def bound(spot: Spot, kind: int, port: int, to: Spot | None = None) -> Iterator[socket.socket]:
    """Bound at a place; several may share a port, as libp2p's do."""
    version = _version(to or spot)
    with spot.inside():
        made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)
    with made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.settimeout(PATIENCE_S)
        made.bind(("0.0.0.0" if version == 4 else "::", port))
        yield made
