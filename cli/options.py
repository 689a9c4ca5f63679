"""Options that several commands share."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from talkoot.dht.errors import ConfigError

StateDirOption = Annotated[
    Path | None,
    typer.Option("--state-dir", metavar="DIR", help="State directory of the peer (default: one per user)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class ExchangeMode(StrEnum):
    """How contributions are brought together in a round: `round.exchange` of the manifest."""

    dense = "dense"
    sparse = "sparse"


ExchangeOption = Annotated[ExchangeMode, typer.Option("--exchange", help="The rounds' exchange.")]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_duration(text: str) -> float:
    """A length of time such as `90s`, `30m`, `2h` or `1.5d` in seconds. Raises ConfigError."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhdw])", text.strip().lower())
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"{text} is no length of time; write 30m, 2h or 7d")
    return float(match[1]) * _SECONDS[match[2]]


def state_path(given: Path | None) -> Path:
    """The given state directory, or the user's default one."""
    from talkoot.peer.statedir import default_path

    return given if given is not None else default_path()


def parse_bytes(text: str) -> int:
    """A size such as `6GB`, `800M` or `1.5GiB` in bytes. Raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kmg]i?)?b?", text.strip().lower())
    if match is None:
        raise ConfigError(f"{text} is no size; write 6GB, 800MB or 1.5GiB")
    return int(float(match[1]) * _UNITS[match[2] or ""])
