"""Programs in places of the laboratory: relays and nodes, and what nodes find out about each other."""

import json
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nat_lab import Kind, Lab, Spot

from talkoot.cli.demo_node import TALKOOT, dying_with_us

START_S = 120.0
"""For a program to speak first, on a busy machine."""
ANSWER_S = 150.0
NODE = Path(__file__).with_name("nat_node.py")
RELAY_PORT = 4001
PEER_ID = re.compile("12D3Koo[1-9A-HJ-NP-Za-km-z]{45}")

Json = dict[str, Any]


class Program:
    """A process in a place, that reads lines and writes lines."""

    def __init__(self, spot: Spot, command: Sequence[str], log: Path) -> None:
        self.spot = spot
        self._log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [*dying_with_us(), *spot.prefix, *command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1,
            )  # fmt: skip

    def line(self, limit_s: float) -> str:
        """What it says next. Raises AssertionError when it says nothing in time."""
        output = self.process.stdout
        assert output is not None
        ready, _, _ = select.select([output], [], [], limit_s)
        said = output.readline() if ready else ""
        assert said, f"{self.spot.name} said nothing; {self._log}: {self._log.read_text()[-500:]}"
        return said

    def tell(self, request: Json) -> None:
        """Ask for something; `line` is the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")

    def ask(self, request: Json, limit_s: float = ANSWER_S) -> Json:
        """What it answers."""
        self.tell(request)
        answer: Json = json.loads(self.line(limit_s))
        return answer

    def close(self) -> None:
        """End it, politely at first. May be called again."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()


def places_of(spot: Spot, port: int, peer: str) -> list[str]:
    """Addresses of an open host."""
    return [f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}/p2p/{peer}" for host in spot.addresses]


def relay_in(spot: Spot, folder: Path) -> tuple[Program, list[str]]:
    """`talkoot relay` for anybody in an open place, and its addresses."""
    state = folder / f"{spot.name}.state"
    options = ("--any", "--port", str(RELAY_PORT), "--http", "none", "--state-dir", str(state))
    program = Program(spot, [*TALKOOT, "relay", *options], folder / f"{spot.name}.log")
    peer_id = None
    while peer_id is None:
        found = PEER_ID.search(program.line(START_S))
        peer_id = found and found[0]
    return program, places_of(spot, RELAY_PORT, peer_id)


class Nodes:
    """A laboratory with nodes in it; to be entered as a context."""

    def __init__(
        self,
        kinds: Mapping[str, Kind],
        folder: Path,
        *,
        relays: int = 1,
        observers: int = 3,
        strict: bool = False,
    ) -> None:
        """`observers`: open nodes besides; go-libp2p wants to be seen by four before it punches holes."""
        self._relay_names = [f"relay{index}" for index in range(relays)]
        self._observers = [f"observer{index}" for index in range(observers)]
        helpers = dict.fromkeys([*self._relay_names, *self._observers], Kind.OPEN)
        self.lab = Lab(helpers | dict(kinds), strict=strict)
        self.names = list(kinds)
        self.relays: list[str] = []
        """Their addresses."""
        self.bootstrap: list[str] = []
        """Addresses of the observers."""
        self._folder = folder
        self._stack = ExitStack()
        self.programs: dict[str, Program] = {}
        self.peer_ids: dict[str, str] = {}

    def __enter__(self) -> "Nodes":
        with self._stack as stack:
            stack.enter_context(self.lab)
            for name in self._relay_names:
                self._start_relay(name)
            self.start(self._observers, [])
            for name in self._observers:
                spot = self.lab[name]
                self.bootstrap += places_of(spot, spot.port, self.peer_ids[name])
            self.start(self.names, self.bootstrap)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start_relay(self, name: str) -> None:
        self.programs[name], addresses = relay_in(self.lab[name], self._folder)
        self._stack.callback(self.programs[name].close)
        self.relays += addresses

    def start(self, names: Sequence[str], bootstrap: Sequence[str], *, port_offset: int = 0) -> None:
        """Start nodes, all at once; those of before are ended."""
        for name in names:
            if name in self.programs:
                self.programs[name].close()
            settings = {
                "port": self.lab[name].port + port_offset, "nat_port_map": False,
                "relays": self.relays, "bootstrap": list(bootstrap),
            }  # fmt: skip
            self._program(name, [sys.executable, str(NODE), json.dumps(settings)])
        for name in names:
            self.peer_ids[name] = json.loads(self.programs[name].line(START_S))["peer"]

    def await_reservations(self, names: Sequence[str], limit_s: float) -> None:
        """Until each can be dialled through a relay. Raises AssertionError when one cannot in time."""
        deadline = time.monotonic() + limit_s
        for name in names:
            while not any("p2p-circuit" in place for place in self.addresses(name)):
                assert time.monotonic() < deadline, f"{name} has no reservation after {limit_s:.0f} s"
                time.sleep(0.1)

    def addresses(self, name: str) -> list[str]:
        """What a node announces."""
        found: list[str] = self.programs[name].ask({"do": "addresses"})["addresses"]
        return found

    def dial(self, one: str, other: str, *, pieces: int, settle_s: float) -> Json:
        """What `one` finds out about `other`."""
        return self.programs[one].ask({
            "do": "dial", "peer": self.peer_ids[other], "addresses": self.addresses(other),
            "pieces": pieces, "settle_s": settle_s,
        })  # fmt: skip

    def _program(self, name: str, command: Sequence[str]) -> Program:
        program = Program(self.lab[name], command, self._folder / f"{name}.log")
        self._stack.callback(program.close)
        self.programs[name] = program
        return program
