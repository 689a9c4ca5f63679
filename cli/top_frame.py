"""What `talkoot top` draws: lines that fit a width and a height, made of what the local API says."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import set_cell_size
from rich.text import Text

from talkoot.cli.table import table
from talkoot.cli.text_plot import text_plot
from talkoot.cli.words import count, duration, loss, printable, size, state_words

MIN_WIDTH = 40
SNAPSHOT_HEIGHT = 60
"""Lines of a snapshot for a pipe; a terminal has its own number."""

PLOT_ROWS = 5
PLOT_MIN_HEIGHT = 22
"""A lower terminal shows no curve."""

STATE_STYLES = {
    "training": "green", "exchanging": "green", "observing": "green", "syncing": "yellow",
    "starting": "yellow", "paused": "yellow", "draining": "yellow", "failed": "bold red",
}  # fmt: skip

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class View:
    """One look at a node."""

    status: Json
    rounds: list[Json] = field(default_factory=list)
    """Newest last."""
    peers: list[Json] = field(default_factory=list)
    problem: str = ""
    """Why this is not of now."""


def frame(view: View, width: int, height: int, *, curve: bool = True) -> list[Text]:
    """Lines of at most `width` cells, at most `height` of them; what matters most comes first."""
    width = max(MIN_WIDTH, width)
    lines = _head(view)
    left = height - len(lines)
    plotted = _curve(view, width) if curve and height >= PLOT_MIN_HEIGHT else []
    left -= len(plotted)
    peers = _peers(view)
    rounds = _rounds(view)
    for_peers = min(len(peers), max(left // 2, left - len(rounds)))
    lines += plotted
    lines += _section(peers, for_peers, "peers")
    lines += _section(rounds, height - len(lines), "rounds")
    return [_fit(line, width) for line in lines[: max(1, height)]]


def _fit(line: Text, width: int) -> Text:
    """Cut off what does not fit; the style of the rest stays."""
    if line.cell_len <= width:
        return line
    short = line.copy()
    short.truncate(width, overflow="crop")
    return short


def _section(lines: list[Text], room: int, name: str) -> list[Text]:
    """As many lines as there is room for; the last says how many more there are."""
    if len(lines) <= room or room <= 0:
        return lines[: max(0, room)]
    shown = lines[: max(1, room - 1)]
    more = len(lines) - len(shown)
    return shown if room < 2 else [*shown, Text(f"  and {more} more; talkoot {name} shows all", "dim")]


# -- this node ---------------------------------------------------------------------------------------


def _head(view: View) -> list[Text]:
    status, value = view.status, view.status.get
    state = str(value("state") or "?")
    title = Text.assemble(
        (f"talkoot {printable(str(value('swarm_name') or '?'))}", "bold"),
        f" {str(value('swarm_id') or '')[:12]}  ",
        (state_words(status), STATE_STYLES.get(state, "")),
        f"  {_round(status)}  up {duration(value('uptime_s') or 0)}",
    )
    lines = [title]
    problem = view.problem or value("disk") or value("proven") or value("warning")
    if problem:
        lines.append(Text(printable(str(problem)), "bold yellow"))
    name = f" ({value('public_name')})" if value("public_name") else ""
    lines += [
        Text(f"node     {str(value('peer_id') or '?')[-8:]}{name}, {value('role') or '?'}, {_speed(status)}"),
        Text(f"loss     {loss(value('loss'))} training, {loss(value('eval_loss'))} held out{_share(status)}"),
        Text(f"rounds   {_round_counts(view)}"),
        Text(f"network  {_network(status)}"),
    ]
    if value("sync"):
        sync = value("sync") or {}
        lines.append(
            Text(f"sync     {size(sync.get('done_bytes') or 0)} of {size(sync.get('total_bytes') or 0)}")
        )
    return lines


def _round(status: Json) -> str:
    number, frontier = status.get("round"), status.get("frontier")
    if number is None:
        return "no state yet"
    return f"round {number}" + (f" (swarm {frontier})" if frontier not in (None, number) else "")


def _speed(status: Json) -> str:
    words = [
        f"{status.get('steps_per_second') or 0:.2f} steps/s on {status.get('device') or '-'}",
        f"{count(status.get('steps_total') or 0)} steps",
        f"{count(status.get('tokens_total') or 0)} tokens",
    ]
    return ", ".join(words)


def _share(status: Json) -> str:
    share = status.get("inner_share")
    return "" if share is None else f"; {100 * share:.0f} % of the time in steps"


def _round_counts(view: View) -> str:
    own = [record.get("own") for record in view.rounds]
    committed, aborted = (view.status.get(f"rounds_{name}") or 0 for name in ("committed", "aborted"))
    return (
        f"{committed} committed, {aborted} given up; ours counted in {own.count(True)} of the last {len(own)}"
    )


def _network(status: Json) -> str:
    value = status.get
    return (
        f"{size(value('bytes_sent') or 0)} up, {size(value('bytes_received') or 0)} down; state "
        f"{size(value('state_bytes_sent') or 0)} up, {size(value('state_bytes_received') or 0)} down; "
        f"memory {size((value('memory_bytes') or 0) + (value('trainer_memory_bytes') or 0))}"
    )


# -- the swarm ---------------------------------------------------------------------------------------


def _curve(view: View, width: int) -> list[Text]:
    """Loss by round: held out where it was measured, else of training."""
    for name, title in (("eval_loss", "held-out loss by round"), ("loss", "training loss by round")):
        points = [
            (float(record["round"]), float(record[name]))
            for record in view.rounds
            if isinstance(record.get(name), int | float)
        ]
        if len(points) > 1:
            drawn = text_plot([(title, points, True)], width=width - 11, height=PLOT_ROWS).splitlines()
            return [Text(f"{title}, now {points[-1][1]:.3f}", "bold"), *map(Text, drawn[:-1])]
    return []


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str]) -> list[Text]:
    if not rows:
        return []
    drawn = table(headings, rows, left=left).splitlines()
    return [Text(drawn[0], "bold"), *map(Text, drawn[1:])]


def _rounds(view: View) -> list[Text]:
    """Newest first."""
    own = {True: "counted", False: "not counted", None: "-"}
    rows = [
        (
            str(record.get("round")),
            str(record.get("kind")),
            str(len(record.get("counted") or ())),
            own[record.get("own")],
            "-" if record.get("seconds") is None else f"{record['seconds']:.1f} s",
            loss(record.get("eval_loss")),
            str(record.get("digest"))[:8],
            ", ".join(f"{item['peer_id'][-8:]} ({item['reason']})" for item in record.get("left_out") or ())
            or "-",
        )
        for record in reversed(view.rounds)
    ]
    headings = ("round", "kind", "counted", "ours", "took", "held out", "digest", "left out")
    return _table(headings, rows, ("kind", "ours", "digest", "left out"))


def _peers(view: View) -> list[Text]:
    speeds = {peer.get("peer_id"): peer for peer in view.status.get("peers") or ()}
    rows = []
    for entry in sorted(view.peers, key=lambda entry: (not entry.get("connected"), str(entry["peer_id"]))):
        seen = speeds.get(entry["peer_id"]) or {}
        score, number = entry.get("score"), entry.get("round")
        rows.append(
            (
                str(entry["peer_id"])[-8:],
                set_cell_size(entry.get("public_name") or "-", 16).rstrip(),
                printable(str(entry.get("state") or "?")),
                "yes" if entry.get("connected") else "no",
                str(entry.get("path") or "unknown"),
                "-" if number is None else str(number),
                f"{seen['speed']:.2f}" if "speed" in seen else "-",
                loss(seen.get("loss")),
                "-" if score is None else f"{score:.1f}",
            )
        )
    headings = ("peer", "name", "state", "connected", "path", "round", "steps/s", "loss", "score")
    return _table(headings, rows, ("peer", "name", "state", "connected", "path"))
