"""`talkoot invite`: invites for more peers, those that were made here, and taking them back."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkoot.cli.errors import NoDaemonError
from talkoot.cli.options import JsonOption, StateDirOption, state_path
from talkoot.cli.words import as_json
from talkoot.dht.errors import ConfigError

if TYPE_CHECKING:
    from talkoot.averaging.ledger import Ledger
    from talkoot.peer.issued import IssuedInvites
    from talkoot.peer.statedir import StateDir

Entry = dict[str, Any]
SHOWN = 16
"""Characters of an invite's key in the list."""


def invite(
    listed: Annotated[bool, typer.Option("--list", help="Show the invites that this peer made.")] = False,
    revoked: Annotated[
        str | None,
        typer.Option(
            "--revoke",
            metavar="TOKEN|all",
            help="Take an invite back for good: what --list shows of it, or its link; or all that are open.",
        ),
    ] = None,
    state_dir: StateDirOption = None,
    json: JsonOption = False,
) -> None:
    """Make an invite for one more peer: a talkoot:// link for `talkoot run --join`. Or list those that were
    made here, or take one back; who came by it then has no vote and no weight any more.
    """
    from talkoot.cli.local_api import LocalApi

    path = state_path(state_dir)
    if listed and revoked is not None:
        raise ConfigError("give --list or --revoke, not both")
    if listed:
        entries = _listed(path)
        typer.echo(as_json({"invites": entries}) if json else _text(entries))
    elif revoked is not None:
        entries = _revoke(path, "".join(revoked.split()))
        typer.echo(as_json({"revoked": entries}) if json else "\n".join(map(_revoked_words, entries)))
    else:
        text = LocalApi(path).invite()
        typer.echo(as_json({"invite": text}) if json else text)


# -- with and without a daemon -----------------------------------------------------------------------


def _listed(path: Path) -> list[Entry]:
    from talkoot.cli.local_api import LocalApi

    try:
        return LocalApi(path).invites()
    except NoDaemonError:
        paths = _existing(path)
        return _load(paths).as_json(_ledger(paths), time.time())


def _revoke(path: Path, name: str) -> list[Entry]:
    from talkoot.cli.local_api import LocalApi

    try:
        return LocalApi(path).revoke(name)
    except NoDaemonError:
        return _revoke_on_disk(_existing(path), name)


def _revoke_on_disk(paths: "StateDir", name: str) -> list[Entry]:
    """For the next start to hand in."""
    from talkoot.dht.identity import Identity

    now = time.time()
    with paths.lock():
        invites, ledger, swarm = _load(paths), _ledger(paths), paths.swarm_id
        if swarm is None:
            raise ConfigError(f"{paths.path} holds no swarm yet")
        own = Identity.load_or_create(paths.key_file).key
        try:
            keys = invites.revoke(name, own=own, swarm=swarm, ledger=ledger, now=now)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        invites.write(invites.encode())
    names = {key.hex() for key in keys}
    return [entry for entry in invites.as_json(ledger, now) if entry["token"] in names]


def _existing(path: Path) -> "StateDir":
    from talkoot.peer.statedir import StateDir

    paths = StateDir(path)
    if not paths.key_file.exists():
        raise ConfigError(f"{paths.path} is no state directory of a peer: give one with --state-dir")
    return paths


def _load(paths: "StateDir") -> "IssuedInvites":
    from talkoot.peer.issued import IssuedInvites

    return IssuedInvites.load(paths.issued)


def _ledger(paths: "StateDir") -> "Ledger | None":
    """That of the state on disk, if there is one. Raises ConfigError."""
    from talkoot.averaging.ledger import LedgerError, decode_ledger
    from talkoot.peer.head import StoreCorruptError, read_head

    try:
        head = read_head(paths.outer)
        return decode_ledger(head.ledger) if head is not None else None
    except (StoreCorruptError, LedgerError) as error:
        raise ConfigError(f"the state in {paths.path} cannot be read: {error}") from error


# -- words -------------------------------------------------------------------------------------------


def _text(entries: list[Entry]) -> str:
    """One line an invite, oldest first."""
    return "\n".join(map(_line, entries)) if entries else "no invites were made here"


def _line(entry: Entry) -> str:
    by = f" by {entry['peer_id']}" if entry.get("peer_id") else ""
    made, expires = _day(entry["made"]), _day(entry["expires"])
    return f"{entry['token'][:SHOWN]}  made {made}  expires {expires}  {entry['state']}{by}"


def _revoked_words(entry: Entry) -> str:
    name = entry["token"][:SHOWN]
    if entry["state"] == "revoked":
        return f"{name} is revoked"
    if entry.get("peer_id"):
        return (
            f"{name} is being revoked: {entry['peer_id']} loses its vote and its weight with the next round "
            "that most voters take part in"
        )
    return f"{name} is being revoked: it admits nobody after the next round that this peer takes part in"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
