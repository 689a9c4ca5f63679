"""What the TCP connections of another process carried, as the kernel counts it: Linux's `sock_diag`.

Bytes on the wire: what was sent twice counts twice, and headers (Ethernet, IP, TCP) with every segment. What
a connection carries between the last look and its end is missed.
"""

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

HEADERS = {socket.AF_INET: 66, socket.AF_INET6: 86}
"""Bytes of each segment before its data: Ethernet 14, IP 20 or 40, TCP with timestamps 32."""

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _DUMP_REQUEST = 4, 20, 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_INET_DIAG_INFO = 2
_TIME_WAIT, _LISTEN, _NEW = 6, 10, 12
_STATES = 0xFFF & ~(1 << _TIME_WAIT | 1 << _LISTEN | 1 << _NEW)
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_REQUEST = struct.Struct("=BBBBI48x")  # inet_diag_req_v2
_MESSAGE = struct.Struct("=BBBB40xQ16xI")  # inet_diag_msg: family, ..., cookie, ..., inode
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVED, _SEGMENTS, _SENT = struct.Struct("=128xQ"), struct.Struct("=136xII"), struct.Struct("=200xQ")
# Of tcp_info: bytes_received; segs_out, segs_in; bytes_sent.
_REPLY_BYTES = 256 * 1024
_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One connection at one look."""

    cookie: int
    """Its own for as long as the machine runs."""
    inode: int
    """Of the descriptor that a process has of it; 0: none has."""
    sent: int
    received: int


class SocketMeter:
    """Adds up what the connections of one process carry. Raises OSError where the kernel does not tell."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ours: dict[int, tuple[int, int]] = {}
        self._others: frozenset[int] = frozenset()

    def look(self) -> tuple[int, int]:
        """Bytes sent and received since the last look; since they began, for connections that are new."""
        seen = [each for family in HEADERS for each in connections(family)]
        new = [each for each in seen if each.cookie not in self._ours and each.cookie not in self._others]
        inodes = _inodes(self._pid) if any(each.inode for each in new) else frozenset()
        others = {each.cookie for each in new if each.inode and each.inode not in inodes}
        ours: dict[int, tuple[int, int]] = {}
        sent = received = 0
        for each in seen:
            before = self._ours.get(each.cookie, (0, 0) if each.inode in inodes else None)
            if before is not None:
                ours[each.cookie] = each.sent, each.received
                sent += each.sent - before[0]
                received += each.received - before[1]
        self._others = frozenset(others | (self._others & {each.cookie for each in seen}))
        self._ours = ours
        return sent, received


def connections(family: int) -> list[Seen]:
    """The TCP connections of this network namespace. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_TIMEOUT_S)
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0, _STATES)
        size = _HEADER.size + len(body)
        netlink.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _DUMP_REQUEST, 1, 0) + body)
        found: list[Seen] = []
        while True:
            for kind, data in _messages(netlink.recv(_REPLY_BYTES)):
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", data)[0], "the kernel does not list connections")
                if (seen := _seen(data)) is not None:
                    found.append(seen)


def _messages(reply: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(reply):
        size, kind, _, _, _ = _HEADER.unpack_from(reply, at)
        if size < _HEADER.size:
            return
        yield kind, reply[at + _HEADER.size : at + size]
        at += size + 3 & ~3


def _seen(data: bytes) -> Seen | None:
    family, _, _, _, cookie, inode = _MESSAGE.unpack_from(data)
    at = _MESSAGE.size
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if kind == _INET_DIAG_INFO and size >= _ATTRIBUTE.size + _SENT.size:
            info = data[at + _ATTRIBUTE.size : at + size]
            out, into = _SEGMENTS.unpack_from(info)
            header = HEADERS[family]
            return Seen(
                cookie,
                inode,
                _SENT.unpack_from(info)[0] + header * out,
                _RECEIVED.unpack_from(info)[0] + header * into,
            )
        at += max(size, _ATTRIBUTE.size) + 3 & ~3
    return None


def _inodes(pid: int) -> frozenset[int]:
    """Of the sockets that the process has open. Raises OSError."""
    found = set[int]()
    with os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            try:
                target = os.readlink(entry.path)
            except FileNotFoundError:  # closed meanwhile
                continue
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    return frozenset(found)
