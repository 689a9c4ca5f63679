"""One peer of `benchmarks/round_faults.py`: that of `talkoot bench round`, but it tells what happens at once.

Reads lines of JSON: `{"peers": [...]}` (whom to connect to, again whenever one of them was replaced) and
`{"round": number, "withhold": [key, ...]}` (run this round; its aggregate is not sent to these peers).
"""

import os
import sys
import time
from typing import Any

import torch
import uvloop

from talkoot.averaging.certificate import Certificate
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.outputs import AttemptOver, GaveUp, Output
from talkoot.averaging.round import Round
from talkoot.averaging.wire import decode_bulk_header
from talkoot.dht.config import NetworkConfig
from talkoot.dht.host import P2PNetwork
from talkoot.dht.network import Buffer
from talkoot.peer.bench_round_worker import Bench, begin_round, line, link_up, meet, say, serving
from talkoot.peer.links import Links
from talkoot.peer.runner import Runner


def tell(event: str, **details: Any) -> None:
    """One line about something that happened now, on the clock that all processes of the machine share."""
    say({"event": event, "at": time.monotonic(), **details})


class TellingRound(Round):
    """Says whose part it has decoded."""

    def decoded(self, attempt: int, reducer: bytes, now: float) -> list[Output]:
        tell("decoded", round=self.context.ledger.round, reducer=reducer.hex())
        return super().decoded(attempt, reducer, now)


class TellingRunner(Runner):
    """Says in which phase its round is."""

    _told: tuple[int, str] | None = None

    def feed(self, machine: Round, outs: list[Output]) -> None:
        super().feed(machine, outs)
        now = (machine.context.ledger.round, machine.phase)
        if machine is self.round and now != self._told:
            self._told = now
            tell("phase", round=now[0], phase=now[1])


class TellingBench(Bench):
    """Says what it committed, or that a round was committed without it."""

    make_round = TellingRound

    async def commit(self, certificate: Certificate, ledger: Ledger) -> None:
        await super().commit(certificate, ledger)
        told = self.times | {"round": certificate.value.round, "digest": self.digest}
        tell("committed", **told, attempts=self.attempts, counted=len(certificate.value.cut))

    async def need_state(self, certificate: Certificate) -> None:
        value = certificate.value
        tell("missed", round=value.round, digest=value.digest.hex(), counted=len(value.cut))

    def note(self, output: Output) -> None:
        super().note(output)
        if isinstance(output, AttemptOver | GaveUp):
            tell("over", reason=output.reason)


class SelectiveLinks(Links):
    """Keeps its own aggregate from some peers."""

    withheld: frozenset[bytes] = frozenset()

    def send_bulk(self, peer: bytes, header: bytes, payload: Buffer) -> None:
        if peer in self.withheld and decode_bulk_header(header).kind in ("statement", "aggregate"):
            return
        super().send_bulk(peer, header, payload)


async def work(bench: TellingBench) -> None:
    """Serve until the end of standard input."""
    network = P2PNetwork(bench.identity, NetworkConfig.test(), swarm=bench.rules.swarm)
    runner = TellingRunner()

    def changed(count: int) -> None:
        tell("links", count=count)

    links = link_up(network, bench, runner, changed, SelectiveLinks)
    async with serving(network, links, runner):
        tell("ready", key=bench.identity.key.hex(), addresses=network.addresses, p2pd=network.p2pd_pid)
        while (order := await line()) is not None:
            if "peers" in order:
                await meet(network, order["peers"])
                links.keep(frozenset(bench.voters))
            else:
                links.withheld = frozenset(map(bytes.fromhex, order["withhold"]))
                begin_round(bench, runner, order["round"])


def main() -> None:
    """Arguments: number of this peer, peers, numel, codec."""
    number, peers, numel = map(int, sys.argv[1:4])
    torch.set_num_threads(1)
    uvloop.run(work(TellingBench(number, peers, numel, sys.argv[4])))
    os._exit(0)  # threads of a round that nobody waits for


if __name__ == "__main__":
    main()
