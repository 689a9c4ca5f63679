"""`talkoot run`: the daemon. What can be known to be wrong before torch is imported is said at once."""

import socket
from pathlib import Path
from typing import Annotated

import typer

from talkoot.cli.options import StateDirOption, parse_bytes, state_path
from talkoot.dht.errors import ConfigError
from talkoot.peer.options import BYTES_PER_MBIT, RunOptions


def run(
    manifest: Annotated[
        Path | None, typer.Argument(metavar="MANIFEST", help="Manifest of a swarm to found or to join.")
    ] = None,
    join: Annotated[str | None, typer.Option(metavar="INVITE", help="Join by a talkoot:// invite.")] = None,
    state_dir: StateDirOption = None,
    http_port: Annotated[int, typer.Option(help="Port of the local API; 0: any free one.")] = 0,
    port: Annotated[int, typer.Option(help="TCP port for other peers; 0: any free one.")] = 0,
    listen: Annotated[list[str] | None, typer.Option(metavar="IP", help="IP address to listen on.")] = None,
    announce: Annotated[
        list[str] | None, typer.Option(metavar="ADDR", help="Multiaddr to tell others (port forwarding).")
    ] = None,
    bootstrap: Annotated[
        list[str] | None, typer.Option(metavar="ADDR", help="Multiaddr with /p2p/ of a peer to ask first.")
    ] = None,
    relay: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDR", help="Multiaddr with /p2p/ of a relay to be reached through."),
    ] = None,
    relayed: Annotated[
        str, typer.Option(help="allow, or refuse: nothing to or from this peer goes through relays.")
    ] = "allow",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads for training; 0: all cores.")] = 0,
    memory_limit: Annotated[
        str, typer.Option(metavar="SIZE", help="Device memory for training, such as 6GB; 0: no limit.")
    ] = "0",
    data: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Files or globs instead of the manifest's.")
    ] = None,
    profile: Annotated[str, typer.Option(help="home, lan or test: which addresses are used.")] = "home",
    role: Annotated[
        str, typer.Option(help="full, or client: never reduces (slow uplink, nobody can dial it).")
    ] = "full",
    observe: Annotated[
        bool,
        typer.Option(
            "--observe", help="Keep and serve the state without training; a founder's key still votes."
        ),
    ] = False,
    uplink: Annotated[
        float,
        typer.Option(metavar="MBIT", help="What your connection sends, in Mbit/s; 0: measured."),
    ] = 0.0,
    serve_rate: Annotated[
        str,
        typer.Option(metavar="SIZE", help="State sent to joining peers a second, such as 2MB; 0: no limit."),
    ] = "0",
    audit_parts: Annotated[
        int,
        typer.Option(metavar="N", help="Parts of other reducers to check after each round; 0: none."),
    ] = 1,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(metavar="N", help="Rounds between checkpoints; 0: none."),
    ] = None,
    checkpoint_keep: Annotated[int | None, typer.Option(metavar="N", help="Checkpoints that stay.")] = None,
    checkpoint_max: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="All checkpoints together at most."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Begin with this checkpoint, where there is no state yet."),
    ] = None,
    share_metrics: Annotated[
        str,
        typer.Option(help="Metrics that other peers may ask for: none, training, or all (this machine's)."),
    ] = "training",
    public_name: Annotated[
        str,
        typer.Option(metavar="NAME", help="Show this name to everybody (default: none)."),
    ] = "",
    log_format: Annotated[
        str, typer.Option(metavar="FORMAT", help="auto, text or json; auto: text on a terminal.")
    ] = "auto",
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log more.")] = False,
) -> None:
    """Train in a swarm until stopped: found it (MANIFEST), join it (--join), or go on where this peer was.

    With --observe, follow it and keep its state, so that it survives everybody leaving: an archivist. With
    the key of a founder it also votes, so that newcomers can go on.

    With --checkpoint, go on from a file where the state is lost; or, with the manifest of a new swarm, found
    that one with the parameters of the file.

    Ctrl-C finishes the step, saves and leaves politely; a second one stops at once.
    """
    try:
        options = RunOptions(
            state_dir=state_path(state_dir),
            manifest=manifest,
            join=join,
            http_port=http_port,
            port=port,
            listen=tuple(listen or ()),
            announce=tuple(announce or ()),
            bootstrap=tuple(bootstrap or ()),
            relays=tuple(relay or ()),
            relayed=relayed,  # type: ignore[arg-type]  # checked by RunOptions
            device=device,
            threads=threads,
            memory_limit_bytes=parse_bytes(memory_limit),
            data_paths=tuple(data or ()),
            profile=profile,  # type: ignore[arg-type]  # checked by RunOptions
            role="observer" if observe else role,  # type: ignore[arg-type]  # checked by RunOptions
            uplink=uplink * BYTES_PER_MBIT,
            serve_rate=float(parse_bytes(serve_rate)),
            audit_parts=audit_parts,
            checkpoint_every=checkpoint_every,
            checkpoint_keep=checkpoint_keep,
            checkpoint_bytes=parse_bytes(checkpoint_max) if checkpoint_max is not None else None,
            checkpoint=checkpoint,
            share_metrics=share_metrics,  # type: ignore[arg-type]  # checked by RunOptions
            public_name=public_name,
            log_format=log_format,  # type: ignore[arg-type]  # checked by RunOptions
            verbose=verbose,
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    _check_early(options)

    from talkoot.peer.daemon import run as run_daemon

    raise typer.Exit(run_daemon(options))


def _check_early(options: RunOptions) -> None:
    """Raise ConfigError for what is wrong on this machine's side already."""
    from talkoot.peer import invite, manifest_file
    from talkoot.peer.statedir import StateDir

    _require_free_port(options.http_port, "127.0.0.1", "--http-port")
    if not options.listen:
        _require_free_port(options.port, "127.0.0.1" if options.profile == "test" else "", "--port")

    if options.checkpoint is not None:
        _require_readable(options.checkpoint)
    if options.manifest is not None:
        manifest, _ = manifest_file.load(options.manifest)
        manifest_file.require_codecs(manifest, options.manifest)
    elif options.join is not None:
        try:
            invite.decode(options.join)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    elif options.checkpoint is None and StateDir(options.state_dir).swarm_id is None:
        raise ConfigError(
            f"{options.state_dir} holds no swarm yet: give a manifest (talkoot init) or --join INVITE"
        )


def _require_readable(path: Path) -> None:
    """What is none of ours is found out later; a pipe would be waited for."""
    if path.is_file():
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    elif path.is_dir():
        raise ConfigError(
            f"{path} is a folder: --checkpoint takes one file, such as round-00000100.safetensors"
        )
    else:
        raise ConfigError(f"{path}: " + ("no regular file" if path.exists() else "No such file or directory"))


def _require_free_port(port: int, host: str, option: str) -> None:
    if port == 0:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used ({error.strerror}): choose another {option}"
            ) from error
