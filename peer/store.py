"""The outer state on disk: generations of mapped files, and a HEAD that names the committed one.

`stage` hands out a generation that HEAD does not name; `commit` makes it durable, then replaces HEAD. A
process killed at any instant therefore finds one whole committed generation.
`pin` keeps the head as the *snapshot*: SNAPSHOT names it, too, and its generation is not handed out until
another one is pinned, so that others can download it while rounds go on.
Calls block on the disk; the daemon makes them in worker threads, one at a time.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec
import torch

from talkoot.peer.disk import DiskLost
from talkoot.peer.files import fsync_directory, ignore_step
from talkoot.peer.generation import FILES, Generation
from talkoot.peer.hashing import hash_state
from talkoot.peer.head import (
    HEAD,
    SNAPSHOT,
    Head,
    StoreCorruptError,
    StoreMissingError,
    read_head,
    write_head,
)

log = logging.getLogger("talkoot.state")

BYTES_PER_ELEMENT = 4
GENERATIONS = ("a", "b", "c")
"""The third is made when a snapshot is kept beside the head and the next state."""


class OuterStore:
    """The outer state of one peer. One instance and one writer at a time for a directory."""

    def __init__(self, path: Path, numel: int, *, hook: Callable[[str], None] = ignore_step) -> None:
        """Map the generations that are there, and two at least, allocating their files where needed.

        Use `create`, `prepare`, `salvage` or `open`. Raises OSError, with ENOSPC for too small a disk.
        """
        if numel < 1:
            raise ValueError("numel must be at least 1")
        self.path = path
        self.numel = numel
        self._hook = hook
        self._head: Head | None = None
        self._snapshot: Head | None = None
        self._on_disk_is_certain = {HEAD: True, SNAPSHOT: True}
        self._staged = ""
        self._sync_failed = False
        self._generations = {
            name: Generation.map(path / name, numel)
            for name in GENERATIONS
            if name in GENERATIONS[:2] or (path / name).exists()
        }
        fsync_directory(path)

    @staticmethod
    def needed_bytes(numel: int) -> int:
        """Disk that a store takes with its snapshot, sidecars apart."""
        return len(GENERATIONS) * 2 * numel * BYTES_PER_ELEMENT

    @staticmethod
    def unallocated_bytes(path: Path, numel: int) -> int:
        """Of them, those for which a cut off download did not take the place yet. Raises OSError."""
        taken = 0
        for name in GENERATIONS:
            for file in FILES:
                with suppress(FileNotFoundError):
                    taken += 512 * (path / name / file).stat().st_blocks
        return max(0, OuterStore.needed_bytes(numel) - taken)

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
        (path / SNAPSHOT).unlink(missing_ok=True)
        return cls(path, numel, hook=hook)

    @classmethod
    def salvage(cls, path: Path, numel: int, *, hook: Callable[[str], None] = ignore_step) -> Self:
        """A store whose committed state cannot be used: empty until `commit`, with the files as they are.

        The HEAD on disk stays until then; a SNAPSHOT is forgotten. Raises OSError.
        """
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        (path / SNAPSHOT).unlink(missing_ok=True)
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
        digest = hash_state(staged.theta, staged.momentum, ledger).digest
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
        store._snapshot = _read_snapshot(path, numel)
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

    @property
    def snapshot(self) -> Head | None:
        """What was pinned last. After `open` only its file was checked: compare its digest before use."""
        return self._snapshot

    @property
    def snapshot_generation(self) -> Generation:
        """The vectors of `snapshot`, which must not be None; read only, whole until `pin` or `unpin`."""
        assert self._snapshot is not None
        return self._generations[self._snapshot.generation]

    @property
    def generations(self) -> tuple[Generation, ...]:
        """All that are mapped, whatever they hold."""
        return tuple(self._generations.values())

    def compute_digest(self) -> bytes:
        """Digest of the committed bytes, read again."""
        return hash_state(self.theta, self.momentum, self.head.ledger).digest

    def stage(self) -> Generation:
        """Another generation, to be overwritten in full; its content is whatever was there.

        Whoever still read the generation before the head must have finished. A snapshot for which the disk
        has no room any more is given up. Raises OSError if a failed commit left HEAD in doubt and it cannot
        be written now, or if the disk cannot hold the files.
        """
        self._settle()
        staged = self._free()
        staged.allocate()
        self._staged = staged.path.name
        self._sync_failed = False
        return staged

    def stage_generation(self, name: str) -> Generation:
        """As `stage`, a certain one, in a store that is `empty`: to repair what a HEAD on disk names.

        What is none of our names gives the first one.
        """
        assert self.empty
        name = name if name in GENERATIONS else GENERATIONS[0]
        if name not in self._generations:
            self._generations[name] = Generation.map(self.path / name, self.numel)
        staged = self._generations[name]
        staged.allocate()
        self._staged = name
        return staged

    def _free(self) -> Generation:
        """One that neither HEAD nor SNAPSHOT names."""
        named = {head.generation for head in (self._head, self._snapshot) if head is not None}
        order: tuple[str, ...] = GENERATIONS
        if self._head is not None:  # the one before the head stays longest: others may be fetching it
            at = GENERATIONS.index(self._head.generation)
            order = GENERATIONS[at + 1 :] + GENERATIONS[:at]
        free = [name for name in order if name not in named]
        there = [name for name in free if name in self._generations]
        if there:
            return self._generations[there[0]]
        try:
            self._generations[free[0]] = Generation.map(self.path / free[0], self.numel)
            fsync_directory(self.path)
        except OSError as error:
            log.warning("no room for another generation (%s): the snapshot is given up", error.strerror)
            self.unpin()
            return self._free()
        return self._generations[free[0]]

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

        `digest` must be that of the staged vectors and `ledger`; it is recomputed only where a try before
        failed. Raises OSError, and the head is the old one: commit the same content again, or call `stage`
        before writing other content. Raises DiskLost where the disk has lost what was staged.
        """
        name = staged.path.name
        head = Head(generation=name, round=round, digest=digest, ledger=ledger, certificate=certificate)
        if head == self._head and self._on_disk_is_certain[HEAD]:
            return  # what failed came after this
        if name != self._staged or staged is not self._generations[name]:
            raise ValueError("only the generation that stage() gave can be committed")
        self._make_durable(staged, digest, ledger)
        self._write(HEAD, head)
        self._head = head
        self._staged = ""
        for generation in self._generations.values():
            generation.release()

    def _make_durable(self, staged: Generation, digest: bytes, ledger: bytes) -> None:
        """A sync that failed may have dropped what it could not write, and the next one would not notice:
        then all of it is written and looked at again."""
        again, self._sync_failed = self._sync_failed, True
        if again:
            staged.rewrite()
        staged.sync(self._hook)
        if again:
            staged.release()
            if hash_state(staged.theta, staged.momentum, ledger).digest != digest:
                raise DiskLost(f"{staged.path} has lost what was written to it")
        self._sync_failed = False

    def recertify(self, certificate: bytes) -> None:
        """Replace the certificate of the head, as when a weak one becomes final. Raises OSError."""
        head = msgspec.structs.replace(self.head, certificate=certificate)
        self._write(HEAD, head)
        self._head = head

    def pin(self) -> None:
        """Keep the head as the snapshot, in place of the one before. Raises OSError; then that one stays."""
        self._write(SNAPSHOT, self.head)
        self._snapshot = self._head

    def unpin(self) -> None:
        """Keep no snapshot. On a disk that refuses, SNAPSHOT is removed later."""
        self._snapshot = None
        self._on_disk_is_certain[SNAPSHOT] = False
        self._settle()

    def _write(self, name: str, head: Head) -> None:
        self._on_disk_is_certain[name] = False
        write_head(self.path, head, name=name, hook=self._hook)
        self._on_disk_is_certain[name] = True

    def _settle(self) -> None:
        """After a failed write: HEAD or SNAPSHOT may name a generation that is about to be overwritten."""
        self._settle_one(HEAD, self._head)
        with suppress(OSError):  # what is not its content any more is noticed before it is used
            self._settle_one(SNAPSHOT, self._snapshot)

    def _settle_one(self, name: str, head: Head | None) -> None:
        if self._on_disk_is_certain[name]:
            return
        if head is None:
            (self.path / name).unlink(missing_ok=True)
            fsync_directory(self.path)
        elif read_head(self.path, name) != head:
            write_head(self.path, head, name=name, hook=self._hook)
        self._on_disk_is_certain[name] = True


def _read_snapshot(path: Path, numel: int) -> Head | None:
    """What SNAPSHOT names, if that is there."""
    try:
        head = read_head(path, SNAPSHOT)
        if head is not None:
            _check_sizes(path / head.generation, numel)
    except StoreCorruptError as error:
        log.warning("the snapshot is not used: %s", error)
        return None
    return head


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
