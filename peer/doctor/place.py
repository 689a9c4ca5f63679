"""What is seen of this machine without torch or a network: Python, state directory, key, disk, port, IPv6."""

import fcntl
import os
import platform
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from talkoot.dht.config import NetworkConfig
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import Identity
from talkoot.dht.p2pd import binary
from talkoot.dht.port import check_port
from talkoot.peer.doctor.report import Check
from talkoot.peer.manifest import Manifest
from talkoot.peer.statedir import StateDir

LEAST_BYTES = 10**9
"""Disk for a swarm whose size is not known."""

MARGIN_BYTES = 200 * 10**6
"""Disk beside what grows with the model: logs, token files, records of rounds."""

BYTES_PER_ELEMENT = 3 * 8 + 16 + 12
"""Of the disk: three generations of parameters and momentum, what no round has counted yet, and the
trainer's parameters and moments."""

_WRITE_BYTES = 256 * 1024


def python() -> Check:
    """This Python, and the libp2p daemon that belongs to it."""
    words = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    try:
        binary()
    except ConfigError as error:
        fix = "python -m pip install --force-reinstall hivemind"
        return Check(name="python", answer="no", words=f"{words}; {error}", fix=fix, cause="p2pd")
    return Check(name="python", answer="yes", words=words)


def state_directory(paths: StateDir, *, daemon: bool, swarm: bytes | None = None) -> Check:
    """Whether the directory can be had for an invite's swarm. `daemon`: one of ours has it, and answers."""
    name, place = "state directory", str(paths.path)
    if (stranger := _other_swarm(paths, swarm)) is not None:
        return Check(
            name=name,
            answer="no",
            words=stranger,
            fix="choose another with --state-dir, for talkoot run, too",
            cause="state_of_other_swarm",
        )
    if daemon:
        return Check(name=name, answer="yes", words=f"{place}: a running daemon has it, and is asked")
    holder = _holder(paths.lock_file)
    if holder is not None:
        stop = f"kill {holder}" if holder else f"fuser -k {paths.lock_file}"
        return Check(
            name=name,
            answer="no",
            words=f"{place} is locked by {'process ' + holder if holder else 'another process'}",
            fix=f"{stop}    # or choose another with --state-dir",
            cause="state_locked",
        )
    there = _nearest(paths.path)
    if not os.access(there, os.W_OK | os.X_OK):
        return Check(
            name=name,
            answer="no",
            words=f"{there} cannot be written by this user",
            fix=f"sudo chown -R {os.getuid()} {there}    # or choose another with --state-dir",
            cause="state_unwritable",
        )
    return Check(name=name, answer="yes", words=place + ("" if paths.path.exists() else " (to be made)"))


def _other_swarm(paths: StateDir, swarm: bytes | None) -> str | None:
    """Why the directory is not this swarm's; None if it may be."""
    try:
        owner = paths.swarm_id
    except ConfigError as error:
        return str(error)
    if swarm is None or owner in (None, swarm):
        return None
    assert owner is not None
    return f"{paths.path} belongs to swarm {owner.hex()[:12]}, the invite to {swarm.hex()[:12]}"


def _holder(lock: Path) -> str | None:
    """Process id of who holds the lock, empty where that is not known; None: nobody does."""
    try:
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read(20).decode("ascii", "replace").strip()
                return text if text.isdecimal() else ""
    except OSError:
        pass  # there is none, or it is the next check that says why
    return None


def key(paths: StateDir) -> Check:
    """The key file, if there is one: it is private and whole."""
    if not paths.key_file.exists():
        return Check(name="key", answer="yes", words="none yet; talkoot run makes one")
    try:
        identity = Identity.load_or_create(paths.key_file)
    except ConfigError as error:
        words, _, fix = str(error).rpartition(": ")
        readable = "other users" in words
        return Check(
            name="key",
            answer="no",
            words=words or fix,
            fix=f"chmod 600 {paths.key_file}" if readable else fix,
            cause="key_readable" if readable else "key_damaged",
        )
    return Check(name="key", answer="yes", words=f"peer {identity.peer_id}, readable by this user only")


def disk(paths: StateDir, manifest: Manifest | None) -> Check:
    """Room for what the swarm's model needs here, and that something can be written at all."""
    there = _nearest(paths.path)
    needed = LEAST_BYTES
    if manifest is not None and manifest.model.numel:
        needed = BYTES_PER_ELEMENT * manifest.model.numel + MARGIN_BYTES - _taken(paths.path)
    try:
        free = shutil.disk_usage(there).free
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(_WRITE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Check(
            name="disk",
            answer="no",
            words=f"nothing can be written to {there}: {error.strerror}",
            fix="make room there, or choose another with --state-dir",
            cause="disk_full" if error.errno in (28, 122) else "disk",
            measured={"needed_bytes": needed, "free_bytes": None},
        )
    words = f"{free / 1e9:.1f} GB free in {there}, {max(0, needed) / 1e9:.1f} GB needed"
    return Check(
        name="disk",
        answer="yes" if free >= needed else "no",
        words=words,
        fix="" if free >= needed else "make room there, or choose another with --state-dir",
        cause="" if free >= needed else "disk_full",
        measured={"needed_bytes": needed, "free_bytes": free},
    )


def _taken(path: Path) -> int:
    """Bytes that a state in this directory takes already."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                total += 512 * (Path(folder) / name).lstat().st_blocks
            except OSError:
                continue
    return total


def _nearest(path: Path) -> Path:
    """The directory, or the nearest one above it that is there."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def port(config: NetworkConfig, number: int) -> Check:
    """Whether this node can listen. `number` is the port that it would have; 0: any."""
    try:
        check_port(config)
    except ConfigError as error:
        words, _, fix = str(error).partition(": ")
        return Check(
            name="port", answer="no", words=words, fix=fix or "talkoot doctor --port 0", cause="port"
        )
    words = f"TCP port {number} is free" if number else "any free TCP port"
    return Check(name="port", answer="yes", words=words, measured={"port": number or None})


def ipv6(*, needed: bool) -> Check:
    """Whether this machine has an IPv6 route. `needed`: some of the swarm can be reached by nothing else."""
    address = ""
    with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.connect(("2001:db8::1", 9))  # sends nothing: only looks for a route
        address = str(probe.getsockname()[0])
    if address:
        return Check(name="ipv6", answer="yes", words=f"IPv6 from {address}")
    if not needed:
        words = "none; not needed where peers have IPv4"
        return Check(name="ipv6", answer="no", words=words, weight="note")
    return Check(
        name="ipv6",
        answer="no",
        words="this machine has no IPv6, and the peers of the invite have nothing else",
        fix="switch IPv6 on in the router and here (sudo sysctl -w net.ipv6.conf.all.disable_ipv6=0), or ask "
        "for an invite with an IPv4 address or a relay",
        cause="no_ipv6",
    )
