"""`talkoot export` and `generate`: the current model, read from the state directory; no daemon is needed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from talkoot.cli.options import StateDirOption, state_path
from talkoot.dht.errors import ConfigError

if TYPE_CHECKING:
    from talkoot.peer.manifest import Manifest


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the checkpoint.")],
    state_dir: StateDirOption = None,
) -> None:
    """Write the current model as a transformers checkpoint (safetensors)."""
    directory = state_path(state_dir)
    manifest = _manifest(directory)
    from talkoot.cli.outer import read_parameters
    from talkoot.peer.export import export as write_checkpoint

    head, theta = read_parameters(directory)
    info: dict[str, str | int | float] = {"rounds": head.round, "digest": head.digest.hex()}
    write_checkpoint(manifest, theta, folder, info, base_dir=directory)
    typer.echo(f"Wrote {folder}: the model after {head.round} rounds")


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT")],
    max_tokens: Annotated[int, typer.Option(help="Tokens to add at most.")] = 256,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Choose among so many of the likeliest; 0: among all.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    state_dir: StateDirOption = None,
) -> None:
    """Continue PROMPT with the current model."""
    directory = state_path(state_dir)
    manifest = _manifest(directory)
    from talkoot.cli.outer import read_parameters
    from talkoot.peer.generate import Sampling
    from talkoot.peer.generate import generate as continue_text

    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_k=top_k, seed=seed)
    _, theta = read_parameters(directory)
    pieces = continue_text(manifest, theta, prompt, sampling, base_dir=directory)
    typer.echo(prompt, nl=False)
    for piece in pieces:
        typer.echo(piece, nl=False)
    typer.echo()


def _manifest(directory: Path) -> "Manifest":
    """The sealed manifest that the daemon kept. Raises ConfigError."""
    from talkoot.peer.manifest import from_canonical
    from talkoot.peer.statedir import StateDir

    data = StateDir(directory).load_manifest()
    if data is None:
        raise ConfigError(f"{directory} holds no swarm; give --state-dir, or start with talkoot run")
    try:
        return from_canonical(data)
    except ValueError as error:
        raise ConfigError(f"{directory}: the manifest is damaged: {error}") from error
