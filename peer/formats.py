"""Which versions of the state directory's files this talkoot reads.

Each of them begins with its name and a number. What another version wrote is for that version to read: it is
refused before anything is touched, and never taken for damage that a download would put right.
"""

import re

from talkoot.dht.errors import ConfigError
from talkoot.peer import certlog, head, journal, residual_note
from talkoot.peer.statedir import StateDir

_BEGINNING = re.compile(rb"(talkoot [a-z]+) (\d{1,8})[\n\0]")


def require_formats(paths: StateDir) -> None:
    """Raise ConfigError where a file is of another version. What is damaged is found by its readers."""
    files = {
        paths.outer / head.HEAD: head.MAGIC,
        paths.round_log: certlog.MAGIC,
        paths.journal: journal.MAGIC,
        paths.path / residual_note.NAME: residual_note.MAGIC,
        paths.path / residual_note.OLD_NAME: residual_note.OLD_MAGIC,
    }
    for path, magic in files.items():
        try:
            with path.open("rb") as file:
                found = _BEGINNING.match(file.read(64))
        except OSError:
            continue
        ours = _BEGINNING.match(magic)
        assert ours is not None
        if found is not None and found[1] == ours[1] and found[2] != ours[2]:
            raise ConfigError(
                f"{path} was written by another version of talkoot (format {found[2].decode()}, this one "
                f"reads {ours[2].decode()}): use that version, or one that reads both; nothing was changed"
            )
