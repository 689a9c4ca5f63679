"""`talkoot me`: what this node did so far, and what that cost. Read from its state directory only."""

import time
from typing import TYPE_CHECKING, Any

import typer

from talkoot.cli.options import JsonOption, StateDirOption, state_path
from talkoot.cli.table import table
from talkoot.cli.words import as_json, count, duration, size

if TYPE_CHECKING:
    from talkoot.peer.guest.deeds import Deeds

JOULES_PER_KWH = 3.6e6


def me(
    state_dir: StateDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show what this node did so far: steps, rounds, energy, bytes. Nobody else is told."""
    from talkoot.dht.errors import ConfigError
    from talkoot.peer.guest.bookkeeping import load
    from talkoot.peer.statedir import StateDir

    paths = StateDir(state_path(state_dir))
    deeds = load(paths)
    if deeds is None:
        raise ConfigError(f"{paths.path} has nothing to tell yet: talkoot run begins to count")
    answer = summary(deeds)
    typer.echo(as_json(answer) if json else summary_text(answer))


def summary(deeds: "Deeds") -> dict[str, Any]:
    """What is printed, as plain values; null is what is not known."""
    month = time.strftime("%Y-%m")
    return {
        "since_s": deeds.since_s,
        "saved_s": deeds.saved_s,
        "steps": deeds.steps,
        "tokens": deeds.tokens,
        "worked_s": round(deeds.worked_s, 1),
        "rounds_counted": deeds.counted,
        "rounds_not_counted": dict(sorted(deeds.not_counted.items())),
        "joules": deeds.energy,
        "measured_s": round(deeds.measured_s, 1),
        "cost": deeds.cost,
        "currency": deeds.currency,
        "month": month,
        "bytes_by_month": {
            name: {"sent": each.sent, "received": each.received}
            for name, each in sorted(deeds.months.items())
        },
        "last_rounds": [
            {"round": each.round, "at_s": each.at_s, "outcome": each.outcome, "seconds": each.seconds}
            for each in deeds.last_rounds
        ],
    }


def summary_text(answer: dict[str, Any]) -> str:
    """A few lines, and the last rounds as a table."""
    rows = (
        ("since", f"{_date(answer['since_s'])}, as of {_date(answer['saved_s'])}"),
        (
            "training",
            f"{count(answer['steps'])} steps, {count(answer['tokens'])} tokens in "
            f"{duration(answer['worked_s'])} of work",
        ),
        ("rounds", _rounds_words(answer)),
        ("energy", _energy_words(answer)),
        ("network", _month_words(answer)),
    )
    lines = [f"{name:9} {words}" for name, words in rows]
    if answer["last_rounds"]:
        lines.append(_last_rounds(answer["last_rounds"]))
    return "\n".join(lines)


def _rounds_words(answer: dict[str, Any]) -> str:
    others = answer["rounds_not_counted"]
    words = f"{answer['rounds_counted']} counted, {sum(others.values())} not"
    return words + (f" ({', '.join(f'{number} {why}' for why, number in others.items())})" if others else "")


def _energy_words(answer: dict[str, Any]) -> str:
    joules = answer["joules"]
    if joules is None:
        return "not known: nothing on this machine measures it for this user"
    words = f"{joules / JOULES_PER_KWH:.3f} kWh of the device"
    if answer["measured_s"] < 0.99 * answer["worked_s"]:
        words += f", measured for {duration(answer['measured_s'])} of it"
    if answer["cost"] is not None:
        words += f", {answer['cost']:.2f} {answer['currency']}".rstrip()
    return words


def _month_words(answer: dict[str, Any]) -> str:
    months = answer["bytes_by_month"]
    this = months.get(answer["month"], {"sent": 0, "received": 0})
    words = f"{size(this['sent'])} up, {size(this['received'])} down this month"
    before = {name: each for name, each in months.items() if name != answer["month"]}
    sums = [
        f"{name}: {size(each['sent'])} up, {size(each['received'])} down" for name, each in before.items()
    ]
    return "; ".join([words, *sums[-3:]])


def _last_rounds(rounds: list[dict[str, Any]]) -> str:
    rows = [
        (
            str(each["round"]),
            _date(each["at_s"]),
            each["outcome"],
            "-" if each["seconds"] is None else f"{each['seconds']:.1f} s",
        )
        for each in rounds
    ]
    return table(("round", "when", "ours", "took"), rows, left=("when", "ours"))


def _date(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s)) if unix_s else "-"
