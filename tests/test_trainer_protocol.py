"""Messages between daemon and trainer: both directions, bounds, torn frames, the end of the daemon."""

import socket
from pathlib import Path

import pytest

from talkoot.peer.trainer import protocol
from talkoot.peer.trainer.link import DaemonGone, Link
from talkoot.peer.trainer.protocol import AdoptRequest, Setup, SnapshotRequest, StopRequest, TrainerSpec


def _body(message: protocol.Command | protocol.Answer) -> bytes:
    return protocol.encode(message)[protocol.PREFIX.size :]


def test_messages_come_back_equal() -> None:
    adopt = AdoptRequest(number=1, outer="/x", round=2, digest="ab", global_step=3, mode="rebase")
    assert protocol.decode_command(_body(adopt)) == adopt
    ready = protocol.Ready(
        device="cpu", micro_batch=4, corpus_hash=b"c" * 32, train_tokens=1, held_out_tokens=2
    )
    assert protocol.decode_answer(_body(ready)) == ready


def test_spec_travels_as_setup() -> None:
    spec = TrainerSpec(
        manifest_path=Path("/m"),
        state_dir=Path("/s"),
        peer=b"k" * 32,
        base_dir=Path("/b"),
        nice=3,
        power=0.5,
        headroom_bytes=7,
        share_gpu=True,
    )
    assert Setup.of(spec).spec() == spec


@pytest.mark.parametrize(
    "change",
    [
        {"peer": b"short"},
        {"nice": 20},
        {"threads": -1},
        {"memory_limit_bytes": -1},
        {"power": 0.0},
        {"power": 1.1},
        {"power": float("nan")},
        {"headroom_bytes": -1},
    ],
)
def test_spec_names_its_bounds(change: dict[str, object]) -> None:
    fields: dict[str, object] = {"manifest_path": Path("/m"), "state_dir": Path("/s"), "peer": b"k" * 32}
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainerSpec(**(fields | change))  # type: ignore[arg-type]


def test_a_message_above_the_bound_is_neither_sent_nor_read() -> None:
    with pytest.raises(ValueError, match="at most"):
        protocol.encode(protocol.Failed(reason="x" * protocol.MAX_MESSAGE_BYTES))
    with pytest.raises(ValueError, match="at most"):
        protocol.body_length(protocol.PREFIX.pack(protocol.MAX_MESSAGE_BYTES + 1))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", b"\x81\xa4type\xa4nope"])
def test_garbage_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any of msgspec's
        protocol.decode_command(body)


def test_link_takes_torn_and_joined_frames_without_blocking() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = Link(theirs)
        first, second = SnapshotRequest(number=1), StopRequest(save=True)
        frames = protocol.encode(first) + protocol.encode(second)
        assert link.receive(timeout_s=0) is None
        ours.sendall(frames[:3])
        assert link.receive(timeout_s=0) is None
        ours.sendall(frames[3:])
        assert [link.receive(timeout_s=0) for _ in range(3)] == [first, second, None]


def test_link_notices_the_end_of_the_daemon() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        link = Link(theirs)
        ours.close()
        with pytest.raises(DaemonGone):
            link.receive(timeout_s=0)
        with pytest.raises(DaemonGone):
            link.send(protocol.Failed(reason="too late"))
