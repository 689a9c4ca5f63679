"""`talkoot ping`: by which path a peer is reached, and how long it takes."""

import time
from typing import Annotated, Any

import typer

from talkoot.cli.errors import CommandError
from talkoot.cli.options import JsonOption, StateDirOption, state_path
from talkoot.cli.words import as_json
from talkoot.dht.errors import ConfigError

PAUSE_S = 0.5
"""Between two questions: a peer answers four a second."""

MIN_PART = 6
"""So many characters, first or last, may stand for a PeerID."""


def ping(
    peer: Annotated[
        str,
        typer.Argument(metavar="PEER", help="Its PeerID, the beginning or end of one, or its public name."),
    ],
    count: Annotated[int, typer.Option("--count", "-c", min=1, max=1000, help="Round trips.")] = 4,
    state_dir: StateDirOption = None,
    json: JsonOption = False,
) -> None:
    """Time round trips to a peer of the swarm, and show the path: direct, punched or relayed.

    Exit code 1 when it does not answer at all.
    """
    from talkoot.cli.local_api import LocalApi

    api = LocalApi(state_path(state_dir), timeout_s=20.0)
    name = resolved(peer, api.peers())
    answers: list[dict[str, Any]] = []
    for number in range(count):
        if number:
            time.sleep(PAUSE_S)
        answers.append(api.ping(name))
        if not json:
            typer.echo(_line(number, answers[-1]))
    times = [answer["round_trip_s"] for answer in answers if answer.get("round_trip_s") is not None]
    if json:
        typer.echo(as_json({"peer_id": name, "sent": count, "answered": len(times), "probes": answers}))
    elif times:
        from statistics import median

        low, middle, high = (1000 * value for value in (min(times), median(times), max(times)))
        typer.echo(
            f"{len(times)} of {count} answered, {low:.1f} / {middle:.1f} / {high:.1f} ms (min / median / max)"
        )
    if not times:
        if json:
            raise typer.Exit(1)
        raise CommandError(f"{name} does not answer ({answers[-1].get('reason')})")


def resolved(text: str, entries: list[dict[str, Any]]) -> str:
    """The PeerID that is meant. Raises ConfigError when there is none, or more than one."""
    from talkoot.dht.identity import key_of_peer_id

    try:
        key_of_peer_id(text)
        return text
    except ValueError:
        pass
    ids = {str(entry.get("peer_id")): entry.get("public_name") for entry in entries}
    named = [peer_id for peer_id, name in ids.items() if name == text]
    parts = [
        peer_id
        for peer_id in ids
        if len(text) >= MIN_PART and (peer_id.startswith(text) or peer_id.endswith(text))
    ]
    found = named or parts
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"{text} fits {len(found)} peers: write more of the PeerID")
    raise ConfigError(
        f"{text} is no peer of this swarm: give a public name, or {MIN_PART} characters of a PeerID that "
        "talkoot peers shows"
    )


def _line(number: int, answer: dict[str, Any]) -> str:
    name = str(answer["peer_id"])[-8:]
    if answer["round_trip_s"] is None:
        return f"{number + 1}: {name} does not answer ({answer['reason']})"
    dial = f", connected in {1000 * answer['dial_s']:.1f} ms" if number == 0 else ""
    return f"{number + 1}: {name} {answer['path']} {1000 * answer['round_trip_s']:.1f} ms{dial}"
