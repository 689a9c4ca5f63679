"""The outer state on disk: two generations of mapped files, and a HEAD that names the committed one.

`stage` hands out the generation that HEAD does not name; `commit` makes it durable, then replaces HEAD. A
process killed at any instant therefore finds one whole committed generation.
Calls block on the disk; the daemon makes them in worker threads, one at a time.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

import msgspec
import torch

from talkoot.averaging.digest import state_tree
from talkoot.peer.files import fsync_directory, ignore_step
from talkoot.peer.generation import FILES, Generation
from talkoot.peer.head import HEAD, Head, StoreCorruptError, StoreMissingError, read_head, write_head

BYTES_PER_ELEMENT = 4
GENERATIONS = ("a", "b")


class OuterStore:
    """The outer state of one peer. One instance and one writer at a time for a directory."""

    def __init__(self, path: Path, numel: int, *, hook: Callable[[str], None] = ignore_step) -> None:
        """Map both generations, creating and allocating their files where needed.

        Use `create`, `prepare` or `open`. Raises OSError, with ENOSPC when the disk cannot hold them.
        """
        if numel < 1:
            raise ValueError("numel must be at least 1")
        self.path = path
        self.numel = numel
        self._hook = hook
        self._head: Head | None = None
        self._head_on_disk_is_certain = True
        self._generations = {name: Generation.map(path / name, numel) for name in GENERATIONS}
        fsync_directory(path)

    @staticmethod
    def needed_bytes(numel: int) -> int:
        """Disk that a store takes, sidecars apart."""
        return len(GENERATIONS) * 2 * numel * BYTES_PER_ELEMENT

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether anything was ever committed there."""
        return (path / HEAD).exists()

    @classmethod
    def prepare(cls, path: Path, numel: int, *, hook: Callable[[str], None] = ignore_step) -> Self:
        """A store in which nothing is committed yet, to be filled through `stage` and `commit`.

        Content staged by an earlier process is still there. Raises OSError; FileExistsError if something
        was committed.
        """
        if cls.exists(path):
            raise FileExistsError(f"{path} holds an outer state already")
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(path, numel, hook=hook)

    @classmethod
    def create(
        cls,
        path: Path,
        numel: int,
        theta: torch.Tensor | Iterable[torch.Tensor],
        *,
        ledger: bytes,
        certificate: bytes,
        round: int = 0,  # noqa: A002 - the design's word
        hook: Callable[[str], None] = ignore_step,
    ) -> Self:
        """A new store with `theta` (or its consecutive slices) and zero momentum as its first commit.

        The digest is computed. Raises OSError, and ValueError if `theta` has not `numel` elements.
        """
        store = cls.prepare(path, numel, hook=hook)
        staged = store.stage()
        _fill(staged.theta, [theta] if isinstance(theta, torch.Tensor) else theta)
        staged.momentum.zero_()
        digest = state_tree(staged.theta, staged.momentum, ledger).digest
        store.commit(staged, round=round, digest=digest, ledger=ledger, certificate=certificate)
        return store

    @classmethod
    def open(
        cls, path: Path, numel: int, *, verify: bool = False, hook: Callable[[str], None] = ignore_step
    ) -> Self:
        """The store as it was last committed; `verify` recomputes the digest of everything.

        Raises StoreMissingError if nothing was committed, StoreCorruptError if what was does not fit its
        checksums, `numel` or (with `verify`) its digest, OSError.
        """
        head = read_head(path)
        if head is None:
            raise StoreMissingError(f"no outer state in {path}")
        _check_sizes(path / head.generation, numel)
        store = cls(path, numel, hook=hook)
        store._head = head
        if verify and store.compute_digest() != head.digest:
            raise StoreCorruptError(f"the outer state in {path} does not have its digest")
        return store

    @property
    def empty(self) -> bool:
        """True until the first commit."""
        return self._head is None

    @property
    def head(self) -> Head:
        """What was committed last. Only where the store is not `empty`."""
        assert self._head is not None, "nothing was committed yet"
        return self._head

    @property
    def current(self) -> Generation:
        """The committed generation: read only. It keeps its content until the second `stage` from now."""
        return self._generations[self.head.generation]

    @property
    def theta(self) -> torch.Tensor:
        """Committed parameters, numel fp32; read only."""
        return self.current.theta

    @property
    def momentum(self) -> torch.Tensor:
        """Committed outer momentum, numel fp32; read only."""
        return self.current.momentum

    def compute_digest(self) -> bytes:
        """Digest of the committed bytes, read again."""
        return state_tree(self.theta, self.momentum, self.head.ledger).digest

    def stage(self) -> Generation:
        """The other generation, to be overwritten in full; its content is whatever was there.

        Whoever still read the generation before the head must have finished. Raises OSError if a failed
        commit left HEAD in doubt and it cannot be written now, or if the disk cannot hold the files.
        """
        if not self._head_on_disk_is_certain:
            self._restore_head()
        staged = self._generations[self._other()]
        staged.allocate()
        return staged

    def commit(
        self,
        staged: Generation,
        *,
        round: int,  # noqa: A002 - the design's word
        digest: bytes,
        ledger: bytes,
        certificate: bytes,
    ) -> None:
        """Make the staged generation the head.

        `digest` must be that of the staged vectors and `ledger`; it is not recomputed. Raises OSError, and
        the head is the old one: commit the same content again, or call `stage` before writing other content.
        """
        name = staged.path.name
        if staged is not self._generations[self._other()]:
            raise ValueError("only the generation that stage() gave can be committed")
        staged.sync(self._hook)
        head = Head(generation=name, round=round, digest=digest, ledger=ledger, certificate=certificate)
        self._write_head(head)
        self._head = head
        for generation in self._generations.values():
            generation.release()

    def recertify(self, certificate: bytes) -> None:
        """Replace the certificate of the head, as when a weak one becomes final. Raises OSError."""
        head = msgspec.structs.replace(self.head, certificate=certificate)
        self._write_head(head)
        self._head = head

    def _write_head(self, head: Head) -> None:
        self._head_on_disk_is_certain = False
        write_head(self.path, head, hook=self._hook)
        self._head_on_disk_is_certain = True

    def _restore_head(self) -> None:
        """After a failed write: HEAD may name the generation that is about to be overwritten."""
        if self._head is None:
            (self.path / HEAD).unlink(missing_ok=True)
            fsync_directory(self.path)
        elif read_head(self.path) != self._head:
            write_head(self.path, self._head, hook=self._hook)
        self._head_on_disk_is_certain = True

    def _other(self) -> str:
        if self._head is None:
            return GENERATIONS[0]
        return GENERATIONS[1 - GENERATIONS.index(self._head.generation)]


def _check_sizes(path: Path, numel: int) -> None:
    for name in FILES:
        try:
            size = (path / name).stat().st_size
        except FileNotFoundError as error:
            raise StoreCorruptError(f"{path / name} is missing") from error
        if size != numel * BYTES_PER_ELEMENT:
            raise StoreCorruptError(f"{path / name} has {size} bytes instead of {numel * BYTES_PER_ELEMENT}")


def _fill(vector: torch.Tensor, slices: Iterable[torch.Tensor]) -> None:
    """Copy consecutive slices into `vector`. Raises ValueError unless they fill it exactly."""
    start = 0
    for piece in slices:
        end = start + piece.numel()
        if end > vector.numel():
            raise ValueError(f"theta has more than {vector.numel()} elements")
        vector[start:end].copy_(piece.reshape(-1))
        start = end
    if start != vector.numel():
        raise ValueError(f"theta has {start} elements instead of {vector.numel()}")
