"""Metrics over the swarm's own connections: what a peer shares, and what a hostile one cannot say."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from dht_rig import Node as DhtNode
from dht_rig import Rig, record_of
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity, peer_id_of
from talkoot.dht.limits import METRICS_BURST, METRICS_PER_S
from talkoot.dht.memory import MemoryHub, MemoryNetwork
from talkoot.dht.network import Channel
from talkoot.peer.metrics import FAMILIES, STATES, Metrics
from talkoot.peer.metrics.labels import LabelledCounter
from talkoot.peer.observing import observer as observing
from talkoot.peer.observing.observer import Listed, NoAnswer, Observer, UnknownPeer, targets
from talkoot.peer.observing.protocol import Answer, MetricsServer, ask, metrics_protocol
from talkoot.peer.observing.report import (
    MAX_READINGS,
    MAX_REPORT_BYTES,
    PUBLIC,
    Reading,
    exposition,
    read,
    shared,
    take,
)
from talkoot.peer.observing.services import observer_of, targets_of
from talkoot.peer.options import SHARES, Share
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.swarm_view import Seen

SWARM = bytes(range(32))
PEER = bytes(32)


# -- the report ----------------------------------------------------------------------------------------


def full() -> Metrics:
    """Metrics of a node that has done something."""
    metrics = Metrics()
    metrics.state("training")
    metrics.inner_steps.inc(40)
    metrics.round.set(3)
    metrics.training_loss.set(2.5)
    metrics.round_duration.observe(7.0)
    return metrics


def told(data: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What Prometheus makes of a report."""
    text = exposition(data, peer=PEER, run="demo", role="full").decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def report(*readings: tuple[str, tuple[str, ...], float]) -> bytes:
    return msgspec.msgpack.encode([Reading(*each) for each in readings])


INFO = ("talkoot_node_info", (("role", "full"), ("run", "demo")))


def test_what_is_told_is_what_the_node_exports() -> None:
    metrics = full()
    data = take(metrics.registry, "all")
    own = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.expose().decode())
        for sample in family.samples
    }
    assert len(data) <= MAX_REPORT_BYTES / 2
    there = told(data)
    assert there.pop(INFO) == 1
    assert len(there) > 150
    for key, value in there.items():
        if not key[0].startswith("process_"):  # that goes on meanwhile
            assert own[key] == value or (math.isnan(value) and math.isnan(own[key])), key
    missing = {name for name, _ in own.keys() - there.keys()}
    assert all(name.endswith("_info") for name in missing), missing


def test_nothing_of_the_machine_is_told_unless_the_volunteer_says_so() -> None:
    names = {name for name, _ in told(take(full().registry, "training"))} - {"talkoot_node_info"}
    assert {"talkoot_round", "talkoot_training_loss", "talkoot_inner_steps_total"} <= names
    for word in ("gpu", "memory", "disk", "process", "network", "log", "peer", "paused", "duty", "energy"):
        assert not [name for name in names if word in name]
    assert take(full().registry, "none") == report()
    assert {share: [shared(family, share) for family in FAMILIES.values()].count(True) for share in SHARES}[
        "training"
    ] == len(PUBLIC)


def test_every_metric_fits_into_a_report() -> None:
    """Else an honest node would be refused as a whole."""
    for family in FAMILIES.values():
        if shared(family, "all"):
            assert len(family.labels) <= 3
            assert max(map(len, family.samples())) <= 80
            assert all(len(value) <= 48 for label in family.labels for value in label.values)


def test_a_word_that_is_on_no_list_makes_nobody_a_liar() -> None:
    metrics = full()
    counters = [each for each in vars(metrics).values() if isinstance(each, LabelledCounter)]
    assert len(counters) > 20
    for counter in counters:
        counter.inc("never heard of")
    values = told(take(metrics.registry, "all"))
    assert values["talkoot_round_failures_total", (("reason", "other"),)] == 1
    assert (
        values["talkoot_restarts_total", (("part", "other"),)] == 1
    )  # which has no such word from the start


def test_what_this_version_does_not_know_is_left_out() -> None:
    data = report(
        ("talkoot_round", (), 3.0),
        ("talkoot_of_tomorrow", (), 1.0),
        ("talkoot_node_state", ("hibernating",), 1.0),
        ("talkoot_round", ("one label too many",), 1.0),
    )
    assert told(data) == {INFO: 1.0, ("talkoot_round", ()): 3.0}


FORGED = (
    "up",
    "ALERTS",
    "job:talkoot_round:max",
    "talkoot_node_info",
    "talkoot_build_info",
    "python_info",
    "talkoot_round 1\nup",
    'talkoot_round{instance="honest"}',
)


def test_no_other_series_can_be_forged() -> None:
    data = report(
        *((name, (), 0.0) for name in FORGED),
        *((name, ("honest",), 0.0) for name in FORGED),
        ("talkoot_node_state", ('training"} 1\nup{instance="honest',), 1.0),
        ("talkoot_node_state", ("training\n",), 1.0),
        ("talkoot_node_info", ("other", "swarm"), 1.0),
    )
    assert told(data) == {INFO: 1.0}


REFUSED: dict[str, bytes] = {
    "too many": msgspec.msgpack.encode([Reading("talkoot_round", (), 1.0)] * (MAX_READINGS + 1)),
    "100,000 series": msgspec.msgpack.encode(
        [("talkoot_round", (str(each),), 1.0) for each in range(100_000)]
    ),
    "a name too long": report(("x" * 81, (), 1.0)),
    "a label too long": report(("talkoot_node_state", ("x" * 10_000,), 1.0)),
    "labels too many": report(("talkoot_node_state", ("x",) * 5, 1.0)),
    "twice": report(("talkoot_round", (), 1.0), ("talkoot_round", (), 2.0)),
    "a counter that is NaN": report(("talkoot_rounds_total", (), math.nan)),
    "a counter without end": report(("talkoot_rounds_total", (), math.inf)),
    "a counter below zero": report(("talkoot_rounds_total", (), -1.0)),
    "a bucket that is NaN": report(("talkoot_round_duration_seconds_bucket", ("10.0",), math.nan)),
    "a sum that overflows": report(("talkoot_trained_tokens_total", (), 1e300)),
    "text for a number": msgspec.msgpack.encode([("talkoot_round", (), "1")]),
    "something more": msgspec.msgpack.encode([("talkoot_round", (), 1.0, "more")]),
    "no list": msgspec.msgpack.encode({"talkoot_round": 1}),
    "a part": report(("talkoot_round", (), 1.0))[:-1],
    "deep": b"\x91" * 30_000,
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_node_says_is_refused_as_a_whole(what: str) -> None:
    with pytest.raises(RemoteError) as refused:
        exposition(REFUSED[what], peer=PEER, run="demo", role="full")
    assert refused.value.reason == "malformed"


NAMES = st.one_of(st.sampled_from(sorted(PUBLIC)), st.text(max_size=9))
LABELS = st.lists(st.one_of(st.sampled_from(STATES), st.text(max_size=9)), max_size=2)


@examples(60)
@given(st.lists(st.tuples(NAMES, LABELS, st.floats()), max_size=6))
def test_whatever_is_said_only_known_series_come_out(readings: list[tuple[str, list[str], float]]) -> None:
    data = msgspec.msgpack.encode(readings)
    try:
        found = told(data)
    except RemoteError:
        return
    del found[INFO]
    assert len(found) <= len(readings)
    for (name, labels), value in found.items():
        family = FAMILIES[name]
        assert family.allows(name, dict(labels))
        assert family.kind == "gauge" or value >= 0


# -- between peers -------------------------------------------------------------------------------------


class Peer:
    """A node in memory that serves metrics, or something else in their place."""

    def __init__(
        self, hub: MemoryHub, number: int, share: Share = "training", lie: "Lie | None" = None
    ) -> None:
        self.network: MemoryNetwork = hub.node(Identity.from_seed(bytes([number]) * 32), swarm=SWARM)
        self.key = self.network.key
        self.id = peer_id_of(self.key)
        self.taken = 0
        self.metrics = full()
        if lie is not None:
            self.network.serve(metrics_protocol(SWARM), lie)
        else:
            MetricsServer(
                self.network, SWARM, share=share, refresh=self.metrics.refresh, take=self._take(share)
            )

    def _take(self, share: Share) -> Callable[[], bytes]:
        def taken() -> bytes:
            self.taken += 1
            return take(self.metrics.registry, share)

        return taken


Lie = Callable[[Channel], Awaitable[None]]
Use = Callable[[Observer, Peer, dict[bytes, Seen]], Awaitable[None]]


def seen(peer: Peer, **changes: Any) -> Seen:
    return Seen(record_of(peer.network, SWARM, **changes), 0.0)


def watch(use: Use, *, share: Share = "training", lie: Lie | None = None) -> None:
    """Let an observer and one peer meet; `use` may change who is announced."""

    async def main() -> None:
        hub = MemoryHub()
        peer, eye = Peer(hub, 1, share, lie), Peer(hub, 2)
        others = {peer.key: seen(peer)}
        watcher = Observer(
            eye.network, SWARM, others=lambda: others, voters=lambda: [peer.key], run=lambda: "demo"
        )
        async with asyncio.timeout(10_000), asyncio.TaskGroup() as tasks:
            started = [asyncio.Event(), asyncio.Event()]
            running = [
                tasks.create_task(node.network.run(started=event.set))
                for node, event in zip((peer, eye), started, strict=True)
            ]
            for event in started:
                await event.wait()
            await eye.network.add_addresses(peer.key, peer.network.addresses)
            await use(watcher, peer, others)
            for task in running:
                task.cancel()

    run_virtual(main())


def test_a_listed_peer_is_asked_and_nobody_else() -> None:
    async def use(watcher: Observer, peer: Peer, others: dict[bytes, Seen]) -> None:
        assert watcher.listed() == [Listed(peer.id, "full")]
        text = (await watcher.metrics(peer.id)).decode()
        assert "talkoot_training_loss 2.5\n" in text
        assert "process_" not in text
        with pytest.raises(UnknownPeer):
            await watcher.metrics(peer_id_of(bytes(32)))

    watch(use)


def test_a_report_is_collected_once_a_second_and_a_peer_is_held_to_its_rate() -> None:
    async def use(watcher: Observer, peer: Peer, others: dict[bytes, Seen]) -> None:
        loop, answered, refused = asyncio.get_running_loop(), 0, 0
        began = loop.time()
        for _ in range(100):
            try:
                await watcher.metrics(peer.id)
                answered += 1
            except NoAnswer:
                refused += 1
            await asyncio.sleep(1.2 * observing.FRESH_S)
        assert refused > 5
        elapsed_s = loop.time() - began
        assert 30 < answered <= METRICS_BURST + METRICS_PER_S * elapsed_s + 1
        assert peer.taken <= elapsed_s + 1

    watch(use)


def test_who_shares_nothing_is_left_alone() -> None:
    async def use(watcher: Observer, peer: Peer, others: dict[bytes, Seen]) -> None:
        for _ in range(2):
            with pytest.raises(NoAnswer, match="shares no metrics"):
                await watcher.metrics(peer.id)
        assert watcher.listed() == []
        await asyncio.sleep(observing.PRIVATE_S)
        assert watcher.listed() == [Listed(peer.id, "full")]
        assert peer.taken == 0

    watch(use, share="none")


def answering(payload: bytes, status: Any = "ok", header: bytes | None = None) -> Lie:
    async def lie(channel: Channel) -> None:
        await channel.receive()
        await channel.send(header or msgspec.msgpack.encode(Answer(status)), payload, timeout_s=1)

    return lie


async def silent(channel: Channel) -> None:
    await channel.receive()
    await asyncio.sleep(1000)


async def gone(channel: Channel) -> None:
    await channel.receive()


LIES: dict[str, tuple[Lie, str, bool]] = {
    "garbage": (answering(b"up 0\n"), "malformed", True),
    "forged": (answering(report(("talkoot_rounds_total", (), -1.0))), "malformed", True),
    "header": (answering(b"", header=b"\xc1"), "malformed", True),
    "silent": (silent, "in time|busy", False),
    "gone": (gone, "ended", False),
    "busy": (answering(b"", "busy"), "busy", False),
}


@pytest.mark.parametrize("name", LIES)
def test_a_peer_that_gives_nothing_of_use_is_asked_less_and_less(name: str) -> None:
    lie, words, offence = LIES[name]

    async def use(watcher: Observer, peer: Peer, others: dict[bytes, Seen]) -> None:
        loop, offences, tries = asyncio.get_running_loop(), [], []
        network = watcher._network
        network.events.on_offence = lambda key, source, reason: offences.append((key, source, reason))
        before = network.events.dials
        for _ in range(600):
            began = loop.time()
            with pytest.raises(NoAnswer, match=words):
                await watcher.metrics(peer.id)
            assert loop.time() - began <= observing.SCRAPE_S
            tries.append(loop.time() - began)
            await asyncio.sleep(1)
        assert network.events.dials - before <= 6 + 1600 / observing.LAST_PAUSE_S
        assert bool(offences) == offence
        assert set(offences) <= {(peer.key, "metrics", "malformed")}

    watch(use, lie=lie)


def test_who_has_gone_stays_listed_for_a_while_unless_it_said_goodbye() -> None:
    async def use(watcher: Observer, peer: Peer, others: dict[bytes, Seen]) -> None:
        assert watcher.listed()
        del others[peer.key]
        await asyncio.sleep(observing.KEEP_S - 1)
        assert watcher.listed()
        await asyncio.sleep(2)
        assert watcher.listed() == []
        others[peer.key] = seen(peer, state="draining")
        assert watcher.listed()
        del others[peer.key]
        assert watcher.listed() == []
        others[peer.key] = seen(peer)
        assert watcher.listed()
        watcher._network.company.banned = frozenset({peer.key})
        assert watcher.listed() == []

    watch(use)


def test_the_list_is_bounded_and_voters_come_first() -> None:
    async def use(watcher: Observer, peer: Peer, others: dict[bytes, Seen]) -> None:
        voter = others.pop(peer.key)
        crowd = {each.to_bytes(32, "big"): voter for each in range(1, 2000)}
        others |= crowd
        first = watcher.listed()
        assert len(first) == observing.MAX_TARGETS
        others[peer.key] = voter
        second = watcher.listed()
        assert Listed(peer.id, "full") in second
        assert len(set(second) - set(first)) == 1  # who was there stays

    watch(use)


def test_a_question_is_empty_and_others_are_refused() -> None:
    async def use(watcher: Observer, peer: Peer, others: dict[bytes, Seen]) -> None:
        channel = await watcher._network.dial(peer.key, metrics_protocol(SWARM), timeout_s=1)
        await channel.send(b"more", timeout_s=1)
        with pytest.raises(RemoteError):
            await channel.receive(timeout_s=10)
        assert peer.network.events.rejected["malformed"] == 1

    watch(use)


def test_prometheus_finds_this_node_and_the_others() -> None:
    own, other = Listed("12D3KooWownownownownown", "observer"), Listed("12D3KooWpeerpeerpeerpeer", "full")
    assert targets([other], own, swarm="demo", address="127.0.0.1:9477") == [
        {
            "targets": ["127.0.0.1:9477"],
            "labels": {
                "__metrics_path__": "/metrics",
                "instance": own.peer_id[-12:],
                "role": "observer",
                "swarm": "demo",
            },
        },
        {
            "targets": ["127.0.0.1:9477"],
            "labels": {
                "__metrics_path__": "/peer/12D3KooWpeerpeerpeerpeer/metrics",
                "instance": other.peer_id[-12:],
                "role": "full",
                "swarm": "demo",
            },
        },
    ]


def test_reading_a_report_gives_plain_numbers() -> None:
    assert read(report(("talkoot_round", (), 3)), PEER) == (Reading("talkoot_round", (), 3.0),)


@pytest.mark.processes
def test_metrics_come_over_libp2p() -> None:
    def serves(node: DhtNode) -> None:
        MetricsServer(
            node.network,
            SWARM,
            share="training",
            refresh=lambda: None,
            take=lambda: take(full().registry, "training"),
        )

    async def main() -> None:
        async with rig.swarm(2, serves) as nodes:
            data = await ask(nodes[1].network, nodes[0].key, SWARM, timeout_s=20)
            assert told(bytes(data))["talkoot_round", ()] == 3

    rig = Rig("uvloop")
    rig.run(main())


def test_a_node_lists_itself_and_answers_from_its_own_metrics() -> None:
    async def main() -> None:
        hub = MemoryHub()
        network = hub.node(Identity.from_seed(bytes([9]) * 32), swarm=SWARM)
        node: Any = SimpleNamespace(
            options=SimpleNamespace(share_metrics="training", role="observer"),
            network=network,
            membership=SimpleNamespace(swarm=SWARM),
            metrics=full(),
            identity=SimpleNamespace(peer_id=peer_id_of(network.key)),
            swarming=None,
            holdings=None,
            manifest=None,
        )
        node.observer = observer_of(node)
        (own,) = targets_of(node, 9477)
        assert own["labels"] == {
            "__metrics_path__": "/metrics",
            "instance": peer_id_of(network.key)[-12:],
            "role": "observer",
            "swarm": "",
        }

    run_virtual(main())
