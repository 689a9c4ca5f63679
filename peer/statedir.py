"""The state directory of one peer: where everything lives, and whose it is.

One daemon at a time holds it (an flock, which dies with its process), and it belongs to one swarm.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import platformdirs

from talkoot.dht.errors import ConfigError
from talkoot.peer.small_files import read_small, write_small

_FOREIGN_FILES_THAT_DO_NOT_COUNT = frozenset({"lost+found", ".DS_Store"})


class ApiAddress(msgspec.Struct, frozen=True):
    """Content of `api.json`: where the running daemon's local API listens."""

    port: int
    pid: int


def default_path(name: str = "default") -> Path:
    """Where the state of the peer called `name` lives unless --state-dir says otherwise."""
    return Path(platformdirs.user_state_dir("talkoot", appauthor=False)) / name


class StateDir:
    """Paths in a state directory, and the few small files that this module owns.

    Constructing it touches nothing. A daemon calls `prepare`, enters `lock`, then `claim`; a command that
    only reads uses the paths.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.lock_file = self.path / "lock"
        self.swarm_file = self.path / "swarm"
        self.key_file = self.path / "identity.key"
        self.manifest_file = self.path / "manifest.bin"
        self.api_file = self.path / "api.json"
        self.token_file = self.path / "api.token"
        self.outer = self.path / "outer"
        self.trainer = self.path / "trainer"
        self.round_log = self.path / "rounds.log"
        self.records = self.path / "records"
        """Encoded aggregates of the last rounds."""
        self.journal = self.path / "journal"
        self.peers_file = self.path / "peers.json"
        self.logs = self.path / "logs"
        """The last log lines (`talkoot.peer.kept_log`)."""
        self.names = self.path / "names.json"
        """Public names that other peers gave."""
        self.bans = self.path / "bans.json"
        """Peers that are banned, why and until when."""
        self.issued = self.path / "issued"
        """Invite keys that we made as a founder, and which we take back."""
        self.proofs = self.path / "proofs"
        """Proofs against reducers (`talkoot.peer.audits`)."""
        self.convictions = self.path / "convictions.json"
        """Whom proofs convicted, kept or not."""
        self.watch = self.path / "watch"
        """What was seen of the other peers' contributions."""
        self.deeds = self.path / "me.json"
        """What this node did so far (`talkoot.peer.guest.deeds`)."""
        self.uplink = self.path / "uplink"
        """Bytes/s that were measured when bulk was sent."""
        self.orders = self.path / "orders.json"
        """What the user asked of a running node that holds after a restart: a pause."""
        self.quota = self.path / "quota.json"
        """Bytes of this month (`talkoot.peer.guest.quota`)."""
        self.base_file = self.path / "data_base"
        """Remembers the folder of the manifest that this user founded or joined with."""
        self.admission_file = self.path / "admission"
        """Our proof of invitation."""
        self.checkpoints = self.path / "checkpoints"
        """Files of whole states, for people (`talkoot.peer.checkpoints`)."""
        self.invite_file = self.path / "invite"
        """The invite that we joined with: its anchor and addresses serve again after a restart."""

    def prepare(self) -> None:
        """Create the directory, readable by this user only.

        Raises ConfigError where that is impossible, or where a directory with other files in it would
        have its mode changed.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._refuse_foreign()
            self.path.chmod(0o700)
            self.lock_file.touch(mode=0o600)
        except OSError as error:
            raise ConfigError(f"cannot use the state directory {self.path}: {error.strerror}") from error

    def _refuse_foreign(self) -> None:
        names = {entry.name for entry in self.path.iterdir()} - _FOREIGN_FILES_THAT_DO_NOT_COUNT
        if names and not names & {self.lock_file.name, self.key_file.name, self.swarm_file.name}:
            raise ConfigError(
                f"{self.path} has other files in it and is no state directory: choose another --state-dir"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory. Raises ConfigError naming the process that holds it already."""
        descriptor = self._take_lock()
        try:
            self.withdraw_api()  # what a killed daemon left
            yield
        finally:
            self.withdraw_api()
            os.close(descriptor)

    def _take_lock(self) -> int:
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot lock {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 20, 0)
            os.close(descriptor)
            raise ConfigError(self._cannot_lock(error, holder)) from error
        with suppress(OSError):  # a full disk: the lock holds all the same, and is nobody's by name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return descriptor

    def _cannot_lock(self, error: OSError, holder: bytes) -> str:
        if not isinstance(error, BlockingIOError):
            return f"cannot lock {self.path}: {error.strerror}"
        pid = holder.decode("ascii", "replace").strip()
        who = f"process {pid}" if pid.isdecimal() else "another process"
        return f"{self.path} is in use by {who}: stop it or choose another --state-dir"

    @property
    def swarm_id(self) -> bytes | None:
        """The swarm that this directory belongs to; None before `claim`.

        Raises ConfigError if the marker cannot be read or is damaged.
        """
        text = read_small(self.swarm_file)
        if text is None:
            return None
        try:
            swarm_id = bytes.fromhex(text.decode("ascii"))
        except ValueError:
            swarm_id = b""
        if len(swarm_id) != 32:
            raise ConfigError(f"{self.swarm_file} is damaged: it should hold one swarm id")
        return swarm_id

    def claim(self, swarm_id: bytes) -> None:
        """Mark the directory as `swarm_id`'s; it stays so. Call it under `lock`.

        Raises ConfigError if it belongs to another swarm or cannot be written.
        """
        owner = self.swarm_id
        if owner is None:
            write_small(self.swarm_file, swarm_id.hex().encode() + b"\n")
        elif owner != swarm_id:
            raise ConfigError(
                f"{self.path} belongs to swarm {owner.hex()[:12]}, not to {swarm_id.hex()[:12]}: "
                "choose another --state-dir"
            )

    def save_manifest(self, canonical: bytes) -> None:
        """Keep the sealed manifest. Raises ConfigError if it cannot be written."""
        write_small(self.manifest_file, canonical)

    def load_manifest(self) -> bytes | None:
        """The canonical manifest that was saved, if any. Raises ConfigError if it cannot be read."""
        return read_small(self.manifest_file)

    def announce_api(self, port: int) -> str:
        """Write `api.json` and a new `api.token`; returns the token. Raises ConfigError."""
        token = secrets.token_urlsafe(32)
        write_small(self.token_file, token.encode())
        write_small(self.api_file, msgspec.json.encode(ApiAddress(port=port, pid=os.getpid())))
        return token

    def withdraw_api(self) -> None:
        """Remove both files again; `lock` does it at its end."""
        with suppress(OSError):
            self.api_file.unlink(missing_ok=True)
            self.token_file.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Bytes that this user may still write on the file system of the directory. Raises OSError."""
        return shutil.disk_usage(self.path).free

    def require_free(self, num_bytes: int) -> None:
        """Raises ConfigError with both figures if fewer than `num_bytes` are free."""
        free = self.free_bytes()
        if free < num_bytes:
            raise ConfigError(
                f"{self.path} needs {_megabytes(num_bytes)} of disk, {_megabytes(free)} are free: "
                "make room or choose another --state-dir"
            )


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"
