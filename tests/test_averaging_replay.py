"""Replaying a round from its record equals applying it, bit for bit, and nothing else is taken for it."""

from collections.abc import Callable
from dataclasses import replace as with_rules
from typing import Any

import msgspec
import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from replay_rig import CHUNK, NUMEL, ExchangeName, Kept, LoggedSwarm, check_replay, replay

from talkoot.averaging.certificate import Value
from talkoot.averaging.encoded import Encoded
from talkoot.averaging.ladder import LADDERS
from talkoot.averaging.outputs import AttemptOver
from talkoot.averaging.parts import Part
from talkoot.averaging.record import RecordError, RecordLayout
from talkoot.averaging.replay import Replay
from talkoot.averaging.rules import Adaptive
from talkoot.compression.codec import NAMES

BIASED = ("sign", "topk")
EXCHANGES: tuple[ExchangeName, ...] = ("dense", "sparse")


def played(exchange: ExchangeName, rounds: int = 1, **options: Any) -> LoggedSwarm:
    swarm = LoggedSwarm(3, exchange=exchange, **options)
    for _ in range(rounds):
        swarm.play()
    return swarm


def check_all(swarm: LoggedSwarm, rounds: int = 1) -> None:
    """Every node's record of every round replays, and all have the same."""
    for records in zip(*swarm.kept.values(), strict=True):
        assert len({kept.data for kept in records}) == 1
        check_replay(records[0], swarm.rules)
    assert all(len(records) == rounds for records in swarm.kept.values())


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("codec", NAMES)
def test_replaying_equals_applying(codec: str, exchange: ExchangeName) -> None:
    back = "lloyd4" if codec in BIASED else codec
    swarm = played(
        exchange, 2, numel=2 * 8192 + 5000, chunk_size=8192, codec=codec, aggregate_codec=back,
        error_feedback="auto",
    )  # fmt: skip
    check_all(swarm, 2)


@examples(25)
@given(
    exchange=st.sampled_from(EXCHANGES),
    codec=st.sampled_from(["fp32", "int8", "int8:32", "lloyd2", "topk:8"]),
    peers=st.integers(1, 5),
    numel=st.integers(1, 3 * CHUNK),
    seed=st.integers(0, 100),
)
def test_replaying_equals_applying_whatever_the_sizes(
    exchange: ExchangeName, codec: str, peers: int, numel: int, seed: int
) -> None:
    back = "int4" if codec.startswith("topk") else codec
    swarm = LoggedSwarm(peers, exchange=exchange, numel=numel, seed=seed, codec=codec, aggregate_codec=back)
    swarm.play()
    check_all(swarm)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_rounds_of_an_adaptive_swarm(exchange: ExchangeName) -> None:
    rungs = LADDERS[exchange]
    adaptive = Adaptive(rungs=rungs, share=0.1, warm_rounds=0, exchange_ms=4000, certify_ms=2000)
    codec, back = rungs[0]
    swarm = LoggedSwarm(
        3, exchange=exchange, numel=2 * 8192 + 100, chunk_size=8192, codec=codec, aggregate_codec=back,
        adaptive=adaptive, error_feedback="auto",
    )  # fmt: skip
    for node in swarm.nodes.values():
        node.upload = 1000.0
    for _ in range(len(rungs)):
        swarm.play()
    check_all(swarm, len(rungs))
    walked = {kept.before.codec for kept in next(iter(swarm.kept.values()))}
    assert len(walked) > 2


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_weak_round(exchange: ExchangeName) -> None:
    swarm = LoggedSwarm(2, exchange=exchange)
    first, second = swarm.nodes
    swarm.start_round()
    swarm.kill(second)
    swarm.close(first)
    swarm.run(swarm.now + 200.0)
    (kept,) = swarm.kept[first]
    assert kept.certificate.kind == "weak"
    check_replay(kept, swarm.rules)


def test_a_round_that_was_tried_again_after_some_parts_were_decoded() -> None:
    swarm = LoggedSwarm(4, seed=3)
    swarm.start_round()
    order = next(iter(swarm.nodes.values())).machine.context.order
    swarm.close()
    swarm.run_until(lambda: any(encoded._parts for encoded in swarm.encoded.values()))
    swarm.kill(order[1])
    swarm.run(swarm.now + 60.0)
    living = [key for key, node in swarm.nodes.items() if node.alive]
    assert any(isinstance(note, AttemptOver) for key in living for note in swarm.nodes[key].notes)
    for key in living:
        (kept,) = swarm.kept[key]
        check_replay(kept, swarm.rules)


def test_what_was_not_decoded_here_cannot_be_recorded() -> None:
    swarm = played("dense")
    kept = next(iter(swarm.kept.values()))[0]
    value = kept.certificate.value
    layout = RecordLayout(value, kept.before, swarm.rules)
    with pytest.raises(RecordError, match="different_value"):
        list(Encoded(swarm.rules.num_chunks).pieces(value, layout))


def test_of_attempts_the_last_whole_one_and_the_running_one_are_kept() -> None:
    encoded = Encoded(4)
    low, high = Part(b"a" * 32, 0, 2), Part(b"b" * 32, 2, 2)
    encoded.decoded(0, low, [b"x", b"y"])
    encoded.decoded(1, low, [b"x", b"y"])
    assert list(encoded._parts) == [1]
    encoded.decoded(1, high, [b"z", b"z"])
    encoded.decoded(2, low, [b"u", b"v"])
    encoded.decoded(3, high, [b"w", b"w"])
    assert list(encoded._parts) == [1, 3]
    encoded.decoded(3, low, [b"u", b"v"])
    assert list(encoded._parts) == [3]


# -- what does not fit -------------------------------------------------------------------------------------

DENSE, SPARSE = (played(exchange, codec="int8") for exchange in EXCHANGES)
SWARMS = {"dense": DENSE, "sparse": SPARSE}


def first(swarm: LoggedSwarm) -> Kept:
    return next(iter(swarm.kept.values()))[0]


@pytest.mark.parametrize("exchange", EXCHANGES)
@examples(60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_wherever_it_is(exchange: str, place: float, bit: int) -> None:
    swarm = SWARMS[exchange]
    kept = first(swarm)
    damaged = bytearray(kept.data)
    damaged[int(place * len(damaged))] ^= 1 << bit
    with pytest.raises(RecordError) as refused:
        replay(kept, swarm.rules, data=bytes(damaged))
    assert refused.value.reason in ("wrong_hash", "wrong_index", "not_finite")


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:100], lambda data: b""])
def test_a_truncated_record_is_refused(exchange: str, change: Callable[[bytes], bytes]) -> None:
    swarm = SWARMS[exchange]
    with pytest.raises(RecordError, match="malformed"):
        replay(first(swarm), swarm.rules, data=change(first(swarm).data))


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_chunk_that_is_too_long_is_refused(exchange: str) -> None:
    swarm = SWARMS[exchange]
    kept = first(swarm)
    again = Replay(kept.certificate.value, kept.before, swarm.rules)
    again.take_index(kept.data[: again.layout.index_bytes])
    offset, length = again.layout.span(0)
    with pytest.raises(RecordError, match="malformed"):
        again.chunk(0, kept.data[offset : offset + length + 1], torch.empty(CHUNK))
    with pytest.raises(RecordError, match="malformed"):
        again.take_index(kept.data[: again.layout.index_bytes + 1])


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_record_of_another_round_is_refused(exchange: ExchangeName) -> None:
    swarm = played(exchange, 2)
    one, two = next(iter(swarm.kept.values()))
    assert len(one.data) == len(two.data)
    with pytest.raises(RecordError, match=r"wrong_hash|wrong_index"):
        replay(one, swarm.rules, data=two.data)
    with pytest.raises(RecordError, match="wrong_round"):
        Replay(two.certificate.value, one.before, swarm.rules)


def part_with(value: Value, number: int, **changes: Any) -> Value:
    parts = list(value.parts)
    parts[number] = msgspec.structs.replace(parts[number], **changes)
    return msgspec.structs.replace(value, parts=tuple(parts))


def cut_with(value: Value, **changes: Any) -> Value:
    cut = (msgspec.structs.replace(value.cut[0], **changes), *value.cut[1:])
    return msgspec.structs.replace(value, cut=cut)


VALUES: dict[str, tuple[str, Callable[[Value], Value], str]] = {
    "no parts": ("dense", lambda v: msgspec.structs.replace(v, parts=()), "malformed"),
    "a hole": ("dense", lambda v: part_with(v, 1, first_chunk=v.parts[1].first_chunk + 1), "malformed"),
    "an overlap": ("dense", lambda v: part_with(v, 1, first_chunk=v.parts[1].first_chunk - 1), "malformed"),
    "an empty part": ("dense", lambda v: part_with(v, 0, num_chunks=0), "malformed"),
    "too many chunks": ("dense", lambda v: part_with(v, -1, num_chunks=1000), "malformed"),
    "a part twice": ("dense", lambda v: msgspec.structs.replace(v, parts=v.parts * 2), "malformed"),
    "a stranger's part": ("dense", lambda v: part_with(v, 0, reducer=b"x" * 32), "malformed"),
    "parts of a sparse round": (
        "sparse",
        lambda v: msgspec.structs.replace(v, parts=first(DENSE).certificate.value.parts),
        "malformed",
    ),
    "another swarm": ("dense", lambda v: msgspec.structs.replace(v, swarm=b"x" * 32), "wrong_round"),
    "another round": ("sparse", lambda v: msgspec.structs.replace(v, round=7), "wrong_round"),
    "an empty cut": ("sparse", lambda v: msgspec.structs.replace(v, cut=()), "malformed"),
    "another codec": ("sparse", lambda v: cut_with(v, codec="fp32"), "wrong_layout"),
    "another size": ("dense", lambda v: cut_with(v, numel=NUMEL + 1), "wrong_layout"),
    "a contribution of another round": ("sparse", lambda v: cut_with(v, round=4), "wrong_round"),
    "a contribution of another branch": ("dense", lambda v: cut_with(v, prior=b"x" * 32), "wrong_round"),
    "other voters": ("dense", lambda v: msgspec.structs.replace(v, voters=v.voters[:1]), "different_value"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_no_record_can_belong_to(name: str) -> None:
    exchange, change, reason = VALUES[name]
    swarm = SWARMS[exchange]
    kept = first(swarm)
    with pytest.raises(RecordError) as refused:
        Replay(change(kept.certificate.value), kept.before, swarm.rules)
    assert refused.value.reason == reason


def test_a_contribution_that_the_cut_does_not_have() -> None:
    kept = first(SPARSE)
    value = kept.certificate.value
    swapped = msgspec.structs.replace(value, cut=(value.cut[1], value.cut[0], *value.cut[2:]))
    again = Replay(swapped, kept.before, SPARSE.rules)
    with pytest.raises(RecordError, match="wrong_index"):
        again.take_index(kept.data[: again.layout.index_bytes])


def test_a_norm_that_the_index_does_not_come_to() -> None:
    kept = first(SPARSE)
    value = cut_with(kept.certificate.value, norm2=kept.certificate.value.cut[0].norm2 / 2)
    again = Replay(value, kept.before, SPARSE.rules)
    with pytest.raises(RecordError, match="wrong_index"):
        again.take_index(kept.data[: again.layout.index_bytes])


def test_an_aggregate_in_the_codec_of_another_reducer_does_not_decode() -> None:
    swarm = played("dense", codec="lloyd4", numel=2 * 8192, chunk_size=8192)
    kept = first(swarm)
    value = kept.certificate.value
    other = next(key for key in kept.before.voters if key not in {part.reducer for part in value.parts})
    wrong = part_with(value, 0, reducer=other)
    with pytest.raises(RecordError, match="malformed"):
        replay(with_value(kept, wrong), swarm.rules)


def with_value(kept: Kept, value: Value) -> Kept:
    certificate = msgspec.structs.replace(kept.certificate, value=value)
    return with_rules(kept, certificate=certificate)


@given(width=st.integers(1, 5), numel=st.integers(1, 6 * CHUNK), limit=st.integers(1, 10 * CHUNK))
@examples(50)
def test_runs_and_spans_tile_the_record(width: int, numel: int, limit: int) -> None:
    kept = first(SPARSE)
    rules = with_rules(SPARSE.rules, numel=numel)
    item = msgspec.structs.replace(kept.certificate.value.cut[0], numel=numel)
    value = msgspec.structs.replace(kept.certificate.value, cut=(item,) * width)
    layout = RecordLayout(value, kept.before, rules)
    at, chunks = layout.index_bytes, 0
    for start, count in layout.runs(limit):
        offset, length = layout.span(start, count)
        assert (offset, start) == (at, chunks)
        assert length <= limit or count == 1
        assert length == sum(layout.span(chunk)[1] for chunk in range(start, start + count))
        at, chunks = offset + length, start + count
    assert (at, chunks) == (layout.num_bytes, rules.num_chunks)
