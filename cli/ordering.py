"""`talkoot pause`, `resume`, `finish` and `leave`: what a volunteer tells the running daemon."""

import re
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from talkoot.cli.errors import CommandError
from talkoot.cli.options import JsonOption, StateDirOption, parse_duration, state_path
from talkoot.cli.words import as_json, state_words
from talkoot.dht.errors import ConfigError

LEAVE_S = 300.0
"""How long `leave` waits for the daemon's end."""

LOOK_S = 0.2
"""Between two looks at whether it is gone."""

Json = dict[str, Any]


def pause(
    length: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="Go on by itself after 30m, 2h or 1d.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="WHEN", help="Go on at 18:00, or at 2026-12-24T18:00, local time."),
    ] = None,
    state_dir: StateDirOption = None,
    json: JsonOption = False,
) -> None:
    """Rest now: free the memory and the device, lose nothing. Also holds after a restart."""
    if length is not None and until is not None:
        raise ConfigError("give --for or --until, not both")
    end = None
    if length is not None:
        end = time.time() + parse_duration(length)
    elif until is not None:
        end = parse_time(until, datetime.now().astimezone())
    _tell(_order(state_dir, "pause", {"until": end}), json)


def resume(state_dir: StateDirOption = None, json: JsonOption = False) -> None:
    """Go on after a pause, or do not pause after this round."""
    answer = _order(state_dir, "resume")
    _tell(answer, json)
    if answer.get("state") == "paused" and not json:
        typer.echo("it goes on once that is over; see talkoot status")


def finish(state_dir: StateDirOption = None, json: JsonOption = False) -> None:
    """Hand in the running round, then pause."""
    answer = _order(state_dir, "finish")
    _tell(answer, json)
    if answer.get("finishing") is not None and not json:
        typer.echo(f"pauses once round {answer['finishing'] - 1} is over")


def leave(state_dir: StateDirOption = None, json: JsonOption = False) -> None:
    """Hand in what is under way, say goodbye and end the daemon; returns when it is gone."""
    path = state_path(state_dir)
    answer = _order(path, "leave")
    if not json:
        _tell(answer, json)
    deadline = time.monotonic() + LEAVE_S
    while _runs(path):
        if time.monotonic() > deadline:
            raise CommandError(f"the daemon has not left within {LEAVE_S:.0f} s; it still tries to")
        time.sleep(LOOK_S)
    typer.echo(as_json({"state": "gone"}) if json else "gone")


def parse_time(text: str, now: datetime) -> float:
    """The next time at which a clock here shows `18:00`, or that of a date with a time, as Unix time.

    Also right where the clock is changed in between. Raises ConfigError.
    """
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text.strip())
    if match is not None:
        local = now.replace(tzinfo=None)
        wanted = local.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0)
        if wanted <= local:
            wanted += timedelta(days=1)
        return wanted.timestamp()
    try:
        wanted = datetime.fromisoformat(text.strip())
        if ":" not in text:
            raise ValueError("no time of day")
    except ValueError as error:
        raise ConfigError(f"{text} is no time; write 18:00 or 2026-12-24T18:00") from error
    if wanted.timestamp() <= now.timestamp():
        raise ConfigError(f"{text} lies in the past")
    return wanted.timestamp()


def _order(state_dir: Path | None, name: str, body: Json | None = None) -> Json:
    from talkoot.cli.local_api import LocalApi

    return LocalApi(state_path(state_dir)).order(name, body)


def _runs(path: Path) -> bool:
    from talkoot.peer.client import ApiClient, NoDaemon

    try:
        ApiClient.from_state_dir(path)
    except NoDaemon:
        return False
    return True


def _tell(answer: Json, json: bool) -> None:
    typer.echo(as_json(answer) if json else state_words(answer))
