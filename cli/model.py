"""`talkoot export` and `generate`: the current model, read from the state directory; no daemon is needed."""

from pathlib import Path
from typing import Annotated

import typer

from talkoot.cli.options import StateDirOption, state_path


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the checkpoint.")],
    state_dir: StateDirOption = None,
) -> None:
    """Write the current model as a transformers checkpoint (safetensors)."""
    from talkoot.peer.export import export as write_checkpoint

    write_checkpoint(state_path(state_dir), folder)
    typer.echo(f"Wrote {folder}")


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT")],
    max_tokens: Annotated[int, typer.Option(min=1, max=65536, help="Tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(min=0, max=10, help="0: always the likeliest token.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    state_dir: StateDirOption = None,
) -> None:
    """Continue PROMPT with the current model."""
    from talkoot.peer.generate import generate as continue_text

    text = continue_text(
        state_path(state_dir), prompt, max_tokens=max_tokens, temperature=temperature, seed=seed
    )
    typer.echo(text)
