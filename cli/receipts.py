"""`talkoot receipts` and `talkoot leaderboard`: who contributed what, proven offline from certificates."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkoot.cli.errors import FAILED
from talkoot.cli.options import JsonOption, StateDirOption, state_path
from talkoot.cli.table import table
from talkoot.cli.words import as_json, count
from talkoot.dht.errors import ConfigError

if TYPE_CHECKING:
    from talkoot.peer.credit import Board
    from talkoot.peer.receipts import Receipt, ReceiptBook, Receipts
    from talkoot.peer.statedir import StateDir
    from talkoot.peer.verify_chain import Check

MIN_ENDING = 6
"""So many last characters may stand for a PeerID."""

LastOption = Annotated[int, typer.Option("--last", metavar="N", min=1, help="Receipts to show.")]
TopOption = Annotated[int, typer.Option("--top", metavar="N", min=1, help="Peers to show.")]


def receipts(
    peer: Annotated[
        str, typer.Option("--peer", metavar="PEER", help="Of another peer: its PeerID, or the end of it.")
    ] = "",
    last: LastOption = 20,
    state_dir: StateDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show the rounds that counted this peer's work, as certificates prove it; no daemon is needed.

    Exit code 0: every certificate holds. 1: one does not. 2: there are none.
    """
    from talkoot.peer.receipts import ReceiptBook, receipts_for
    from talkoot.peer.statedir import StateDir

    paths = StateDir(state_path(state_dir))
    key = _key(peer, paths)
    found = receipts_for(ReceiptBook(paths), key)
    typer.echo(_json(found) if json else receipts_text(found, last))
    if not found.ok:
        raise typer.Exit(FAILED)


def leaderboard(top: TopOption = 20, state_dir: StateDirOption = None, json: JsonOption = False) -> None:
    """Sum up who contributed what over all certified rounds that this peer holds; no daemon is needed.

    The same rounds give the same rows, order and fingerprint on every node. Exit codes as of receipts.
    """
    from talkoot.peer.receipts import ReceiptBook, board_of
    from talkoot.peer.statedir import StateDir

    paths = StateDir(state_path(state_dir))
    book = ReceiptBook(paths)
    board = board_of(book)
    values = board_values(board, book, paths)
    typer.echo(as_json(values) if json else board_text(values, book.checks, top))
    if not book.ok:
        raise typer.Exit(FAILED)


# -- receipts ----------------------------------------------------------------------------------------


def receipts_text(found: "Receipts", last: int) -> str:
    """A table of the newest, the sums, what was checked, what is proven and what is not."""
    from talkoot.peer.model_card import plain

    lines = [f"peer {found.peer_id} in {plain(found.swarm)} ({found.swarm_id[:12]})"]
    shown = found.receipts[-last:]
    if shown:
        lines += [_receipt_table(shown), ""]
    more = len(found.receipts) - len(shown)
    lines.append(
        f"counted in {len(found.receipts)} of {found.joined} rounds that it joined, of {found.rounds} in the "
        f"log{f' ({more} earlier ones are not shown)' if more else ''}"
    )
    lines += _check_lines(found.checks)
    lines += [f"{'proven':12} {words}" for words in found.proven or ["nothing"]]
    lines += [f"{'not proven':12} {words}" for words in found.not_proven]
    return "\n".join(lines)


def _receipt_table(shown: list["Receipt"]) -> str:
    headings = ("round", "kind", "counted", "weight", "steps", "tokens", "credit", "signed", "digest")
    rows = [
        (
            str(item.round),
            item.kind if item.proven else f"{item.kind}, unproven",
            str(item.counted),
            "?" if item.weight is None else f"{100 * item.weight:.1f} %",
            str(item.steps),
            str(item.tokens) + (f"+{item.carried_tokens}" if item.carried_tokens else ""),
            str(item.credit),
            f"{item.signed} of {'?' if item.voters is None else item.voters}",
            item.digest[:12],
        )
        for item in shown
    ]
    return table(headings, rows, left=("kind", "digest"))


def _check_lines(checks: list["Check"]) -> list[str]:
    from talkoot.peer.model_card import plain

    return [f"{check.result:12} {check.name}: {plain(check.words)}" for check in checks]


def _key(peer: str, paths: "StateDir") -> bytes:
    """Whose receipts are wanted. Raises ConfigError."""
    from talkoot.dht.identity import Identity, key_of_peer_id

    if not peer:
        if not paths.key_file.exists():
            raise ConfigError(f"{paths.path} is no state directory of a peer: give one with --state-dir")
        return Identity.load_or_create(paths.key_file).key
    try:
        return key_of_peer_id(peer)
    except ValueError:
        return _ending(peer, paths)


def _ending(text: str, paths: "StateDir") -> bytes:
    """The one peer of the log whose id ends so. Raises ConfigError."""
    from talkoot.dht.identity import peer_id_of
    from talkoot.peer.receipts import keys_in

    if len(text) < MIN_ENDING:
        raise ConfigError(f"{text} is no PeerID, nor the last {MIN_ENDING} or more characters of one")
    found = sorted(key for key in keys_in(paths) if peer_id_of(key).endswith(text))
    if not found:
        raise ConfigError(f"no peer whose PeerID ends in {text} was in a round of this log")
    if len(found) > 1:
        raise ConfigError(f"{len(found)} peers end in {text}: give more of the PeerID")
    return found[0]


def _json(found: "Receipts") -> str:
    import msgspec

    return as_json(msgspec.to_builtins(found))


# -- leaderboard -------------------------------------------------------------------------------------


def board_values(board: "Board", book: "ReceiptBook", paths: "StateDir") -> dict[str, Any]:
    """The leaderboard as plain values: all rows, in order, with names where peers gave them."""
    from talkoot.peer.leaderboard import board_as_json
    from talkoot.peer.names import read_names

    return {
        "swarm": book.manifest.swarm.name,
        "swarm_id": book.manifest.swarm_id.hex(),
        "ok": book.ok,
        "checks": [
            {"name": check.name, "result": check.result, "words": check.words} for check in book.checks
        ],
    } | board_as_json(board, read_names(paths.names))


def board_text(values: dict[str, Any], checks: list["Check"], top: int) -> str:
    """The first rows, and what they are made of."""
    from talkoot.peer.model_card import plain

    headings = ("rank", "peer", "name", "credit", "tokens", "steps", "rounds", "last")
    rows = [
        (
            str(row["rank"]),
            row["peer_id"][-8:],
            row["public_name"] or "-",
            count(row["credit"]),
            count(row["tokens"]),
            count(row["steps"]),
            str(row["rounds"]),
            str(row["last_round"]),
        )
        for row in values["peers"][:top]
    ]
    span = f"rounds {values['first_round']} to {values['last_round']}" if values["rounds"] else "no rounds"
    more = len(values["peers"]) - len(rows)
    lines = [f"{plain(values['swarm'])} ({values['swarm_id'][:12]}), {span}"]
    lines += [table(headings, rows, left=("peer", "name"))] if rows else []
    lines += [f"and {more} more; --top shows them"] if more > 0 else []
    lines += ["", *_check_lines(checks)]
    lines.append(
        f"{'fingerprint':12} {values['fingerprint'][:16]}, the same wherever the same rounds are held"
    )
    return "\n".join(lines)
