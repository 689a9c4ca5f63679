"""What `benchmarks/download.py` runs in: a state on the disk, processes around it, cables between them."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from talkoot.averaging.certificate import genesis
from talkoot.cli.demo_chaos_network import Cables, run_tool
from talkoot.cli.demo_node import dying_with_us
from talkoot.dht.identity import Identity
from talkoot.peer import presets
from talkoot.peer.founding import first_ledger
from talkoot.peer.hashing import hash_state
from talkoot.peer.holdings import open_holdings
from talkoot.peer.rules_of import founder_keys, rules_of
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore

Json = dict[str, Any]

FOUNDER = Identity.from_seed(b"d" * 32)
PROGRAM = Path(__file__).with_name("download_peer.py")

SHAPE = ("burst", "256kb", "latency", "50ms")
"""Of the token bucket on the newcomer's link."""

ANSWER_LIMIT_S = 300.0
"""Longest wait for a line of a process."""


def make_state(path: Path, numel: int) -> bytes:
    """A founded swarm with one founder; returns the digest of its state."""
    draft = presets.make("numpy-test", name="download")
    manifest = replace(
        draft,
        swarm=replace(draft.swarm, founders=(FOUNDER.peer_id,)),
        model=replace(draft.model, layout="00" * 32, numel=numel),
        state=replace(draft.state, snapshot_rounds=0),
    )
    paths = StateDir(path)
    paths.prepare()
    paths.save_manifest(manifest.canonical())
    ledger = first_ledger(manifest, founder_keys(manifest))
    theta = torch.randn(numel, generator=torch.Generator().manual_seed(1))
    digest = hash_state(theta, torch.zeros(numel), ledger.encode()).digest
    start = genesis(manifest.swarm_id, digest, ledger.voters, FOUNDER)
    OuterStore.create(paths.outer, numel, theta, ledger=ledger.encode(), certificate=start.encode())
    open_holdings(paths, rules_of(manifest), manifest.state).close()
    return digest


@dataclass(frozen=True, slots=True)
class Desk:
    """Where a process runs."""

    prefix: tuple[str, ...] = ()
    """What stands before its command."""
    listen: str = ""
    """Its address; empty: loopback."""


@contextmanager
def desks(count: int, mbit: float) -> Iterator[list[Desk]]:
    """A namespace for each process, the first one's link shaped; loopback for all where `mbit` is 0."""
    if not mbit:
        yield [Desk()] * count
        return
    with Cables(count) as cables:
        hub = cables.names[0].rpartition("-")[0] + "-hub"
        rate = ("rate", f"{mbit:g}mbit", *SHAPE)
        run_tool("tc", "-n", hub, "qdisc", "replace", "dev", "peer0", "root", "tbf", *rate)
        yield [
            Desk(("ip", "netns", "exec", name), cables.address(index))
            for index, name in enumerate(cables.names)
        ]


class Process:
    """A source or a newcomer, in a session of its own; never outlives us."""

    def __init__(self, what: str, folder: Path, desk: Desk) -> None:
        command = [*dying_with_us(), *desk.prefix, sys.executable, str(PROGRAM), what, str(folder)]
        self._process = subprocess.Popen(
            [*command, desk.listen],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[Json | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._p2pd: int | None = None
        self.contact: list[str] = []
        """Key and address, once it was heard."""

    def meet(self) -> None:
        """Wait until it is there."""
        told = self.hear()
        self._p2pd = told["p2pd"]
        self.contact = [told["key"], told["addresses"][0]]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            self._lines.put(json.loads(text))
        self._lines.put(None)

    @property
    def has_told(self) -> bool:
        """Whether `hear` would not wait."""
        return not self._lines.empty()

    def hear(self) -> Json:
        """Its next line. Raises SystemExit when none comes."""
        try:
            told = self._lines.get(timeout=ANSWER_LIMIT_S)
        except queue.Empty:
            raise SystemExit(f"a process said nothing in {ANSWER_LIMIT_S:.0f} s") from None
        if told is None:
            raise SystemExit(f"a process ended by itself, exit code {self._process.wait()}")
        return told

    def say(self, order: Json) -> None:
        """One order."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals, *, with_p2pd: bool = True) -> None:
        """To the process, and to its p2pd, which has a session of its own."""
        for group in (self._process.pid, self._p2pd if with_p2pd else None):
            if group is not None:
                with suppress(ProcessLookupError):
                    os.killpg(group, number)

    def end(self) -> None:
        """Kill it and wait."""
        self.signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()


@dataclass
class Rig:
    """Sources of one state, and a newcomer's place."""

    folder: Path
    numel: int
    desks: Sequence[Desk]
    sources: list[Process]

    def start(self, what: str, number: int) -> Process:
        """The newcomer (number 0) or a source."""
        return Process(what, self.folder / "source", self.desks[number])


@contextmanager
def rig(folder: Path, numel: int, count: int, mbit: float) -> Iterator[Rig]:
    """`count` sources that serve one directory, so the disk holds the state once. Ends all at the end."""
    with ExitStack() as stack:
        made = Rig(folder, numel, stack.enter_context(desks(count + 1, mbit)), [])
        stack.callback(lambda: [source.end() for source in made.sources])
        for number in range(1, count + 1):
            made.sources.append(made.start("serve", number))
        for source in made.sources:
            source.meet()
        yield made


@contextmanager
def newcomer(rig: Rig) -> Iterator[Process]:
    """One that is there and has asked for nothing."""
    process = rig.start("join", 0)
    try:
        process.meet()
        yield process
    finally:
        process.end()
