"""`talkoot relay`: a relay for peers that nobody can dial. Imports neither torch nor hivemind."""

import ipaddress
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from talkoot.cli.options import parse_bytes, parse_duration
from talkoot.dht.errors import ConfigError
from talkoot.dht.multiaddr import parse_address
from talkoot.dht.relay.config import EVERYWHERE, Agent, RelayConfig, RelayLimits, SwarmName

if TYPE_CHECKING:
    from talkoot.dht.relay.program import Program
    from talkoot.dht.relay.service import Relay
    from talkoot.dht.relay.tally import Tally
    from talkoot.dht.relay.web import Pages

MAX_SWARMS = 16
_SIZE = "SIZE"


def relay(
    serve: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INVITE|MANIFEST]...", help="The swarms to serve: an invite, or a sealed manifest."
        ),
    ] = None,
    anybody: Annotated[bool, typer.Option("--any", help="Reservations for whoever asks.")] = False,
    peer: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDR", help="A peer of the swarm (for a manifest): /ip4/.../tcp/.../p2p/..."),
    ] = None,
    port: Annotated[int, typer.Option(help="TCP port that peers connect to.")] = 4002,
    listen: Annotated[
        list[str] | None, typer.Option(metavar="IP", help="Listen on this address only (default: all).")
    ] = None,
    announce: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDR", help="Where it is dialled, if not at this machine's addresses: /ip4/.../tcp/..."
        ),
    ] = None,
    http: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where /metrics and /healthz are served; none: nowhere.")
    ] = "127.0.0.1:8701",
    state_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the relay's key is kept (default: one per user)."),
    ] = None,
    reservations: Annotated[int | None, typer.Option(metavar="N", help="Clients at most.")] = None,
    circuits: Annotated[int | None, typer.Option(metavar="N", help="Circuits at most.")] = None,
    rate: Annotated[
        str | None, typer.Option(metavar=_SIZE, help="Bytes a second of the relay, such as 50MB.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar=_SIZE, help="Memory above which nothing new is taken, such as 512MiB."),
    ] = None,
    client_rate: Annotated[
        str | None, typer.Option(metavar=_SIZE, help="Bytes a second of one client.")
    ] = None,
    client_bytes: Annotated[
        str | None, typer.Option(metavar=_SIZE, help="Bytes of one client in an hour.")
    ] = None,
    circuit_rate: Annotated[
        str | None, typer.Option(metavar=_SIZE, help="Bytes a second of one circuit.")
    ] = None,
    circuit_bytes: Annotated[str | None, typer.Option(metavar=_SIZE, help="Bytes of one circuit.")] = None,
    circuit_time: Annotated[
        str | None, typer.Option(metavar="TIME", help="Longest life of one circuit, such as 6h.")
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log more.")] = False,
) -> None:
    """Relay for peers behind home routers, which others cannot dial: needs one open TCP port, and neither a
    GPU nor torch. Who has no valid record in a swarm that is served gets no reservation.

    Ctrl-C (or SIGTERM) lets circuits end; a second one stops at once.
    """
    from talkoot.dht.outside import available

    available.check()
    if not (serve or anybody):
        raise ConfigError("say whom to serve: an invite or a manifest of the swarm, or --any for everybody")
    swarms = _swarms(serve or [], peer or [])

    given = {
        "reservations": reservations,
        "circuits": circuits,
        "rate": _size("--rate", rate),
        "memory_bytes": _size("--memory", memory),
        "reservation_rate": _size("--client-rate", client_rate),
        "reservation_bytes": _size("--client-bytes", client_bytes),
        "circuit_rate": _size("--circuit-rate", circuit_rate),
        "circuit_bytes": _size("--circuit-bytes", circuit_bytes),
        "circuit_s": parse_duration(circuit_time) if circuit_time is not None else None,
    }
    limits = RelayLimits(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    config = _config(port, listen or [], announce or [])
    where = _http(http)

    _log(verbose)
    from talkoot.dht.relay.program import Program, run, state_of

    with state_of(state_dir if state_dir is not None else _default_state()) as identity:
        program = Program(
            identity=identity,
            config=config,
            limits=limits,
            swarms=swarms,
            anybody=anybody,
            agent=_agent(),
            http=where,
            pages=_pages,
        )
        run(program, lambda running, web: _say(program, running, web))


def _swarms(serve: list[str], peers: list[str]) -> list[SwarmName]:
    """Raises ConfigError."""
    from talkoot.peer.invite import SCHEME, decode

    _check_peers(peers)
    found: dict[bytes, tuple[str, ...]] = {}
    for text in serve:
        if text.strip().lower().startswith(SCHEME):
            try:
                invite = decode(text)
            except ValueError as error:
                raise ConfigError(str(error)) from error
            swarm, addresses = invite.swarm, invite.addresses
        else:
            swarm, addresses = _swarm_of_manifest(Path(text)), tuple(peers)
        found[swarm] = tuple(dict.fromkeys((*found.get(swarm, ()), *addresses, *peers)))
    if len(found) > MAX_SWARMS:
        raise ConfigError(f"{len(found)} swarms; one relay serves {MAX_SWARMS} at most")
    if any(not addresses for addresses in found.values()):
        raise ConfigError("a manifest names no peers: add --peer /ip4/.../tcp/.../p2p/..., or give an invite")
    return [SwarmName(swarm, addresses) for swarm, addresses in found.items()]


def _swarm_of_manifest(path: Path) -> bytes:
    from talkoot.peer import manifest_file

    if not path.exists():
        raise ConfigError(f"{path} is neither an invite (talkoot://...) nor a manifest's file")
    manifest, _ = manifest_file.load(path)
    if not manifest.sealed:
        raise ConfigError(f"{path}: a draft; `talkoot run` seals it, `talkoot invite` then names the swarm")
    return manifest.swarm_id


def _check_peers(peers: list[str]) -> None:
    for text in peers:
        try:
            whole = parse_address(text).peer is not None
        except ValueError:
            whole = False
        if not whole:
            raise ConfigError(f"--peer: {text!r} is not of the form /ip4/1.2.3.4/tcp/4001/p2p/12D3Koo...")


def _config(port: int, listen: list[str], announce: list[str]) -> RelayConfig:
    """Raises ConfigError."""
    for text in listen:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise ConfigError(f"--listen: {text!r} is no IP address") from None
    for text in announce:
        try:
            address = parse_address(text)
        except ValueError as error:
            raise ConfigError(f"--announce: {error}") from error
        if address.peer is not None or address.relay is not None:
            raise ConfigError(f"--announce: {text!r} must end with the port: /ip4/1.2.3.4/tcp/4002")
    if len(announce) > 8:
        raise ConfigError("--announce: 8 addresses at most")
    return RelayConfig(port=port, announce=tuple(announce), hosts=tuple(listen) or EVERYWHERE)


def _http(text: str) -> tuple[str, int] | None:
    if text == "none":
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--http: {text!r} is not HOST:PORT such as 127.0.0.1:8701, nor none")
    return host.strip("[]"), int(port)


def _size(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_bytes(text)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from error


def _agent() -> Agent:
    from importlib.metadata import version

    from talkoot.peer.protocol import PROTOCOL_VERSION

    return Agent(PROTOCOL_VERSION, version("talkoot"))


def _default_state() -> Path:
    from talkoot.peer.statedir import default_path

    return default_path("relay")


def _pages(tally: "Tally") -> "Pages":
    import json
    import time

    from talkoot.dht.relay.web import Answer
    from talkoot.peer.metrics.registry import CONTENT_TYPE
    from talkoot.peer.metrics.relay import exposition, status_of

    def healthz() -> Answer:
        body = json.dumps(status_of(tally, time.monotonic())).encode() + b"\n"
        return Answer(body, "application/json", 503 if tally.draining else 200)

    return {
        "/healthz": healthz,
        "/metrics": lambda: Answer(exposition(tally, time.monotonic()), CONTENT_TYPE),
    }


def _log(verbose: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("talkoot").setLevel(logging.DEBUG if verbose else logging.INFO)
    # It takes whatever a peer does for an error of ours.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL + 1)


def _say(program: "Program", running: "Relay", web: int | None) -> None:
    """How peers are told of this relay, for whoever started it."""
    for address in running.addresses:
        typer.echo(f"{address}/p2p/{running.identity.peer_id}")
    served = (
        f"{len(program.swarms)} swarm{'s' * (len(program.swarms) != 1)}" if program.swarms else "no swarm"
    )
    whom = "reservations for anybody" if program.anybody else f"reservations for peers of {served}"
    pages = f"; http://{program.http[0]}:{web}/metrics" if program.http is not None else ""
    typer.echo(f"relaying, {whom}{pages}")
    if not any(map(_is_public, running.addresses)):
        typer.echo(
            "no public address: unless peers are on this network, say --announce /ip4/.../tcp/...", err=True
        )


def _is_public(address: str) -> bool:
    parsed = parse_address(address)
    return parsed.kind.startswith("dns") or ipaddress.ip_address(parsed.host).is_global
