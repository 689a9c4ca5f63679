"""The go-libp2p daemon that hivemind ships: started with our own flags, watched, and cleaned up after.

hivemind's `P2P.create` cannot pass all flags, starts a second daemon for its identity check, and does not
notice its death; so we start the binary and attach to its control socket.
"""

import asyncio
import contextlib
import fcntl
import importlib.util
import logging
import os
import re
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from talkoot.dht import limits
from talkoot.dht.child import child, send_signal
from talkoot.dht.config import NetworkConfig
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import Identity

logger = logging.getLogger(__name__)

_DIRECTORY_PREFIX = "talkoot-p2pd-"
_STOP_TIMEOUT_S = 3.0
_LINE_BYTES = 64 * 1024
_YOUNG_S = 60.0


class P2pdError(Exception):
    """p2pd did not start, died, or did not answer: ours to repair by starting it again."""


class P2pd:
    """A running p2pd. Made by `running`."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self._process = process
        self.pid = process.pid
        self.directory = directory
        """Private (0700), for sockets; removed when p2pd is stopped."""
        self.control_path = directory / "control.sock"
        self._last_line = ""

    async def died(self) -> int:
        """Log what p2pd says until it is gone; its exit status. To be awaited all the time."""
        while await self._next_line() is not None:
            pass
        return await self._process.wait()

    async def _started(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                line: str | None = ""
                while line is not None and not line.startswith("Peer Addrs:"):
                    line = await self._next_line()
        except TimeoutError:
            raise P2pdError(f"p2pd did not start in {timeout_s:.0f} seconds") from None
        if line is None:
            raise P2pdError(f"p2pd ended while starting: {self._last_line}")

    async def _next_line(self) -> str | None:
        """The next line of its output, logged; None at the end; empty for one that was too long."""
        assert self._process.stdout is not None
        try:
            line = await self._process.stdout.readline()
        except ValueError:
            return ""
        if not line:
            return None
        text = line.decode("utf-8", "replace").rstrip()
        logger.debug("p2pd: %s", text)
        self._last_line = text[:300]
        return text

    async def _stop(self) -> None:
        send_signal(self._process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await self._process.wait()


@contextlib.asynccontextmanager
async def running(identity: Identity, config: NetworkConfig, port: int) -> AsyncIterator[P2pd]:
    """A p2pd that listens on `port` (0: any) and serves its control socket; stopped on exit.

    Raises P2pdError if it does not come up in `config.start_timeout_s`.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            directory = stack.enter_context(_private_directory())
            key_path = directory / "key"
            _write_private(key_path, identity.libp2p_bytes())
            starting = child(
                *arguments(config, port, directory),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={"GOLOG_LOG_LEVEL": "error", "GOMEMLIMIT": str(config.memory_bytes)},
                limit=_LINE_BYTES,
                start_new_session=True,  # Ctrl-C in the terminal is ours: p2pd carries our farewell
            )
            process = await stack.enter_async_context(starting)
        except OSError as error:  # a full disk, say
            raise P2pdError(f"p2pd does not start: {error}") from error
        p2pd = P2pd(process, directory)
        try:
            _limit(process.pid, config)
            await p2pd._started(config.start_timeout_s)
            key_path.unlink()
            yield p2pd
        finally:
            await p2pd._stop()


def binary() -> Path:
    """Where hivemind keeps p2pd. Does not import hivemind. Raises ConfigError if it is missing."""
    spec = importlib.util.find_spec("hivemind")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "hivemind_cli" / "p2pd"
        if path.is_file():
            return path
    raise ConfigError("p2pd is missing: install hivemind from a wheel (Linux or macOS, x86-64 or ARM)")


def arguments(config: NetworkConfig, port: int, directory: Path) -> list[str]:
    """The command line. Each switch that reaches out to the network is set on purpose."""
    listen = [f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}" for host in config.listen]
    flags: dict[str, object] = {
        "listen": f"/unix{directory / 'control.sock'}",
        "id": directory / "key",
        "hostAddrs": ",".join(listen),
        "dhtServer": 1,  # libp2p's own table, by which p2pd finds the addresses of a PeerID
        "b": 0,  # we connect to bootstrap peers ourselves, again and again
        "tls": 1,
        "noise": 1,
        "relay": int(config.relay),
        "relayService": 0,  # its circuits end after 128 KiB; relays are programs of their own
        "relayDiscovery": 0,
        "autoRelay": 0,  # `reserving` asks for reservations; why is in `hop`
        "autonat": int(config.relay),  # with it goes hole punching, which begins when the node is private
        "forceReachabilityPrivate": int(config.relay),  # so it is ready at once; what is true, peers tell us
        "natPortMap": int(config.nat_port_map),
        "connManager": 1,
        "connLo": config.connections_low,
        "connHi": config.connections_high,
        "connGrace": f"{limits.CONNECTION_GRACE_S:.0f}s",
        "idleTimeout": f"{config.start_timeout_s:.0f}s",  # when we die before we attach
        "persistentConnMaxMsgSize": 4 * 2**20,
    }
    if config.announce:
        flags["announceAddrs"] = ",".join(config.announce)
    return [str(binary()), *(f"-{name}={value}" for name, value in flags.items())]


def _limit(pid: int, config: NetworkConfig) -> None:
    """Bound what p2pd may take from the machine; after the start, because preexec_fn is unsafe here."""
    if not hasattr(resource, "prlimit"):
        return  # Linux only
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    bound = config.max_files if hard == resource.RLIM_INFINITY else min(config.max_files, hard)
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (bound, bound))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


@contextlib.contextmanager
def _private_directory() -> Iterator[Path]:
    """A directory for sockets that only we can enter; those that killed processes left are removed."""
    _remove_stale()
    prefix = f"{_DIRECTORY_PREFIX}{os.getpid()}-"
    with (
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name,
        (Path(name) / "lock").open("wb") as lock,  # held while we live
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def _remove_stale() -> None:
    for directory in Path(tempfile.gettempdir()).glob(_DIRECTORY_PREFIX + "*"):
        # Suppressed: another user's, in use, or just removed.
        with contextlib.suppress(OSError), _unlocked(directory):
            if _owner_is_gone(directory.name) or _age_s(directory) > _YOUNG_S:
                shutil.rmtree(directory)


@contextlib.contextmanager
def _unlocked(directory: Path) -> Iterator[None]:
    """Holds the directory's lock, if its owner lived to make one. Raises OSError when somebody has it, or
    when the directory is not ours to look into."""
    if directory.lstat().st_uid != os.getuid():
        raise PermissionError(directory)
    try:
        lock = (directory / "lock").open("rb")
    except FileNotFoundError:
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _owner_is_gone(name: str) -> bool:
    """Whether no process has the id that the directory's name tells. One that has it may be another."""
    pid = name.removeprefix(_DIRECTORY_PREFIX).partition("-")[0]
    if not re.fullmatch("[1-9][0-9]{0,8}", pid):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _age_s(directory: Path) -> float:
    """Since the directory was made or last written to: a young one may not be locked yet."""
    return time.time() - directory.stat().st_mtime


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
