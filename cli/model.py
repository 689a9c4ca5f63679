"""`talkoot generate`: text from the current model, read from the state directory; no daemon is needed."""

from typing import Annotated

import typer

from talkoot.cli.options import StateDirOption, state_path


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
    from talkoot.cli.outer import read_manifest, read_parameters

    manifest = read_manifest(directory)
    from talkoot.peer.generate import Sampling
    from talkoot.peer.generate import generate as continue_text

    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_k=top_k, seed=seed)
    _, theta = read_parameters(directory)
    pieces = continue_text(manifest, theta, prompt, sampling, base_dir=directory)
    typer.echo(prompt, nl=False)
    for piece in pieces:
        typer.echo(piece, nl=False)
    typer.echo()
