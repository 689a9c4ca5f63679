"""The TCP port of a node: where none is configured the one that it had last, if that is free.

What others have noted of its addresses then leads to it after a restart, and so does a forwarded port.
"""

import asyncio
import contextlib
import errno
import logging
import socket
from pathlib import Path

from talkoot.dht.config import NetworkConfig
from talkoot.dht.errors import ConfigError

logger = logging.getLogger(__name__)

FILE = "port"
"""In the state directory: decimal digits."""

_RELEASE_S = 2.0
"""A p2pd whose node was killed may hold the port for so long."""
_LOOK_S = 0.1


async def choose_port(config: NetworkConfig, file: Path | None) -> int:
    """The configured port, else the one in `file` if it is free soon, else one that is free for every address
    to listen on, else 0: p2pd chooses. Call `check_port` before."""
    if config.port:
        return config.port
    last = remembered(file) if file is not None else 0
    if last and await _becomes_free(config, last):
        return last
    if len(config.listen) < 2:
        return 0
    with socket.socket(socket.AF_INET) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


async def _becomes_free(config: NetworkConfig, port: int) -> bool:
    with contextlib.suppress(OSError):  # a TimeoutError is one, too
        async with asyncio.timeout(_RELEASE_S):
            while True:
                if not _is_taken(config, port):
                    return True
                await asyncio.sleep(_LOOK_S)  # nobody tells when a socket of another process is closed
    return False


def _is_taken(config: NetworkConfig, port: int) -> bool:
    """Raises OSError where we could not listen for another reason; IPv6 may be missing."""
    for host in config.listen:
        try:
            _probe(host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            if ":" not in host:
                raise
    return False


def check_port(config: NetworkConfig) -> None:
    """Raise ConfigError if the configured port is taken or forbidden, OSError where no descriptors are left.

    p2pd itself would share the port (SO_REUSEPORT) with another p2pd and take half of its connections.
    """
    for host in config.listen if config.port else ():
        try:
            _probe(host, config.port)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(f"port {config.port} is in use: choose another with --port") from error
            if error.errno == errno.EACCES:
                raise ConfigError(f"port {config.port} needs privileges: choose one above 1023") from error
            if ":" not in host:
                raise ConfigError(f"cannot listen on {host}: {error.strerror}") from error
            # No IPv6 here: p2pd listens on what there is.


def _probe(host: str, port: int) -> None:
    """Raise OSError unless a socket of ours could listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind((host, port))


def remember_port(file: Path, port: int) -> None:
    """Keep it for the next start. A disk that refuses costs no more than that."""
    if remembered(file) == port:
        return
    try:
        file.write_text(f"{port}\n")
    except OSError as error:
        logger.debug("cannot remember the port: %s", error)


def remembered(file: Path) -> int:
    """The last one; 0 where there is none, or none that can be used."""
    try:
        with file.open("rb") as opened:
            text = opened.read(8).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return 0
    port = int(text) if text.isdecimal() else 0
    return port if 1024 <= port < 65536 else 0
