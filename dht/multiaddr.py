"""The multiaddrs that we dial: /ip4|ip6|dns|dns4|dns6/.../tcp/port, optionally through a relay.

Text and binary form (multiformats/multiaddr). Our own because addresses come from other peers, and because
hivemind's encoder gets /p2p components wrong.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from talkoot.dht.identity import key_of_multihash, key_of_peer_id, multihash_of, peer_id_of

MAX_ADDRESS_CHARS = 256
_CODES = {"ip4": 4, "tcp": 6, "ip6": 41, "dns": 53, "dns4": 54, "dns6": 55}
_P2P, _CIRCUIT = 421, 290
_ANY_MULTIHASH = multihash_of(bytes(32))
_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


@dataclass(frozen=True, slots=True)
class Address:
    """A place to dial: host and TCP port; through the relay `relay` if that is a key."""

    kind: str
    """ip4, ip6, dns, dns4 or dns6."""
    host: str
    port: int
    relay: bytes | None = None
    peer: bytes | None = None
    """Who is there, if the address said so (/p2p at its end)."""

    def __str__(self) -> str:
        text = f"/{self.kind}/{self.host}/tcp/{self.port}"
        if self.relay is not None:
            text += f"/p2p/{peer_id_of(self.relay)}/p2p-circuit"
        return text if self.peer is None else f"{text}/p2p/{peer_id_of(self.peer)}"

    def to_bytes(self) -> bytes:
        """The binary form, without the peer at its end (p2pd takes that separately)."""
        parts = [_host_bytes(self.kind, self.host), bytes([_CODES["tcp"]]), self.port.to_bytes(2, "big")]
        if self.relay is not None:
            multihash = multihash_of(self.relay)
            parts += [varint(_P2P), varint(len(multihash)), multihash, varint(_CIRCUIT)]
        return b"".join(parts)

    @property
    def is_loopback(self) -> bool:
        """True for addresses that mean this machine only."""
        return self.kind in ("ip4", "ip6") and ipaddress.ip_address(self.host).is_loopback

    @property
    def is_global(self) -> bool:
        """True for IP addresses of the Internet, and for names."""
        return self.kind not in ("ip4", "ip6") or ipaddress.ip_address(self.host).is_global


def parse_address(text: str) -> Address:
    """Raises ValueError for anything but the forms above."""
    if len(text) > MAX_ADDRESS_CHARS:
        raise ValueError("address too long")
    parts = text.split("/")
    if len(parts) < 5 or parts[0] or parts[3] != "tcp" or parts[1] not in _CODES or parts[1] == "tcp":
        raise ValueError(f"not a TCP multiaddr: {text!r}")
    kind, host = parts[1], _checked_host(parts[1], parts[2])
    match parts[5:]:
        case []:
            return Address(kind, host, _checked_port(parts[4]))
        case ["p2p", peer]:
            return Address(kind, host, _checked_port(parts[4]), peer=key_of_peer_id(peer))
        case ["p2p", relay, "p2p-circuit"]:
            return Address(kind, host, _checked_port(parts[4]), key_of_peer_id(relay))
        case ["p2p", relay, "p2p-circuit", "p2p", peer]:
            return Address(kind, host, _checked_port(parts[4]), key_of_peer_id(relay), key_of_peer_id(peer))
        case _:
            raise ValueError(f"not a multiaddr that talkoot dials: {text!r}")


def decode_address(data: bytes) -> str:
    """The text of /ip4|ip6/.../tcp/port in binary form. Raises ValueError for anything else."""
    for kind, code, size in (("ip4", 4, 4), ("ip6", 41, 16)):
        if len(data) == size + 4 and data[0] == code and data[1 + size] == _CODES["tcp"]:
            host = ipaddress.ip_address(data[1 : 1 + size])
            return f"/{kind}/{host}/tcp/{int.from_bytes(data[-2:], 'big')}"
    raise ValueError("not a plain TCP address")


def prefix_of(data: bytes) -> str | None:
    """The IPv4 /24 or IPv6 /48 of a multiaddr in binary form, from which its owner got its address.

    None for anything else and for what goes through a relay, whose address says nothing of the peer's.
    """
    try:
        host = ipaddress.ip_address(decode_address(data).split("/")[2])
    except ValueError:
        return None
    if host.version == 6 and host.ipv4_mapped is not None:
        host = host.ipv4_mapped
    return str(ipaddress.ip_network((host, 24 if host.version == 4 else 48), strict=False))


def is_relayed(data: bytes) -> bool:
    """Whether a multiaddr in binary form goes through a relay."""
    return relay_of(data) is not None


def relay_of(data: bytes) -> bytes | None:
    """The relay that a multiaddr in binary form goes through; empty where it has no key that we can name,
    None where there is no relay."""
    try:
        decode_address(data)
    except ValueError:
        pass
    else:
        return None
    if varint(_CIRCUIT) not in data:
        return None
    mark = varint(_P2P) + bytes([len(_ANY_MULTIHASH)])
    at = data.find(mark + _ANY_MULTIHASH[:6])
    name = data[at + len(mark) : at + len(mark) + len(_ANY_MULTIHASH)] if at >= 0 else b""
    try:
        return key_of_multihash(name)
    except ValueError:
        return b""


def place_of(data: bytes) -> Address | None:
    """The plain TCP address that a multiaddr in binary form is; None where it is none."""
    try:
        return parse_address(decode_address(data))
    except ValueError:
        return None


def addresses_of(peer: bytes, texts: Sequence[str]) -> tuple[list[Address], int]:
    """Those of `texts` that are addresses of `peer` (or say nothing of a peer), and how many are not."""
    good: list[Address] = []
    for text in texts:
        try:
            address = parse_address(text)
        except ValueError:
            continue
        if address.peer in (None, peer):
            good.append(address)
    return good, len(texts) - len(good)


def _checked_host(kind: str, host: str) -> str:
    if kind == "ip4":
        return str(ipaddress.IPv4Address(host))
    if kind == "ip6":
        address = ipaddress.IPv6Address(host)
        if address.scope_id is not None:
            raise ValueError("address with a zone")
        return str(address)
    if not _NAME.fullmatch(host):
        raise ValueError("not a host name")
    return host


def _checked_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 65536):
        raise ValueError("not a port")
    return int(text)


def _host_bytes(kind: str, host: str) -> bytes:
    if kind in ("ip4", "ip6"):
        return bytes([_CODES[kind]]) + ipaddress.ip_address(host).packed
    return bytes([_CODES[kind]]) + varint(len(host)) + host.encode("ascii")


def varint(number: int) -> bytes:
    """Unsigned LEB128, as in protobuf and multiaddr."""
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
