"""Puts one bad message into the middle of an honest round, and sees that nothing comes of it."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import msgspec
from averaging_help import prepared
from blake3 import blake3
from round_swarm import Node, Swarm, ToySigner

from talkoot.averaging import outputs
from talkoot.averaging.attempt import Attempt
from talkoot.averaging.certificate import Prepared, Value
from talkoot.averaging.context import Context
from talkoot.averaging.exchange import Exchange
from talkoot.averaging.leader import Leader
from talkoot.averaging.messages import BulkHeader, Join, Message, Roster, sign

NUMEL = 3 * 2**10 - 100
CHUNK = 2**10

STRANGER = ToySigner(99)


def fingerprint(item: Any) -> Any:
    """Everything that a state machine remembers, as plain values that can be compared."""
    if isinstance(item, Context):
        return None
    if isinstance(item, memoryview | bytearray):
        return blake3(item).digest()
    if isinstance(item, dict):
        return [(fingerprint(key), fingerprint(value)) for key, value in item.items()]
    if isinstance(item, set | frozenset):
        return sorted(item)
    if isinstance(item, list | tuple):
        return [fingerprint(value) for value in item]
    if isinstance(item, msgspec.Struct):
        return msgspec.msgpack.encode(item)
    if is_dataclass(item):
        return [(field.name, fingerprint(getattr(item, field.name))) for field in fields(item)]
    if type(item).__module__.startswith("talkoot.averaging") and hasattr(item, "__dict__"):
        return [(name, fingerprint(value)) for name, value in vars(item).items()]
    return item


@dataclass
class Scene:
    """An honest swarm of four voters, stopped at a point of its round."""

    swarm: Swarm
    order: list[bytes]
    """Voters in the order in which they lead; the first leads now."""
    victim: Node
    """Who gets the bad message."""

    @property
    def leader(self) -> Node:
        return self.swarm.nodes[self.order[0]]

    @property
    def villain(self) -> Node:
        """A voter that neither leads nor is the victim."""
        return next(
            self.swarm.nodes[key] for key in self.order[1:] if self.swarm.nodes[key] is not self.victim
        )

    @property
    def here(self) -> dict[str, Any]:
        return {"round": self.victim.ledger.round, "attempt": self.victim.machine.attempt}

    @property
    def attempt(self) -> Attempt:
        running = self.victim.machine._running
        assert running is not None
        return running

    @property
    def roster(self) -> Roster:
        assert self.attempt.roster is not None
        return self.attempt.roster

    @property
    def exchange(self) -> Exchange:
        assert isinstance(self.attempt._exchange, Exchange)
        return self.attempt._exchange

    @property
    def leading(self) -> Leader:
        """The leader's part, where the victim leads."""
        assert self.attempt._leader is not None
        return self.attempt._leader

    def join_of(self, node: Node, **changes: Any) -> Join:
        """A join as that node would sign it."""
        local = node.machine.local
        values: dict[str, Any] = {
            "key": node.key, "prior": node.digest, "role": "full", "upload": 0.0,
            "contribution": local.header if local is not None else None, "lock": None,
            "holds": (), "expects_s": (0.0,) * 3, "memory": "whole",
        }  # fmt: skip
        return sign(Join(**(self.here | values | changes)), node.signer)

    def receive(self, sender: bytes, message: Message) -> list[outputs.Output]:
        return self.victim.machine.receive(sender, message, self.swarm.now)

    def receive_bulk(self, sender: bytes, header: BulkHeader, payload: bytes) -> list[outputs.Output]:
        return self.victim.machine.receive_bulk(sender, header, payload, self.swarm.now)

    def slice_header(self, kind: Any, owner: bytes, chunk: int) -> BulkHeader:
        return BulkHeader(kind, self.here["round"], self.here["attempt"], owner, chunk)

    def refuses(self, bad: Callable[[], list[outputs.Output]], sender: bytes) -> str:
        """Do it; it must be refused without any change. Returns the reason."""
        before = fingerprint(self.victim.machine)
        outs = bad()
        assert len(outs) == 1, outs
        assert isinstance(outs[0], outputs.Refused), outs
        assert outs[0].sender == sender
        assert fingerprint(self.victim.machine) == before
        return outs[0].reason

    def finish(self, *, attempts: int = 0) -> None:
        """Let the round end: everyone commits the same, after so many failed attempts."""
        self.swarm.run(self.swarm.now + 60.0)
        nodes = self.swarm.nodes.values()
        assert all(len(node.commits) == 1 for node in nodes)
        assert len({node.commits[0].value.digest for node in nodes}) == 1
        assert {node.commits[0].kind for node in nodes} == {"final"}
        assert {len(node.commits[0].value.cut) for node in nodes} == {4}
        assert {node.commits[0].attempt for node in nodes} == {attempts}


def scene(
    *, victim: int, until: Callable[[Scene], bool], clients: int = 0, slow_leader: bool = False
) -> Scene:
    """Run four voters (and clients of the exchange, last in order) until something is so.

    `victim` is its place in the order of leaders: 0 leads.
    """
    swarm = Swarm(4, numel=NUMEL, chunk_size=CHUNK)
    order = leaders(swarm)
    for key in order[4 - clients :]:
        swarm.nodes[key].role = "client"
    if slow_leader:
        swarm.slow_jobs[order[0]] = 0.1
    swarm.start_round()
    swarm.close()
    made = Scene(swarm, order, swarm.nodes[order[victim]])
    swarm.run_until(lambda: until(made))
    return made


def leaders(swarm: Swarm) -> list[bytes]:
    swarm.start_round()
    return next(iter(swarm.nodes.values())).machine.context.order


def formed(made: Scene) -> bool:
    """Everyone has encoded, nobody has a roster."""
    return all(node.machine.local is not None for node in made.swarm.nodes.values())


def exchanging(made: Scene) -> bool:
    """The victim has just got the roster, and no slice yet."""
    return made.victim.machine.phase == "exchanging"


def staged(made: Scene) -> bool:
    """The victim holds its result, and nothing was proposed to it."""
    return made.victim.machine._staged.value is not None and made.victim.journal is None


def proposed(made: Scene) -> bool:
    """The victim leads and counts votes."""
    return made.victim.machine.phase == "certifying" and made.leading.value is not None


StructT = TypeVar("StructT", bound=msgspec.Struct)

Attack = Callable[[Scene], tuple[bytes, Message]]
"""Who sends what."""


def replace(item: StructT, **changes: Any) -> StructT:
    return msgspec.structs.replace(item, **changes)


def run(made: Scene, attack: Attack, reason: str, *, attempts: int = 0) -> None:
    sender, message = attack(made)
    assert made.refuses(lambda: made.receive(sender, message), sender) == reason
    made.finish(attempts=attempts)


def from_leader(message: Callable[[Scene], Message]) -> Attack:
    return lambda made: (made.leader.key, message(made))


def from_villain(message: Callable[[Scene], Message]) -> Attack:
    return lambda made: (made.villain.key, message(made))


def votes_of(made: Scene, count: int) -> list[Any]:
    return [made.swarm.nodes[key].signer for key in made.order[:count]]


def some_value(made: Scene, present: tuple[bytes, ...] | None = None) -> Value:
    context = made.victim.machine.context
    return Value(
        swarm=context.rules.swarm,
        round=0,
        prior=context.prior,
        cut=(),
        present=present or context.ledger.voters,
        parts=(),
        digest=b"d" * 32,
        voters=context.ledger.voters,
    )


def weak_lock(made: Scene) -> Prepared:
    """What one voter can make alone: it was the only one present, so it says."""
    value = some_value(made, (made.villain.key,))
    return prepared(value, [made.villain.signer], attempt=10**5, weak=True)
