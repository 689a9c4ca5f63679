"""What the trainer of a node is told when it starts."""

from pathlib import Path

from talkoot.peer.manifest import Manifest
from talkoot.peer.options import RunOptions
from talkoot.peer.statedir import StateDir
from talkoot.peer.trainer.protocol import TrainerSpec


def trainer_spec(
    manifest: Manifest, options: RunOptions, paths: StateDir, peer: bytes, data_base: Path | None
) -> TrainerSpec:
    """The trainer of `peer`; makes its folder. `data_base` is the folder that the manifest's data paths start
    from, None where they are somebody else's: then only `options.data_paths` are read. Raises OSError.
    """
    paths.trainer.mkdir(exist_ok=True, mode=0o700)
    own = tuple(str(data_base / path) for path in manifest.data.paths) if data_base is not None else ()
    return TrainerSpec(
        manifest_path=paths.manifest_file,
        state_dir=paths.trainer,
        peer=peer,
        device=options.device,
        threads=options.threads,
        memory_limit_bytes=options.memory_limit_bytes,
        nice=options.guest.nice,
        share_gpu=options.share_gpu,
        data_paths=tuple(str(Path(path).expanduser().absolute()) for path in options.data_paths) or own,
        base_dir=paths.path,
    )
