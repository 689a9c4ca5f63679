"""Checkpoints of small swarms, without a node."""

from pathlib import Path

from state_rig import MANIFEST

from talkoot.peer.checkpoint_write import Source, write_checkpoint
from talkoot.peer.checkpoints import checkpoint_path, source_of
from talkoot.peer.holdings import Holdings
from talkoot.peer.manifest import Manifest


def write(holdings: Holdings, folder: Path, manifest: Manifest = MANIFEST) -> Path:
    """A checkpoint of what is held."""
    folder.mkdir(exist_ok=True, parents=True)
    source: Source = source_of(holdings, manifest)
    path = checkpoint_path(folder, source.contents.ledger.round)
    write_checkpoint(source, path)
    return path
