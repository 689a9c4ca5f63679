"""`talkoot export`: the model for people who never heard of the swarm; no daemon is needed."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from talkoot.cli.errors import CommandError
from talkoot.cli.options import StateDirOption, state_path
from talkoot.dht.errors import ConfigError

if TYPE_CHECKING:
    from talkoot.peer.manifest import Manifest
    from talkoot.peer.provenance import Provenance
    from talkoot.peer.trainer.layout import Flat


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the model.")],
    state_dir: StateDirOption = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A checkpoint instead of the peer's current state.")
    ] = None,
    upload: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to this model repository, too.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make that repository a private one.")] = False,
) -> None:
    """Write the current model, or that of a checkpoint, as a transformers folder with a model card.

    --upload puts it into a repository on the Hugging Face Hub, with the token of `hf auth login` or HF_TOKEN.
    """
    environment = dict(os.environ)  # building a model turns the library's network off
    if upload is None and private:
        raise ConfigError("--private belongs to --upload")
    if upload is not None:
        from talkoot.peer.upload import require_upload

        require_upload(upload)
    directory = state_path(state_dir)
    model = _of_state(directory) if checkpoint is None else _of_checkpoint(checkpoint, directory)

    from talkoot.peer.export import export as write_folder

    write_folder(model.manifest, model.theta, folder, model.provenance.rows, base_dir=model.base_dir)
    typer.echo(f"Wrote {folder}: the model after {model.provenance.rounds} rounds")
    if upload is not None:
        typer.echo(f"Uploaded to {_upload(folder, upload, private, environment)}")


@dataclass(frozen=True, slots=True)
class _Model:
    manifest: "Manifest"
    theta: "Flat"
    provenance: "Provenance"
    base_dir: Path
    """Where its tokenizer.json is."""


def _of_state(directory: Path) -> _Model:
    from talkoot.cli.outer import read_manifest, read_parameters
    from talkoot.peer.statedir import StateDir

    manifest = read_manifest(directory)

    from talkoot.averaging.certificate import CertificateError, decode_certificate
    from talkoot.averaging.ledger import LedgerError, decode_ledger
    from talkoot.peer.provenance import provenance

    head, theta = read_parameters(directory)
    try:
        ledger, certificate = decode_ledger(head.ledger), decode_certificate(head.certificate)
    except (LedgerError, CertificateError) as error:
        raise CommandError(f"{directory}: {error}") from error
    log = StateDir(directory).round_log
    return _Model(manifest, theta, provenance(ledger, certificate, log), directory)


def _of_checkpoint(path: Path, directory: Path) -> _Model:
    """Verified first: what does not hold is not exported."""
    from talkoot.peer.checkpoint_file import (
        CheckpointDamagedError,
        NotACheckpointError,
        map_theta,
        open_checkpoint,
    )
    from talkoot.peer.provenance import provenance
    from talkoot.peer.verify import log_beside, verify_checkpoint

    try:
        report = verify_checkpoint(path)
        file = open_checkpoint(path)
    except NotACheckpointError as error:
        raise ConfigError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except CheckpointDamagedError as error:
        raise CommandError(f"{path}: {error}") from error
    failed = [check for check in report.checks if check.result == "failed"]
    if failed:
        raise CommandError(f"{path}: {failed[0].name}: {failed[0].words}")
    contents = file.contents
    log = log_beside(path, contents.manifest)
    origin = provenance(contents.ledger, contents.certificate, log)
    return _Model(contents.manifest, map_theta(file), origin, _tokenizer_folder(path, log, directory))


def _tokenizer_folder(path: Path, log: Path | None, directory: Path) -> Path:
    """The state directory that the checkpoint lies in, its own folder, or the given state directory."""
    from talkoot.peer.founding import TOKENIZER_FILE

    folders = [*([log.parent] if log is not None else []), path.absolute().parent, directory]
    return next((folder for folder in folders if (folder / TOKENIZER_FILE).exists()), directory)


def _upload(folder: Path, repo: str, private: bool, environment: dict[str, str]) -> str:
    from talkoot.peer.upload import UploadError, upload

    try:
        return upload(folder, repo, private=private, environment=environment)
    except UploadError as error:
        raise CommandError(f"{error}; {folder} is complete") from error
