"""One generation of the outer state: two mapped files of flat little-endian fp32.

Files are allocated in full before they are mapped: a write into a mapping on a full disk is a SIGBUS.
"""

import mmap
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

THETA = "theta.f32"
MOMENTUM = "momentum.f32"
FILES = (THETA, MOMENTUM)

_REWRITE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """The mapped files; the tensors share memory with them and stay valid as long as anybody holds them."""

    path: Path
    theta: torch.Tensor
    """Parameters, numel fp32."""
    momentum: torch.Tensor
    """Outer momentum, numel fp32."""
    maps: tuple[mmap.mmap, mmap.mmap]

    @classmethod
    def map(cls, path: Path, numel: int) -> Self:
        """Map the files in `path`, creating them where they are missing or have another size.

        Raises OSError, with ENOSPC when the disk cannot hold them.
        """
        if sys.byteorder != "little":
            raise OSError("the outer state is mapped as little-endian fp32; this machine is big-endian")
        path.mkdir(exist_ok=True, mode=0o700)
        theta, momentum = (_map_file(path / name, 4 * numel) for name in FILES)
        return cls(
            path=path,
            theta=torch.frombuffer(theta, dtype=torch.float32),
            momentum=torch.frombuffer(momentum, dtype=torch.float32),
            maps=(theta, momentum),
        )

    @property
    def theta_path(self) -> Path:
        """The file under `theta`, for the trainer."""
        return self.path / THETA

    @property
    def momentum_path(self) -> Path:
        """The file under `momentum`."""
        return self.path / MOMENTUM

    def allocate(self) -> None:
        """Make sure that the disk holds every byte of both files. Raises OSError."""
        for name, mapped in zip(FILES, self.maps, strict=True):
            with (self.path / name).open("r+b") as file:
                _allocate(file.fileno(), len(mapped))

    def sync(self, hook: Callable[[str], None]) -> None:
        """Make both vectors durable. Raises OSError."""
        for name, mapped in zip(FILES, self.maps, strict=True):
            hook(f"{name} dirty")
            mapped.flush()
            with (self.path / name).open("r+b") as file:
                os.fsync(file.fileno())
        hook("vectors durable")

    def rewrite(self) -> None:
        """Write every byte again, so that the next `sync` has all of it to do. Raises OSError."""
        for name, mapped in zip(FILES, self.maps, strict=True):
            with (self.path / name).open("r+b") as file:
                for start in range(0, len(mapped), _REWRITE_BYTES):
                    file.write(mapped[start : start + _REWRITE_BYTES])

    def release(self) -> None:
        """Give resident pages back to the system; files and tensors keep their content."""
        for mapped in self.maps:
            mapped.madvise(mmap.MADV_DONTNEED)


def map_file(path: Path, numel: int) -> torch.Tensor:
    """A flat fp32 vector that shares memory with a file; created, with zeros, where it is missing.

    Raises OSError, with ENOSPC when the disk cannot hold it.
    """
    return torch.frombuffer(_map_file(path, 4 * numel), dtype=torch.float32)


def _map_file(path: Path, num_bytes: int) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(descriptor).st_size > num_bytes:
            os.ftruncate(descriptor, num_bytes)
        _allocate(descriptor, num_bytes)
        os.fsync(descriptor)
        return mmap.mmap(descriptor, num_bytes)
    finally:
        os.close(descriptor)


def _allocate(descriptor: int, num_bytes: int) -> None:
    """Give every byte of the file a place on the disk; what is written stays. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
        return
    end = os.fstat(descriptor).st_size
    while end < num_bytes:
        end += os.pwrite(descriptor, bytes(min(1 << 20, num_bytes - end)), end)
