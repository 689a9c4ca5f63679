"""What the members of a sparse exchange said they hold."""

from collections.abc import Iterable, Sequence

from talkoot.averaging.blobs import Blob, Layout
from talkoot.averaging.digest import content_hash
from talkoot.averaging.messages import Have, Join, MessageError, Run


class Known:
    """The blobs of one roster, and for each other member that is there the pieces that it named."""

    def __init__(self, key: bytes, members: Sequence[Join], blobs: Sequence[Blob], layout: Layout) -> None:
        self.key = key
        self.blobs = blobs
        self.layout = layout
        self.owners = [blob.header.key for blob in blobs]
        self.clients = {join.key for join in members if join.role == "client"}
        self.others = tuple(join.key for join in members if join.key != key)
        self.eager = layout.blob_bytes * len(self.others) <= layout.eager_bytes
        """Whether every peer hands its blob to all the others itself."""
        self.has: dict[bytes, list[int]] = {}
        """By member that is in the attempt and not lost: a mask of pieces for each blob."""

    def heard(self, sender: bytes, message: Have) -> list[int]:
        """Take a member's announcement; returns what is new in it. Raises MessageError."""
        if sender not in self.others:
            raise MessageError("unasked", "an announcement of a peer outside the roster")
        if not all(self._is_run(run) for run in message.runs):
            raise MessageError("malformed", "pieces that there are not")
        said = [0] * len(self.blobs)
        for run in message.runs:
            said[run.blob] |= ((1 << run.count) - 1) << run.first
        before = self.has.get(sender, [0] * len(self.blobs))
        self.has[sender] = [old | new for old, new in zip(before, said, strict=True)]
        return [new & ~old for old, new in zip(before, said, strict=True)]

    def _is_run(self, run: Run) -> bool:
        return run.blob < len(self.blobs) and run.first + run.count <= self.layout.num_pieces

    def is_piece(self, blob: int, piece: int) -> bool:
        """Whether there is such a piece."""
        return blob < len(self.blobs) and piece < self.layout.num_pieces

    def lost(self, peer: bytes) -> None:
        """A member is gone."""
        self.has.pop(peer, None)

    def union(self, blob: int, holders: Iterable[bytes]) -> int:
        """Pieces of a blob that at least one of these holds."""
        mask = 0
        for holder in holders:
            mask |= self.has[holder][blob]
        return mask


def turn_of(root: bytes, key: bytes) -> bytes:
    """Orders peers, or a peer's choices, differently for each blob: nobody chooses it alone."""
    return content_hash(root + key)
