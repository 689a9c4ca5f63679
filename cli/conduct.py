"""`talkoot peers`, `ban` and `unban`: who is in the swarm, and whom this peer refuses."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkoot.cli.errors import CommandError, NoDaemonError
from talkoot.cli.options import JsonOption, StateDirOption, parse_duration, state_path
from talkoot.cli.table import table
from talkoot.cli.words import as_json, duration
from talkoot.dht.errors import ConfigError

if TYPE_CHECKING:
    from talkoot.peer.bans import BanList

MIN_ENDING = 6
"""So many last characters may stand for a PeerID."""

PeerArgument = Annotated[
    str, typer.Argument(metavar="PEER", help="Its PeerID, or the end of one that talkoot peers shows.")
]
Entry = dict[str, Any]


def peers(state_dir: StateDirOption = None, json: JsonOption = False) -> None:
    """Show the peers of the swarm with their scores, and who is banned and why; while no daemon runs, the
    bans alone.
    """
    entries, running = _entries(state_path(state_dir))
    typer.echo(as_json({"running": running, "peers": entries}) if json else _text(entries, running))


def ban(
    peer: PeerArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="WORDS", help="Why; for you to remember.")] = "",
    lasts: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="30m, 2h, 7d (default: until talkoot unban).")
    ] = "",
    state_dir: StateDirOption = None,
    json: JsonOption = False,
) -> None:
    """Refuse a peer from now on: its connections are closed, its announcements ignored. Local: others are
    not told, and rounds give the same result.
    """
    path = state_path(state_dir)
    seconds = parse_duration(lasts) if lasts else None
    entries, running = _entries(path)
    name = _resolved(peer, entries)
    _check(path, name, reason, seconds)
    if running:
        from talkoot.cli.local_api import LocalApi

        entry = LocalApi(path).ban(name, reason, seconds)
    else:
        entry = _ban_on_disk(path, name, reason, seconds)
    typer.echo(as_json(entry) if json else f"{name} is banned {_until(entry['ban'])}")


def unban(peer: PeerArgument, state_dir: StateDirOption = None, json: JsonOption = False) -> None:
    """Let a banned peer connect again, and forget what was held against a peer."""
    path = state_path(state_dir)
    entries, running = _entries(path)
    name = _resolved(peer, entries)
    if running:
        from talkoot.cli.local_api import LocalApi

        lifted = LocalApi(path).unban(name)
    else:
        lifted = _unban_on_disk(path, name)
    if not lifted:
        raise CommandError(f"{name} is not banned, and nothing is held against it")
    typer.echo(as_json({"peer_id": name, "lifted": True}) if json else f"{name} may connect again")


# -- with and without a daemon -----------------------------------------------------------------------


def _entries(path: Path) -> tuple[list[Entry], bool]:
    """What is known of peers, and whether a daemon runs."""
    from talkoot.cli.local_api import LocalApi

    try:
        return LocalApi(path).peers(), True
    except NoDaemonError:
        from talkoot.peer.bans import BanList, banned_as_json
        from talkoot.peer.statedir import StateDir

        return banned_as_json(BanList.load(_existing(StateDir(path)).bans), time.time()), False


def _existing(paths: Any) -> Any:
    if not paths.key_file.exists():
        raise ConfigError(f"{paths.path} is no state directory of a peer: give one with --state-dir")
    return paths


@contextmanager
def _changing(path: Path) -> Iterator["BanList"]:
    """The list on disk, locked against a daemon that starts meanwhile, and saved at the end."""
    from talkoot.peer.bans import BanList
    from talkoot.peer.statedir import StateDir

    paths = _existing(StateDir(path))
    with paths.lock():
        bans = BanList.load(paths.bans)
        yield bans
        bans.save()


def _check(path: Path, name: str, reason: str, seconds: float | None) -> None:
    """Whether a ban can be. Raises ConfigError."""
    from talkoot.dht.identity import Identity, key_of_peer_id
    from talkoot.peer.bans import BanList
    from talkoot.peer.penalties import OPERATOR
    from talkoot.peer.statedir import StateDir

    if Identity.load_or_create(_existing(StateDir(path)).key_file).peer_id == name:
        raise ConfigError("that is this peer itself")
    try:
        BanList(path).add(key_of_peer_id(name), reason=reason, by=OPERATOR, for_s=seconds, now=time.time())
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _ban_on_disk(path: Path, name: str, reason: str, seconds: float | None) -> Entry:
    from talkoot.dht.identity import key_of_peer_id
    from talkoot.peer.bans import banned_as_json
    from talkoot.peer.penalties import OPERATOR

    with _changing(path) as bans:
        now = time.time()
        try:
            bans.add(key_of_peer_id(name), reason=reason, by=OPERATOR, for_s=seconds, now=now)
        except ValueError as error:  # the list is full
            raise ConfigError(str(error)) from error
        return next(entry for entry in banned_as_json(bans, now) if entry["peer_id"] == name)


def _unban_on_disk(path: Path, name: str) -> bool:
    from talkoot.dht.identity import key_of_peer_id

    with _changing(path) as bans:
        return bans.lift(key_of_peer_id(name))


def _resolved(text: str, entries: list[Entry]) -> str:
    """The PeerID that is meant. Raises ConfigError."""
    from talkoot.dht.identity import key_of_peer_id

    try:
        key_of_peer_id(text)
    except ValueError:
        pass
    else:
        return text
    found = [entry["peer_id"] for entry in entries if str(entry["peer_id"]).endswith(text)]
    if len(text) < MIN_ENDING or not found:
        raise ConfigError(
            f"{text} is no PeerID, nor the last {MIN_ENDING} or more characters of one in talkoot peers"
        )
    if len(found) > 1:
        raise ConfigError(f"{len(found)} peers end in {text}: give more of the PeerID")
    return str(found[0])


# -- words -------------------------------------------------------------------------------------------


HEADINGS = ("peer", "name", "state", "role", "path", "round", "score", "watch", "banned")


def _text(entries: list[Entry], running: bool) -> str:
    head = "" if running else "no daemon runs; this is the list of bans\n"
    if not entries:
        return head + ("no other peers known" if running else "nobody is banned")
    left = ("peer", "name", "state", "role", "path", "watch", "banned")
    return head + table(HEADINGS, [_row(entry) for entry in entries], left=left)


def _row(entry: Entry) -> tuple[str, ...]:
    score, number = entry.get("score"), entry.get("round")
    words = _ban_words(entry["ban"]) if entry.get("ban") else _score_words(entry)
    return (
        entry["peer_id"],
        entry.get("public_name") or "-",
        entry["state"],
        entry.get("role") or "-",
        entry.get("path") or "-",
        "-" if number is None else str(number),
        "-" if score is None else format(score, ".1f"),
        _watch_words(entry),
        words + _audit_words(entry),
    )


def _watch_words(entry: Entry) -> str:
    """What its contributions look like to this node."""
    watch = entry.get("watch")
    if watch is None:
        return "-"
    signs = ", ".join(watch["signs"])
    if watch["suspected"]:
        return f"suspected: {signs}" if signs else "suspected"
    return f"odd: {signs}" if signs else "new" if watch["norm_score"] is None else "as usual"


def _score_words(entry: Entry) -> str:
    reason = str(entry.get("score_reason") or "").replace("_", " ")
    return f"no ({reason})" if reason and entry.get("score") else "no"


def _audit_words(entry: Entry) -> str:
    """What the swarm's audits have come to; nothing where there are none."""
    standing, reputation = entry.get("standing"), entry.get("reputation")
    if reputation is None and standing not in ("banned", "left_out", "probation"):
        return ""
    passed = entry.get("audits_passed") or 0
    known = (
        "" if reputation is None else f", reputation {reputation}, {passed} audit{'s' * (passed != 1)} passed"
    )
    return f"; in the swarm: {str(standing).replace('_', ' ')}{known}"


def _ban_words(ban: Entry) -> str:
    reason = str(ban.get("reason") or "no reason given").replace("_", " ")
    who = "by you" if ban.get("by") == "operator" else "by its score"
    return f"{_until(ban)}, {who}: {reason}"


def _until(ban: Entry) -> str:
    until = ban.get("until")
    return "until lifted" if until is None else f"for {duration(max(0.0, until - time.time()))}"
