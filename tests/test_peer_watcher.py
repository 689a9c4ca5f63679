"""What a node sees of the others' contributions, and what it remembers of it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from replay_rig import LoggedSwarm
from robust_rig import vectors
from round_swarm import Node as SwarmNode

from talkoot.averaging.audits import Audits
from talkoot.averaging.certificate import Certificate
from talkoot.averaging.history import History, Track
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.verdicts import MAX_SCORE
from talkoot.averaging.watch import MAX_WATCHED, Record
from talkoot.cli.conduct import _watch_words
from talkoot.dht.errors import ConfigError
from talkoot.peer import peers, watch_file
from talkoot.peer.node import Node
from talkoot.peer.simulation.trial import Trial
from talkoot.peer.statedir import StateDir
from talkoot.peer.watch_file import HEAD, WatchFileError, decode, encode
from talkoot.peer.watcher import SAMPLE_NUMEL, Sample, Watcher


class WatchedSwarm(LoggedSwarm):
    """Every peer watches."""

    def __init__(self, num_peers: int, folder: Path, **options: Any) -> None:
        super().__init__(num_peers, **options)
        self.counts: list[str] = []
        self.watchers = {
            key: Watcher(
                node.signer, self.rules, folder / "watch", count=self.counts.append,
                suspects=lambda _number: None,
            )
            for key, node in self.nodes.items()
        }  # fmt: skip

    def _commit(self, node: SwarmNode, certificate: Certificate, ledger: Ledger) -> None:
        encoded = self.encoded[node.key]
        self.watchers[node.key].ending(node.machine, certificate.value, encoded, node.aggregate)
        super()._commit(node, certificate, ledger)
        asyncio.run(self.watchers[node.key].look())


@pytest.mark.parametrize("exchange", ["dense", "sparse"])
def test_each_peer_sees_the_direction_of_all_contributions(tmp_path: Path, exchange: str) -> None:
    """The reducers each in their own part; from the second round on there is an aggregate to compare with."""
    swarm = WatchedSwarm(5, tmp_path, exchange=exchange)
    for number in range(3):
        work = vectors(5, swarm.rules.numel, 1, spread=0.5)  # the same in every round
        for node, delta in zip(swarm.nodes.values(), work, strict=True):
            node.local = node.theta - delta
        swarm.play()
        for watcher in swarm.watchers.values():
            assert set(watcher.records) == set(swarm.nodes)
            for record in watcher.records.values():
                assert (record.last, record.rounds) == (number, number + 1)
                assert record.history.norm.count == number + 1
                assert record.history.lag.count == number
                assert record.history.lag.mean == pytest.approx(0, abs=0.1)
    assert swarm.counts == []


@pytest.mark.parametrize("exchange", ["dense", "sparse"])
def test_who_copies_is_seen(tmp_path: Path, exchange: str) -> None:
    swarm = WatchedSwarm(5, tmp_path, exchange=exchange)
    first, second = list(swarm.nodes.values())[:2]
    second.local = second.theta + (first.local - first.theta) * 0.9
    swarm.play()
    for watcher in swarm.watchers.values():
        odd = {key: record.like for key, record in watcher.records.items() if record.signs}
        assert odd == {first.key: second.key, second.key: first.key}


@pytest.mark.parametrize("exchange", ["dense", "sparse"])
def test_nobody_praises_what_was_there_in_earlier_rounds(tmp_path: Path, exchange: str) -> None:
    """The copier sends what another sent two rounds ago, with some noise; who was copied came first."""
    swarm = WatchedSwarm(5, tmp_path, exchange=exchange, audits=Audits(trainers=True))
    nodes = list(swarm.nodes.values())
    sent: list[list[torch.Tensor]] = []
    for number in range(4):
        work = list(vectors(5, swarm.rules.numel, number, spread=0.5))
        if number == 3:
            work[1] = sent[1][0] + 0.1 * sent[1][0].std() * torch.randn(swarm.rules.numel)
        for node, delta in zip(nodes, work, strict=True):
            node.local = node.theta - delta
        sent.append(work)
        swarm.play()
        for watcher in swarm.watchers.values():
            assert watcher._highest is not None
            digest, highest = watcher._highest
            copier = {nodes[1].key} if number == 3 else set()
            assert {key for key, score in highest.items() if score < MAX_SCORE} == copier
            assert asyncio.run(watcher.highest(digest, nodes[1].key)) == (-MAX_SCORE if copier else MAX_SCORE)
            assert asyncio.run(watcher.highest(bytes(32), nodes[1].key)) == MAX_SCORE


@pytest.mark.parametrize(("numel", "chunk"), [(10, 4), (1000, 64), (3 * SAMPLE_NUMEL, SAMPLE_NUMEL // 4)])
def test_the_sample_of_an_aggregate_is_where_contributions_are_looked_at(numel: int, chunk: int) -> None:
    swarm = LoggedSwarm(1, numel=numel, chunk_size=chunk)
    sample, vector_P = Sample(swarm.rules, b"secret"), torch.arange(numel, dtype=torch.float32)
    taken = sample.take(vector_P)
    assert taken.numel() <= max(SAMPLE_NUMEL, swarm.rules.num_chunks)
    for number in range(swarm.rules.num_chunks):
        run, start = sample.of(number), sample.start(number)
        values = vector_P[number * chunk : (number + 1) * chunk][run]
        assert values.numel() > 0
        assert torch.equal(taken[start : start + values.numel()], values)


# -- whole nodes -------------------------------------------------------------------------------------------


def shout(node: Node) -> None:
    """A hundred times the work that was done."""
    assert node.contributor is not None
    residual = node.contributor.residual
    encode_ = residual.encode

    def louder(start_P: torch.Tensor, local_P: torch.Tensor, **more: Any) -> Any:
        far_P = torch.add(
            start_P, torch.sub(local_P, start_P), alpha=100.0 if more["ledger"].round > 6 else 1.0
        )
        return encode_(start_P, far_P, **more)

    residual.encode = louder  # type: ignore[method-assign]


def others(trial: Trial) -> list[Node]:
    return [peer.node for peer in trial.world.peers[1:] if peer.node is not None]


def test_a_peer_that_shouts_is_suspected_by_all_and_banned_by_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial = Trial(tmp_path, 4)
    key = trial.key(0)

    def seen(node: Node) -> bool:
        record = node.runner.watcher.records.get(key) if node.runner.watcher is not None else None
        return record is not None and record.suspected

    shown: list[dict[str, Any]] = []
    gauges: list[float] = []

    def reached() -> bool:
        if not all(map(seen, others(trial))):
            return False
        shown.extend(peers.listed(others(trial)[0]))
        gauges.extend(node.metrics.peers_suspected._value.get() for node in others(trial))
        return True

    with caplog.at_level(logging.WARNING, "talkoot.watch"):
        trial.play(shout, reached)
    assert trial.bans == {}
    assert {entry["watch"]["suspected"] for entry in shown} == {True, False}
    (entry,) = [entry for entry in shown if entry["watch"]["suspected"]]
    assert entry["watch"]["signs"] == ["norm"]
    assert entry["watch"]["norm_score"] > 4
    assert entry["score"] == 0
    assert _watch_words(entry) == "suspected: norm"
    assert set(gauges) == {1.0}
    assert len(caplog.records) >= 3
    assert all("are odd: norm +" in record.getMessage() for record in caplog.records)
    for peer in trial.world.peers[1:]:  # which died: it is written once a minute
        assert watch_file.load(StateDir(peer.folder).watch)[key].rounds > 5


# -- the file ----------------------------------------------------------------------------------------------

KEY = b"k" * 32
RECORD = Record(
    history=History(Track(7, 1.1, 0.02), Track(6, -0.1, 0.01), Track(8, -0.2, 0.3), 0.36),
    last=9, rounds=8, suspected=True, norm=5.5, direction=-0.5, signs=("norm", "copy"), like=b"l" * 32,
)  # fmt: skip


def test_what_was_seen_outlives_a_restart(tmp_path: Path) -> None:
    records = {number.to_bytes(32, "big"): replace(RECORD, last=number) for number in range(MAX_WATCHED)}
    watch_file.save(tmp_path / "watch", encode(records))
    assert watch_file.load(tmp_path / "watch") == records
    assert list(watch_file.load(tmp_path / "watch")) == list(records)
    assert watch_file.load(tmp_path / "nothing") == {}


def test_a_node_takes_up_what_it_remembered(tmp_path: Path) -> None:
    watch_file.save(tmp_path / "watch", encode({KEY: RECORD}))
    swarm = LoggedSwarm(1)
    (node,) = swarm.nodes.values()

    async def start() -> Watcher:
        known = asyncio.Event()
        watcher = Watcher(
            node.signer, swarm.rules, tmp_path / "watch", count=lambda _sign: None,
            suspects=lambda number: known.set() if number else None,
        )  # fmt: skip
        async with asyncio.TaskGroup() as group:
            running = group.create_task(watcher.run())
            await known.wait()
            running.cancel()
        return watcher

    assert asyncio.run(start()).records == {KEY: RECORD}


@examples(100)
@given(place=st.integers(0, 400), noise=st.binary(min_size=1, max_size=8))
def test_damage_is_noticed(place: int, noise: bytes) -> None:
    data = encode({KEY: RECORD})
    damaged = data[:place] + noise + data[place + len(noise) :]
    if damaged != data:
        with pytest.raises(WatchFileError):
            decode(damaged)


BODY = len(HEAD) + 32


def whole(body: bytes) -> bytes:
    return HEAD + blake3(body).digest() + body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x93\x01\x02",
        encode({KEY[1:]: RECORD})[BODY:],
        encode({number.to_bytes(32, "big"): RECORD for number in range(MAX_WATCHED + 1)})[BODY:],
        *(
            encode({KEY: replace(RECORD, **change)})[BODY:]
            for change in (
                {"norm": float("nan")}, {"direction": float("inf")}, {"last": -1}, {"like": b"x"},
                {"signs": ("loud",)}, {"history": History(suspicion=1.5)},
                {"history": History(norm=Track(-1, 0.0, 0.0))}, {"history": History(lag=Track(1, 9.0, 0.0))},
                {"history": History(lag=Track(1, 0.0, float("nan")))},
            )
        ),
    ],
)  # fmt: skip
def test_what_cannot_have_been_written_is_refused_though_it_is_whole(body: bytes) -> None:
    with pytest.raises(WatchFileError):
        decode(whole(body))


def test_a_damaged_file_is_a_warning_and_everybody_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "watch"
    for data in (b"garbage", bytes(300_000)):
        path.write_bytes(data)
        assert watch_file.load(path) == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def test_a_disk_that_refuses_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    refused: list[Callable[[], None]] = []

    def save(_path: Path, _data: bytes) -> None:
        refused.append(lambda: None)
        raise ConfigError("cannot write it")

    swarm = WatchedSwarm(1, tmp_path)
    swarm.play()
    (watcher,) = swarm.watchers.values()
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO, "talkoot.watch"):
        patch.setattr(watch_file, "save", save)
        for _ in range(3):
            asyncio.run(watcher.save())
    assert len(refused) == 3
    assert len(caplog.records) == 1
    asyncio.run(watcher.save())
    assert set(watch_file.load(tmp_path / "watch")) == set(swarm.nodes)
