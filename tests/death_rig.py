"""Kills one of four peers at every boundary between two messages of a round."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from round_swarm import Swarm, toy_verify

from talkoot.averaging import outputs
from talkoot.averaging.certificate import check_certificate
from talkoot.averaging.messages import BulkHeader, Call, Committed, Join, Message

NUMEL, CHUNK = 5 * 2**10 - 100, 2**10
"""Five chunks: each of four reducers has one at least."""

ROLES = ("leader", "second", "third", "last")
"""Victims by their turn to lead; a last chunk makes one reducer's part larger."""


class WatchedSwarm(Swarm):
    """Remembers who got a chunk of whose aggregate."""

    def __init__(self, seed: int, clients: int) -> None:
        super().__init__(4, numel=NUMEL, chunk_size=CHUNK, seed=seed)
        self.aggregates: set[tuple[bytes, bytes]] = set()
        self.start_round()
        self.order = next(iter(self.nodes.values())).machine.context.order
        for key in self.order[4 - clients :]:
            self.nodes[key].role = "client"
        self.start_round()

    def _receive(self, to: bytes, sender: bytes, message: Message) -> None:
        node = self.nodes[to]
        if node.commits and isinstance(message, Call | Join):  # as a node does: `Swarming.answer_stale`
            last = node.commits[-1]
            answer = Committed(round=last.value.round, attempt=last.attempt, certificate=last)
            self.perform(node, [outputs.Send(sender, answer)])
        else:
            super()._receive(to, sender, message)

    def _bulk(self, to: bytes, sender: bytes, header: BulkHeader, payload: bytes) -> None:
        if header.kind == "aggregate":
            self.aggregates.add((sender, to))
        super()._bulk(to, sender, header, payload)


@dataclass(frozen=True, slots=True)
class Death:
    """What came of one death."""

    boundary: int
    """Messages and frames that had arrived before."""
    partial: bool
    """Whether the victim's aggregate had reached some survivors, but not all."""
    agreed: bool
    """Every survivor holds the same certified round, or knows its certificate and fetches the state."""
    fetching: int
    """Survivors that fetch the state."""
    attempts_lost: int
    """At most, by one survivor."""


def num_boundaries(seed: int, clients: int) -> int:
    """Messages and frames that arrive in a round without deaths."""
    swarm = WatchedSwarm(seed, clients)
    swarm.close()
    swarm.run(30.0)
    return swarm.delivered


def deaths(victim: int, *, seed: int = 0, clients: int = 0) -> Iterator[Death]:
    """Kill the `victim` (its place among the leaders) at each boundary in turn; `clients` do not reduce."""
    for boundary in range(1, num_boundaries(seed, clients) + 1):
        yield _death(victim, boundary, seed, clients)


def _death(victim: int, boundary: int, seed: int, clients: int) -> Death:
    swarm = WatchedSwarm(seed, clients)
    key = swarm.order[victim]
    reached: set[bytes] = set()

    def kill(count: int) -> None:
        if count == boundary:
            reached.update(to for sender, to in swarm.aggregates if sender == key)
            swarm.kill(key)

    swarm.on_delivery = kill
    swarm.close()
    swarm.run(60.0)
    living = [node for node in swarm.nodes.values() if node.alive]
    finished = [node for node in living if node.commits]
    digests = {node.commits[-1].value.digest for node in finished}
    needed = [_needed(node) for node in living if not node.commits]
    known = all(certificate is not None and certificate.value.digest in digests for certificate in needed)
    for node in finished:
        check_certificate(node.commits[-1], node.machine.context.ledger.voters, toy_verify)
    lost = [sum(isinstance(note, outputs.AttemptOver) for note in node.notes) for node in living]
    return Death(
        boundary=boundary,
        partial=0 < len(reached) < len(living),
        agreed=len(digests) == 1 and known,
        fetching=len(needed),
        attempts_lost=max(lost),
    )


def _needed(node: Any) -> Any:
    found = [note.certificate for note in node.notes if isinstance(note, outputs.NeedState)]
    return found[-1] if found else None
