"""`talkoot run`: the daemon. What can be known to be wrong before torch is imported is said at once."""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from talkoot.cli.options import StateDirOption, state_path
from talkoot.dht.errors import ConfigError

if TYPE_CHECKING:
    from talkoot.peer.options import RunOptions

Texts = list[str] | None


def run(
    manifest: Annotated[
        Path | None, typer.Argument(metavar="MANIFEST", help="Manifest of a swarm to found or to join.")
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(
            metavar="INVITE",
            envvar="TALKOOT_JOIN",  # a service's: command lines are for everybody to read
            help="Join by a talkoot:// invite.",
        ),
    ] = None,
    state_dir: StateDirOption = None,
    settings: Annotated[
        Texts,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as limits.upload=2MB/s."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="home, server, lowpower, lan or test: a set of defaults.")
    ] = None,
    power: Annotated[
        str | None, typer.Option(metavar="SHARE", help="light, medium, full or such as 50%: time at work.")
    ] = None,
    upload: Annotated[
        str | None, typer.Option(metavar="RATE", help="Most that leaves, such as 2MB/s; none: no limit.")
    ] = None,
    download: Annotated[str | None, typer.Option(metavar="RATE", help="Most that comes in.")] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of the local API; 0: any free one.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port for other peers; 0: any free one.")] = None,
    listen: Annotated[Texts, typer.Option(metavar="IP", help="IP address to listen on.")] = None,
    announce: Annotated[
        Texts, typer.Option(metavar="ADDR", help="Multiaddr to tell others (port forwarding).")
    ] = None,
    bootstrap: Annotated[
        Texts, typer.Option(metavar="ADDR", help="Multiaddr with /p2p/ of a peer to ask first.")
    ] = None,
    relay: Annotated[
        Texts, typer.Option(metavar="ADDR", help="Multiaddr with /p2p/ of a relay to be reached through.")
    ] = None,
    relayed: Annotated[
        str | None, typer.Option(help="allow, or refuse: nothing to or from this peer goes through relays.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads for training; 0: all cores.")] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Device memory for training, such as 6GB; none: no limit."),
    ] = None,
    data: Annotated[
        Texts, typer.Option(metavar="PATH", help="Files or globs instead of the manifest's.")
    ] = None,
    role: Annotated[
        str | None, typer.Option(help="full, or client: never reduces (slow uplink, nobody can dial it).")
    ] = None,
    observe: Annotated[
        bool,
        typer.Option(
            "--observe", help="Keep and serve the state without training; a founder's key still votes."
        ),
    ] = False,
    uplink: Annotated[
        str | None, typer.Option(metavar="MBIT", help="What your connection sends, in Mbit/s; 0: measured.")
    ] = None,
    serve_rate: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="State sent to joining peers a second, such as 2MB."),
    ] = None,
    audit_parts: Annotated[
        int | None,
        typer.Option(metavar="N", help="Parts of other reducers to check after each round; 0: none."),
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(metavar="N", help="Rounds between checkpoints; 0: none.")
    ] = None,
    checkpoint_keep: Annotated[int | None, typer.Option(metavar="N", help="Checkpoints that stay.")] = None,
    checkpoint_max: Annotated[
        str | None, typer.Option(metavar="SIZE", help="All checkpoints together at most.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Begin with this checkpoint, where there is no state yet."),
    ] = None,
    share_metrics: Annotated[
        str | None,
        typer.Option(help="Metrics that other peers may ask for: none, training, or all (this machine's)."),
    ] = None,
    public_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Show this name to everybody (default: none).")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="auto, text or json; auto: text on a terminal.")
    ] = None,
    gpu_readings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", hidden=True, help="How GPUs fare, in place of NVIDIA's library."),
    ] = None,
    verbose: Annotated[bool | None, typer.Option("-v", "--verbose", help="Log more.")] = None,
) -> None:
    """Train in a swarm until stopped: found it (MANIFEST), join it (--join), or go on where this peer was.

    With --observe, follow it and keep its state, so that it survives everybody leaving: an archivist. With
    the key of a founder it also votes, so that newcomers can go on.

    With --checkpoint, go on from a file where the state is lost; or, with the manifest of a new swarm, found
    that one with the parameters of the file.

    Options that are not given are taken from the environment (TALKOOT_SECTION_NAME), from the state
    directory's config.toml (talkoot config), and from the profile.

    Ctrl-C finishes the step, saves and leaves politely; a second one stops at once.
    """
    from talkoot.peer.config.configuration import Configuration

    given: dict[str, tuple[str, object]] = {
        "node.profile": ("--profile", profile),
        "node.role": ("--observe", "observer") if observe else ("--role", role),
        "node.device": ("--device", device),
        "node.data": ("--data", data),
        "node.public_name": ("--public-name", public_name),
        "node.share_metrics": ("--share-metrics", share_metrics),
        "node.audit_parts": ("--audit-parts", audit_parts),
        "node.log_format": ("--log-format", log_format),
        "node.verbose": ("--verbose", verbose),
        "network.port": ("--port", port),
        "network.api_port": ("--http-port", http_port),
        "network.listen": ("--listen", listen),
        "network.announce": ("--announce", announce),
        "network.bootstrap": ("--bootstrap", bootstrap),
        "network.relays": ("--relay", relay),
        "network.relayed": ("--relayed", relayed),
        "network.uplink": ("--uplink", uplink),
        "limits.power": ("--power", power),
        "limits.threads": ("--threads", threads),
        "limits.gpu_memory": ("--memory-limit", memory_limit),
        "limits.upload": ("--upload", upload),
        "limits.download": ("--download", download),
        "limits.serve_rate": ("--serve-rate", serve_rate),
        "checkpoints.every": ("--checkpoint-every", checkpoint_every),
        "checkpoints.keep": ("--checkpoint-keep", checkpoint_keep),
        "checkpoints.max": ("--checkpoint-max", checkpoint_max),
    }
    flags = {key: (flag, value) for key, (flag, value) in given.items() if value is not None}
    configuration = Configuration.load(
        state_path(state_dir).expanduser().absolute(), os.environ, flags | _set(settings or [])
    )
    options = configuration.options(
        manifest=manifest, join=join, checkpoint=checkpoint, gpu_readings=gpu_readings
    )
    _check_early(options)

    from talkoot.peer.daemon import run as run_daemon

    raise typer.Exit(run_daemon(options))


def _set(settings: list[str]) -> dict[str, tuple[str, object]]:
    """`--set KEY=VALUE`, as flags. Raises ConfigError."""
    from talkoot.peer.config.layers import setting_of

    found: dict[str, tuple[str, object]] = {}
    for text in settings:
        key, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--set {text}: write KEY=VALUE, such as limits.upload=2MB/s")
        found[setting_of(key.strip(), "--set: ").key] = ("--set", value.strip())
    return found


def _check_early(options: "RunOptions") -> None:
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
