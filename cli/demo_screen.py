"""The demo on the screen: a live table on a terminal, a few plain lines every ten seconds elsewhere."""

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from talkoot.cli.demo_node import DemoNode
from talkoot.cli.demo_watch import PeerRecord, Watch
from talkoot.cli.words import count, loss, size
from talkoot.cli.words import state_words as words_of

PLAIN_EVERY_S = 10.0
HEADINGS = ("peer", "state", "round", "steps/s", "tokens", "loss", "held out", "up", "down")


class Screen(AbstractContextManager["Screen"]):
    """Shows the peers while the demo runs; `say` prints a line that stays."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stdout)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._plain_at = -PLAIN_EVERY_S

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """Print a line above the table."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(self, headline: str, nodes: Sequence[DemoNode], watch: Watch) -> None:
        """Draw the present state; on a plain output only every `PLAIN_EVERY_S` seconds."""
        if self._live is not None:
            self._live.update(Group(Text(headline, style="bold"), _table(nodes, watch)), refresh=True)
        elif time.monotonic() - self._plain_at >= PLAIN_EVERY_S:
            self._plain_at = time.monotonic()
            self.say(headline)
            for node, record in zip(nodes, watch.peers, strict=True):
                self.say(
                    "  " + "  ".join(f"{h} {c}" for h, c in zip(HEADINGS, row(node, record), strict=True))
                )


def row(node: DemoNode, record: PeerRecord) -> list[str]:
    """One peer's cells, as in `HEADINGS`."""
    last = record.last
    return [
        node.name,
        state_words(node),
        str(last.get("round", "-")),
        f"{last.get('steps_per_second') or 0:.1f}",
        count(record.total("tokens_total")),
        loss(last.get("loss")),
        loss(last.get("eval_loss")),
        size(record.total("bytes_sent")),
        size(record.total("bytes_received")),
    ]


def state_words(node: DemoNode) -> str:
    """What the peer does, and why if it says so."""
    if node.status is None:
        return "starting" if node.running else "down"
    return words_of(node.status)


def _table(nodes: Sequence[DemoNode], watch: Watch) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("peer", "state") else "right", no_wrap=True)
    for node, record in zip(nodes, watch.peers, strict=True):
        table.add_row(*row(node, record))
    return table
