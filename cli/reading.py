"""`talkoot status`, `rounds` and `id`: what a running daemon, or its state directory, says."""

from typing import Annotated, Any

import typer

from talkoot.cli.limits_text import limits_text
from talkoot.cli.options import JsonOption, StateDirOption, state_path
from talkoot.cli.table import table
from talkoot.cli.words import as_json, count, duration, loss, size, state_words
from talkoot.dht.errors import ConfigError

BAR_WIDTH = 24
"""Characters of a progress bar."""

TRAINER_WORDS = {
    "loading": "loads the model and data meanwhile",
    "ready": "loaded, begins as soon as the state is here",
    "training": "at work, while the rounds since are replayed",
}
"""What the trainer does before the state is complete."""


def status(state_dir: StateDirOption = None, json: JsonOption = False) -> None:
    """Show what the daemon is doing and why."""
    from talkoot.cli.local_api import LocalApi

    answer = LocalApi(state_path(state_dir)).status()
    typer.echo(as_json(answer) if json else status_text(answer))


def rounds(
    number: Annotated[int, typer.Argument(metavar="[N]", min=1, help="How many, newest last.")] = 20,
    state_dir: StateDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show the last rounds: who was counted, who was left out and why, how long each phase took and might
    have taken.
    """
    from talkoot.cli.local_api import LocalApi

    records = LocalApi(state_path(state_dir)).rounds(number)
    typer.echo(as_json({"rounds": records}) if json else rounds_text(records))


PHASES = ("form", "exchange", "certify")
HEADINGS = (
    "round",
    "kind",
    "counted",
    "ours",
    "took",
    *PHASES,
    "sent",
    "error",
    "held out",
    "digest",
    "codec",
    "",
)
"""The last column is for what is not always there."""


def rounds_text(records: list[dict[str, Any]]) -> str:
    """A table, newest last; seconds of phases with what they might have been."""
    if not records:
        return "no rounds since this daemon started"
    left = ("kind", "ours", "digest", "codec", "")
    return table(HEADINGS, [_round_row(record) for record in records], left=left)


def _round_row(record: dict[str, Any]) -> tuple[str, ...]:
    seconds, error = record.get("seconds"), record.get("codec_error")
    return (
        str(record["round"]),
        record["kind"],
        str(len(record["counted"])),
        {True: "counted", False: "not counted", None: "-"}[record.get("own")],
        "-" if seconds is None else f"{seconds:.1f} s",
        *(_phase(record, name) for name in PHASES),
        size(record.get("bytes_sent") or 0),
        "-" if error is None else f"{100 * error:.2f} %",
        loss(record.get("eval_loss")),
        record["digest"][:12],
        _codec_words(record),
        _round_notes(record),
    )


def _phase(record: dict[str, Any], name: str) -> str:
    took = (record.get("phases") or {}).get(name)
    limit = (record.get("deadlines") or {}).get(name)
    return "-" if took is None else f"{took:.2f}" + (f"/{limit['seconds']:.1f}" if limit else "")


def _round_notes(record: dict[str, Any]) -> str:
    """How it was fetched, who was left out and why, and what went wrong before."""
    left_out = ", ".join(f"{item['peer_id'][-8:]} ({item['reason']})" for item in record.get("left_out", ()))
    failures = ", ".join(record.get("failures") or ())
    notes = [
        _fetched_words(record) if record.get("seconds") is None else "",
        f"left out: {left_out}" if left_out else "",
        f"attempt {record['attempt']}" if record["attempt"] else "",
        f"before: {failures}" if failures else "",
    ]
    return "; ".join(note for note in notes if note)


def _fetched_words(record: dict[str, Any]) -> str:
    """By which way, and what both would have cost."""
    how = record.get("catch_up")
    if not how:
        return "fetched"
    records = "?" if how["replay_bytes"] is None else size(how["replay_bytes"])
    count = f"{how['rounds']} round" + "s" * (how["rounds"] != 1)
    return (
        f"fetched {count} by {how['way']} (records {records}, snapshot {size(how['snapshot_bytes'])}, "
        f"{how['reason'].replace('_', ' ')})"
    )


def _codec_words(record: dict[str, Any]) -> str:
    """The codec of contributions, and that of aggregates where it is another."""
    codecs = (record.get("codec"), record.get("aggregate_codec"))
    return "/".join(dict.fromkeys(name for name in codecs if name)) or "-"


def show_id(state_dir: StateDirOption = None, json: JsonOption = False) -> None:
    """Show this peer's id, also while no daemon runs."""
    from talkoot.dht.identity import Identity
    from talkoot.peer.statedir import StateDir

    directory = StateDir(state_path(state_dir))
    if not directory.key_file.exists():
        raise ConfigError(f"{directory.path} has no key yet; talkoot run makes one")
    peer_id = Identity.load_or_create(directory.key_file).peer_id
    typer.echo(as_json({"peer_id": peer_id}) if json else peer_id)


def status_text(status: dict[str, Any]) -> str:
    """The status in a few aligned lines."""
    value = status.get
    rows = [
        ("peer", str(value("peer_id", "?"))),
        ("swarm", f"{value('swarm_name') or '?'} ({str(value('swarm_id', ''))[:12]})"),
        ("state", f"{state_words(status)}, up {duration(value('uptime_s') or 0)}"),
        ("round", _round_words(status)),
        ("rounds", f"{value('rounds_committed', 0)} committed, {value('rounds_aborted', 0)} given up here"),
        (
            "training",
            f"{count(value('steps_total') or 0)} steps, {count(value('tokens_total') or 0)} tokens, "
            + (
                f"{value('steps_per_second') or 0:.2f} steps/s on {value('device')}"
                if value("device")
                else "-"
            ),
        ),
        ("power", power_words(value("power"), value("power_measured"))),
        ("loss", f"{loss(value('loss'))} training, {loss(value('eval_loss'))} held out"),
        (
            "network",
            f"{size(value('bytes_sent') or 0)} up, {size(value('bytes_received') or 0)} down; state "
            f"{size(value('state_bytes_sent') or 0)} up, {size(value('state_bytes_received') or 0)} down",
        ),
        ("reach", reach_words(status)),
        ("api", f"http://127.0.0.1:{value('http_port', '?')}"),
    ]
    if value("audits"):
        rows.insert(-1, ("audits", _audit_words(value("audits") or {})))
    if value("revoked"):
        words = "this peer's invite was taken back, its work does not count: run --join with another"
        rows.insert(3, ("revoked", words))
    if value("proven"):
        rows.insert(3, ("proven", f"{value('proven')}: test this machine, then see docs/state.md, Proofs"))
    if value("newer_release"):
        words = (
            f"others run talkoot {value('newer_release')}, this is {value('version')}: update when it suits"
        )
        rows.insert(3, ("update", words))
    held = value("holds") or []
    if len(held) > 1:
        rows.insert(3, ("also", "; ".join(_hold_words(hold) for hold in held[1:])))
    if (after := value("finishing")) is not None:
        rows.insert(3, ("finishing", f"pauses once round {after - 1} is over"))
    if value("disk"):
        rows.insert(3, ("disk", f"{value('disk')}; goes on by itself when that is over"))
    sync = value("sync")
    if sync:
        rows.insert(3, ("sync", _sync_words(sync)))
    if value("state") == "syncing" and value("trainer") in TRAINER_WORDS:
        rows.insert(4 if sync else 3, ("trainer", TRAINER_WORDS[str(value("trainer"))]))
    lines = [f"{name:9} {words}" for name, words in rows]
    peers = value("peers") or []
    lines.append(f"{'peers':9} {len(peers)} known")
    lines += [_peer_table(peers)] if peers else []
    limits = limits_text(value("settings") or {})
    lines += ["", limits] if limits else []
    return "\n".join(lines)


def _hold_words(hold: dict[str, Any]) -> str:
    """A reason that is not the one which is shown."""
    return state_words({"state": str(hold.get("reason")).replace("_", " "), "detail": hold.get("detail")})


def power_words(power: float | None, measured: float | None) -> str:
    """The level that is set, and what was measured."""
    set_to = "?" if power is None else f"{100 * power:.0f} %"
    return f"{set_to} of the time" + ("" if measured is None else f", measured {100 * measured:.1f} %")


def reach_words(status: dict[str, Any]) -> str:
    """Whether others can dial this peer, how many relays it has, and what follows for its role."""
    words = {"public": "other peers can dial this one", "private": "nobody can dial this peer"}
    known = words.get(str(status.get("reachability")), "not known yet whether others can dial this peer")
    relays = len(status.get("relays") or ())
    through = f"; reachable through {relays} relay{'s' * (relays != 1)}" if relays else ""
    client = "; a client while some are reached through a relay only" if status.get("role_reason") else ""
    return known + through + client


def _audit_words(audits: dict[str, Any]) -> str:
    """The last verdict on another's contribution, and the time that verdicts took of what they may take."""
    last = audits.get("last")
    spent = f"{audits['spent_s']:.1f} of {audits['earned_s']:.1f} s spent"
    if last is None:
        return f"no verdict yet, {spent}"
    return f"{last['score']:+d} for {last['peer_id'][-8:]} in round {last['round']}, {spent}"


def _sync_words(sync: dict[str, Any]) -> str:
    """A bar, and what it stands for."""
    done, total = sync["done_bytes"], max(1, sync["total_bytes"])
    filled = int(BAR_WIDTH * done / total)
    left = sync.get("left_s")
    sources = len(sync.get("sources") or ())
    return (
        f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {size(done)} of {size(total)}, "
        f"{size(sync.get('bytes_per_second') or 0)}/s, "
        + ("" if left is None else f"{duration(left)} left, ")
        + f"{sources} source{'s' * (sources != 1)}"
    )


def _round_words(status: dict[str, Any]) -> str:
    number, frontier = status.get("round"), status.get("frontier")
    if number is None:
        return "no state of the swarm yet"
    others = "" if frontier is None else f" (swarm {frontier})"
    return f"{number}{others}, {status.get('certificate') or 'no'} certificate, codec {_codec_words(status)}"


def _peer_table(peers: list[dict[str, Any]]) -> str:
    rows = [
        (
            str(peer.get("peer_id", "?"))[-8:],
            peer.get("public_name") or "-",
            peer.get("role") or "?",
            str(peer.get("round", "?")),
            f"{peer.get('speed') or 0:.2f}",
            loss(peer.get("loss")),
            peer.get("state") or "?",
            "connected" if peer.get("connected") else "not connected",
            peer.get("path") or "unknown",
        )
        for peer in peers
    ]
    headings = ("  peer", "name", "role", "round", "steps/s", "loss", "state", "link", "path")
    rows = [(f"  {row[0]}", *row[1:]) for row in rows]
    return table(headings, rows, left=("  peer", "name", "role", "state", "link", "path"))
