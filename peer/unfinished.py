"""A note on disk about a download that is under way, so that the next process goes on with it.

It says which state the staged generation is being filled with. It is a hint, never believed: what is there is
hashed and compared before it counts.
"""

from contextlib import suppress
from pathlib import Path

from talkoot.peer.files import atomic_write

NAME = "DOWNLOAD"

_DIGEST_BYTES = 32


def begun(store: Path) -> tuple[bytes, str] | None:
    """Digest of the state, and name of the generation; None if no download was cut off."""
    try:
        with (store / NAME).open("rb") as file:
            data = file.read(_DIGEST_BYTES + 64)
    except OSError:
        return None
    generation = data[_DIGEST_BYTES:].decode("ascii", "replace")
    return (data[:_DIGEST_BYTES], generation) if generation else None


def begin(store: Path, digest: bytes, generation: str) -> None:
    """Note that a download begins, or goes on. A disk that refuses costs no more than the note."""
    with suppress(OSError):
        if begun(store) != (digest, generation):
            atomic_write(store / NAME, digest + generation.encode("ascii"))


def end(store: Path) -> None:
    """It is through."""
    with suppress(OSError):
        (store / NAME).unlink(missing_ok=True)
