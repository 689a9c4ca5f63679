"""The simulator's checkers notice what must not happen, and only that."""

import asyncio
import itertools

import msgspec
import pytest

from talkoot.averaging.messages import Vote
from talkoot.averaging.wire import encode
from talkoot.peer.simulation.checks import Safety
from talkoot.peer.simulation.virtual_time import DeadlockError, run_virtual

KEY, PRIOR = b"k" * 32, b"p" * 32
CONTROL = "talkoot/0/control/1"


def sign(safety: Safety, value: bytes) -> None:
    message = (b"swarm", 3, PRIOR, 0, "prepare", False, value)
    safety.signed(KEY, b"talkoot vote\0" + msgspec.msgpack.encode(message))


def send(safety: Safety, value: bytes) -> None:
    vote = Vote(round=3, attempt=0, value_hash=value, phase="prepare", voter=KEY, signature=bytes(64))
    safety.sent(KEY, CONTROL, encode(vote))


def test_two_votes_in_one_attempt_are_a_violation_once_both_are_sent() -> None:
    safety = Safety(lambda _what: None)
    one, other = b"1" * 32, b"2" * 32
    sign(safety, one)
    sign(safety, other)  # killed before it wrote the first one down
    send(safety, other)
    send(safety, other)
    assert not safety.violations
    send(safety, one)
    assert "prepares two values" in safety.violations[0]


def test_a_loop_that_never_waits_is_ended() -> None:
    async def spin() -> None:
        for _ in itertools.repeat(None):
            await asyncio.sleep(0)

    with pytest.raises(DeadlockError, match="stands still"):
        run_virtual(spin())
