"""A swarm of one founder with checkpoints of it, in files, for starts that are to begin with one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bad_input_rig import found_in, sealed_of
from checkpoint_rig import write
from state_rig import advance

from talkoot.dht.identity import Identity
from talkoot.peer.holdings import open_holdings
from talkoot.peer.manifest import Manifest
from talkoot.peer.rules_of import rules_of
from talkoot.peer.statedir import StateDir


@dataclass(frozen=True)
class Made:
    """Tests leave all of it as it was."""

    folder: Path
    """`state` is the founder's directory, `swarm.toml` the sealed manifest."""
    manifest: Manifest
    founder: Identity
    checkpoint: Path
    """After three final rounds."""
    first: Path
    """Of the first state."""
    weak: Path
    """After four, the last of them weak."""

    @property
    def state(self) -> Path:
        return self.folder / "state"


def make(folder: Path) -> Made:
    """Found a swarm, let it make rounds, and write checkpoints."""
    found_in(folder)
    manifest, paths = sealed_of(folder), StateDir(folder / "state")
    founder = Identity.load_or_create(paths.key_file)
    holdings = open_holdings(paths, rules_of(manifest))
    first = write(holdings, folder / "kept", manifest)
    for _ in range(3):
        advance(holdings, by=[founder])
    checkpoint = write(holdings, folder / "kept", manifest)
    advance(holdings, by=[founder], weak=True)
    weak = write(holdings, folder / "ahead", manifest)
    holdings.close()
    return Made(folder, manifest, founder, checkpoint, first, weak)


def key_only(made: Made, target: Path, extra: Sequence[str] = ()) -> StateDir:
    """A state directory of which the founder's key is left, and what else is named."""
    target.mkdir(parents=True)
    for name in ("identity.key", *extra):
        (target / name).write_bytes((made.state / name).read_bytes())
        (target / name).chmod(0o600)
    paths = StateDir(target)
    paths.prepare()
    return paths
