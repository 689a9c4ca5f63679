"""What a scrape looks up: peers by direction, version and score; phases; duty cycle; disk; GPU."""

import asyncio
import math
import types
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.averaging.certificate import Contribution
from talkoot.averaging.robustness import Robustness, Rule
from talkoot.dht.multiaddr import is_relayed, parse_address
from talkoot.dht.records import PeerRecord
from talkoot.peer.announcement import VERSION
from talkoot.peer.duty import WINDOW_S, DutyCycle
from talkoot.peer.guest.words import STATES
from talkoot.peer.manifest import Compression
from talkoot.peer.measuring import agent_of, observed_state
from talkoot.peer.metrics import FAMILIES, Metrics, is_known
from talkoot.peer.metrics.known import MAX_SERIES
from talkoot.peer.metrics.labels import Follow
from talkoot.peer.metrics.words import AGENTS, PHASES
from talkoot.peer.round_counts import norm_ratio, phases_of
from talkoot.peer.simulation.disks import simulated_disks
from talkoot.peer.simulation.signatures import stand_in_signatures
from talkoot.peer.simulation.tasks import drift
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.simulation.world import World
from talkoot.peer.trainer import gpu
from talkoot.peer.trainer.protocol import Gpu
from talkoot.peer.watch import DiskWatch, used_bytes


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"talkoot_{name}", labels)


def series(metrics: Metrics) -> dict[tuple[str, ...], float]:
    found = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            assert is_known(sample.name, sample.labels), sample
            found[sample.name, *sorted(sample.labels.values())] = sample.value
    return found


def stranger(number: int) -> PeerRecord:
    """One of many peers that a hostile directory may show: each says something else of itself."""
    return PeerRecord(
        swarm=bytes(32),
        key=number.to_bytes(32, "big"),
        protocol=1,
        version=f"{number}.{number}",
        addresses=(),
        role="full",
        round=number,
        digest=bytes(32),
        steps=0,
        tokens=0,
        speed=0.0,
        upload=0.0,
        download=0.0,
        corpus=b"",
        loss=0.0,
        state=f"state{number}",
    )


async def look(world: World, share: float) -> None:
    """`share`: of chunks that count by a robust rule."""
    await asyncio.sleep(60.0)  # virtual time
    node = world.peers[0].node
    assert node is not None
    assert node.swarming is not None
    metrics = node.metrics
    node.measuring.look_now()
    before = series(metrics)
    assert len(before) <= MAX_SERIES
    assert value(metrics, "peers_known") == 2
    assert value(metrics, "peers_by_agent", agent="same") == 2
    assert value(metrics, "peers_by_score", band="good") == 2
    connected = [
        value(metrics, "peers_connected", direction=d, path="direct") for d in ("inbound", "outbound")
    ]
    assert sum(filter(None, connected)) == 2
    for name in ("peer_connections", "contributions_sent", "contribution_credits", "rounds"):
        assert before[f"talkoot_{name}_total",] > 0, name
    for name in ("join", "roster", "vote", "committed", "bulk"):
        assert before["talkoot_messages_sent_total", name] > 0, name
        assert before["talkoot_messages_received_total", name] > 0, name
    assert before["talkoot_round_phase_seconds_total", "compute"] > 0
    assert before["talkoot_peer_rtt_seconds_count",] > 0
    assert 0 < before["talkoot_update_norm_ratio",] < 10
    assert before["talkoot_robust_chunks_ratio",] == share
    node.swarming.view.update({bytes([n // 256, n % 256]) * 16: stranger(n) for n in range(500)})
    node.measuring.look_now()
    after = series(metrics)
    assert after.keys() == before.keys()
    assert after["talkoot_peers_known",] == 500
    assert after["talkoot_round_frontier",] == 499
    announced = {bytes([1, n]) * 16: msgspec.structs.replace(stranger(n), role="relay") for n in range(20)}
    node.swarming.view.update(announced)
    node.measuring.look_now()
    assert value(metrics, "peers_known") == 0, "relays are nobody who takes part"
    assert value(metrics, "round_frontier") == node.swarming.ledger.round
    assert set(node.swarming.view.relays) == set(announced)


@pytest.mark.parametrize(("rule", "share"), [("mean", 0.0), ("trimmed_mean", 1.0)])
def test_500_peers_make_no_series(tmp_path: Path, rule: Rule, share: float) -> None:
    async def main() -> None:
        task = replace(drift(1, "dense", Compression()), robustness=Robustness(rule=rule))
        world = World(3, 1, tmp_path, witness=lambda *_: None, on_head=lambda *_: None, task=task)
        await world.run(lambda: look(world, share))

    with simulated_disks(), stand_in_signatures():
        run_virtual(main())


def test_a_peers_version_becomes_one_of_few_words() -> None:
    assert agent_of(VERSION) == "same"
    assert agent_of("999.0") == "newer"
    assert agent_of("0.0.0") == "older"
    for odd in ("", "x", "1", "٣.٣", "-1.0"):
        assert agent_of(odd) == "unknown"


@given(st.text(max_size=40))
@examples(100)
def test_what_a_peer_claims_is_never_a_label(text: str) -> None:
    assert agent_of(text) in AGENTS
    assert observed_state(text) in (*STATES, "other")


def test_only_addresses_through_relays_are_relayed() -> None:
    relay = "12D3KooWGbqmAhH9tyDSdYf5ZLUn2yWmDQqJYsJGZHdDAAVi9b3z"
    plain = parse_address("/ip4/1.2.3.4/tcp/41474").to_bytes()  # a port with the code of a circuit in it
    assert not is_relayed(plain)
    assert not is_relayed(b"")
    assert is_relayed(plain + b"\xa5\x03\x26" + bytes(38) + b"\xa2\x02"), relay


def contribution(key: bytes, norm: float) -> Contribution:
    return Contribution(bytes(32), 1, bytes(32), key, bytes(32), norm**2, 8, 8, 8, "none")


def test_the_norm_of_ours_over_the_median() -> None:
    cut = tuple(contribution(bytes([n]) * 32, norm) for n, norm in enumerate((1.0, 4.0, 2.0)))
    assert norm_ratio(cut, bytes([1]) * 32) == pytest.approx(2.0)
    assert norm_ratio(cut, b"x" * 32) is None
    assert norm_ratio((), b"x" * 32) is None
    assert norm_ratio((contribution(b"x" * 32, 0.0),), b"x" * 32) is None


def test_the_phases_of_a_round_add_up() -> None:
    record: Any = SimpleNamespace(
        seconds=10.0, phases={"form": 2.0, "exchange": 5.0, "certify": 3.0}, jobs={"Apply": 1.0}
    )
    spent = phases_of(record, 60.0)
    assert tuple(spent) == PHASES
    assert sum(spent.values()) == pytest.approx(60.0)
    assert (spent["compute"], spent["apply"]) == (50.0, 1.0)
    record.phases, record.jobs = {}, {"Apply": 1.0}
    assert phases_of(record, 5.0)["apply"] == 0


def test_the_duty_cycle_is_that_of_the_last_seconds() -> None:
    duty = DutyCycle()
    assert duty.share is None
    assert duty.after(0.0, 0.0) == 0
    assert duty.after(1.0, 2.0) == pytest.approx(0.5)
    for second in range(3, 60):
        share = duty.after(1.0 + (second - 2), second)
    assert share == pytest.approx(58 / 59)
    for second in range(60, 60 + int(WINDOW_S)):
        share = duty.after(58.0, second)
    assert share == pytest.approx(0.0, abs=0.11)
    duty.begin_again()
    assert duty.share is None
    assert duty.after(58.5, 61 + WINDOW_S) == pytest.approx(0.25)
    assert duty.after(0.5, 1.0) == pytest.approx(0.5)  # another process


def test_the_disk_is_measured(tmp_path: Path) -> None:
    metrics = Metrics()
    assert math.isnan(metrics.registry.get_sample_value("talkoot_disk_used_bytes") or 0)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(bytes(1 << 20))
    DiskWatch(metrics, tmp_path).sample()
    assert (1 << 20) <= used_bytes(tmp_path) < (2 << 20)
    assert value(metrics, "disk_used_bytes") == used_bytes(tmp_path)
    assert (value(metrics, "disk_limit_bytes") or 0) > used_bytes(tmp_path)
    DiskWatch(metrics, tmp_path / "gone").sample()


class NoFigureError(Exception):
    """What the library raises."""


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    """NVML with one GPU that has no thermometer."""
    library: Any = types.ModuleType("pynvml")
    library.NVMLError, library.NVML_TEMPERATURE_GPU, library.millijoules = NoFigureError, 0, 5_000
    library.nvmlInit = lambda: None

    def handle(uuid: str) -> str:
        if uuid != "GPU-7":
            raise NoFigureError
        return uuid

    def temperature(_handle: object, _kind: object) -> int:
        raise NoFigureError

    library.nvmlDeviceGetHandleByUUID = handle
    library.nvmlDeviceGetUtilizationRates = lambda _handle: SimpleNamespace(gpu=40)
    library.nvmlDeviceGetTemperature = temperature
    library.nvmlDeviceGetTotalEnergyConsumption = lambda _handle: library.millijoules
    monkeypatch.setitem(__import__("sys").modules, "pynvml", library)
    return library


def test_a_gpu_shows_what_it_tells(nvml: Any) -> None:
    meter = gpu.GpuMeter(0, lambda: (60, 100), gpu.nvml_readings("7"), limit_bytes=80)
    nvml.millijoules += 3_000
    (reading,) = meter.read(0.0)
    assert reading == Gpu(index=0, used_bytes=40, limit_bytes=80, utilization=0.4, joules=3.0)
    assert meter.read(gpu.READ_S / 2) == ()
    metrics = Metrics()
    before = len(series(metrics))
    follow = Follow()
    metrics.follow_gpu(reading, follow)
    assert value(metrics, "gpu_memory_used_bytes", gpu="0") == 40
    assert value(metrics, "gpu_utilization_ratio", gpu="0") == 0.4
    assert value(metrics, "gpu_energy_joules_total", gpu="0") == 3
    assert value(metrics, "gpu_temperature_celsius", gpu="0") is None
    assert len(series(metrics)) == before + 4
    for index in range(1, 20):
        metrics.follow_gpu(Gpu(index=index, used_bytes=1, limit_bytes=1, celsius=50.0, joules=1.0), follow)
    assert len(series(metrics)) <= MAX_SERIES


def test_without_a_gpu_or_its_library_there_are_no_figures(nvml: Any) -> None:
    assert gpu.meter_of("cpu", 0) is None
    assert gpu.nvml_readings("8") is None
    (reading,) = gpu.GpuMeter(0, lambda: (60, 100), None).read(0.0)
    assert (reading.limit_bytes, reading.utilization, reading.joules) == (100, None, None)

    def lost() -> tuple[int, int]:
        raise RuntimeError("the device is gone")

    assert gpu.GpuMeter(0, lost, None).read(0.0) == ()
    assert "talkoot_gpu_energy_joules_total" in FAMILIES
