"""One node a GPU: a lock for each, which dies with the process that holds it.

Nodes of one user see each other's; the files lie where the user's session keeps such things.
"""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from talkoot.dht.errors import ConfigError

MAX_HOLDER_BYTES = 4096


def uuid_of(kind: str, device: str) -> str | None:
    """What tells the GPU that a model of this kind is trained on from others; None where it is no GPU.

    Raises ConfigError where the device is not there.
    """
    if kind == "numpy":
        return None
    import torch  # slow

    from talkoot.peer.trainer.torch_engine import choose_device

    chosen = choose_device(device)
    if chosen.type != "cuda":
        return None
    index = chosen.index or 0
    return f"gpu-{getattr(torch.cuda.get_device_properties(index), 'uuid', index)}"


@contextmanager
def claimed(uuid: str | None, owner: Path, *, folder: Path | None = None) -> Iterator[None]:
    """Hold the GPU in this scope; None: there is none. `owner` is the folder that others are told of.

    Raises ConfigError, with EBUSY as its cause's number where another node holds it.
    """
    if uuid is None:
        yield
        return
    descriptor = _open((folder or runtime_folder()) / f"{uuid}.lock")
    try:
        _lock(descriptor, uuid)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {owner}".encode(errors="replace"), 0)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot open {path}: {error.strerror}") from error


def _lock(descriptor: int, uuid: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, MAX_HOLDER_BYTES, 0).decode(errors="replace").split(" ", 1)
        who = f"the trainer in {holder[1]} (process {holder[0]})" if len(holder) == 2 else "another trainer"
        raise ConfigError(
            f"{uuid} is in use by {who}: choose another --device, stop that node, or let them share it "
            "(node.share_gpu)"
        ) from OSError(errno.EBUSY, error.strerror)


def runtime_folder() -> Path:
    """Made if it is not there, for this user only. Raises ConfigError."""
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    parent = Path(session) if session and os.access(session, os.W_OK) else Path(tempfile.gettempdir())
    folder = parent / ("talkoot" if parent == Path(session) else f"talkoot-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        stat = folder.lstat()
    except OSError as error:
        raise ConfigError(f"cannot make {folder}: {error.strerror}") from error
    if stat.st_uid != os.getuid() or folder.is_symlink() or not folder.is_dir():
        raise ConfigError(f"{folder} is not yours: remove it, or set XDG_RUNTIME_DIR to a folder of your own")
    return folder
