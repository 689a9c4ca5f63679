"""Bytes that a peer receives to catch up with 1 to N missed rounds, by replay and by snapshot.

Real records of rounds with n contributing peers on a model of 600,000 parameters, fetched over the network
in memory; what travels is counted by the peer's own network, certificates and requests included. Exit code 1
unless 3 rounds of int8 cost less than 40 % of a snapshot, and one of topk less than 0.9 % for each peer.

    python benchmarks/catchup.py [--rounds 8] [--peers 2 4 8]
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from record_rig import play
from state_rig import FOUNDERS, NUMEL, World, found, keys, make_manifest, run

from talkoot.dht.identity import Identity
from talkoot.peer.holdings import Holdings, open_holdings
from talkoot.peer.manifest import Manifest
from talkoot.peer.roundlog import LogLimits
from talkoot.peer.rules_of import founder_keys, rules_of
from talkoot.peer.statedir import StateDir

ALL = LogLimits(max_rounds=1000, max_bytes=1 << 40)
INT8_LIMIT, TOPK_LIMIT = 0.4, 0.009


@dataclass(frozen=True, slots=True)
class Cost:
    """Of catching up once."""

    way: str
    received_bytes: int
    record_bytes: int
    """Of the records alone."""


def manifest_of(exchange: str, codec: str, founders: Sequence[Identity]) -> Manifest:
    """Every founder contributes."""
    draft = make_manifest(founders=founders)
    rounds = replace(draft.round, exchange=exchange)
    return replace(draft, round=rounds, compression=replace(draft.compression, codec=codec))


def identities(count: int) -> list[Identity]:
    """Founders of a swarm of so many."""
    more = [Identity.from_seed(bytes([100 + number]) * 32) for number in range(count)]
    return sorted([*FOUNDERS, *more][:count], key=lambda one: one.key)


def catch_up(folder: Path, genesis: Path, manifest: Manifest, source: Holdings) -> Cost:
    """What it takes from the genesis to where the source is."""
    shutil.copytree(genesis, folder)
    ours = open_holdings(StateDir(folder), rules_of(manifest))
    results: list[tuple[str, int]] = []

    async def main(made: World) -> None:
        await made.serve(source)
        joiner = await made.joiner(folder)
        before = joiner._network.traffic.bytes_received
        installed = await joiner.update(keys(1), ours, founder_keys(manifest))
        assert installed is not None
        assert ours.digest == source.digest
        results.append((installed.choice.way, joiner._network.traffic.bytes_received - before))

    run(main)
    ours.close()
    shutil.rmtree(folder)
    records = source.records.records if source.records is not None else []
    return Cost(*results[0], sum(kept.num_bytes for kept in records))


def measure(folder: Path, exchange: str, codec: str, num_peers: int, rounds: int) -> list[tuple[Cost, Cost]]:
    """(with records, by snapshot) for 1 to `rounds` missed rounds."""
    founders = identities(num_peers)
    manifest = manifest_of(exchange, codec, founders)
    genesis = folder / "genesis"
    found(genesis, manifest).close()
    source = found(folder / "source", manifest)
    source.keep_records(ALL)
    costs = []
    for _ in range(rounds):
        play(source, by=founders)
        replayed = catch_up(folder / "ours", genesis, manifest, source)
        records, source.records = source.records, None
        costs.append((replayed, catch_up(folder / "ours", genesis, manifest, source)))
        source.records = records
    source.close()
    return costs


def show(name: str, num_peers: int, costs: list[tuple[Cost, Cost]]) -> None:
    """One line for each number of missed rounds."""
    for missed, (replayed, snapshot) in enumerate(costs, start=1):
        share = replayed.received_bytes / snapshot.received_bytes
        sys.stdout.write(
            f"{name:12} {num_peers} peers  {missed} missed  records {replayed.record_bytes / 1e3:8.1f} kB  "
            f"received {replayed.received_bytes / 1e3:8.1f} kB by {replayed.way:8}  "
            f"snapshot {snapshot.received_bytes / 1e3:8.1f} kB  {100 * share:6.2f} %\n"
        )
    sys.stdout.flush()


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--peers", type=int, nargs="+", default=[2, 4, 8])
    options = parser.parse_args()
    torch.set_num_threads(1)
    good = True
    sys.stdout.write(f"{NUMEL:,} parameters\n")
    for exchange, codec in (("dense", "int8"), ("sparse", "topk")):
        for num_peers in options.peers:
            with tempfile.TemporaryDirectory() as folder:
                costs = measure(Path(folder), exchange, codec, num_peers, options.rounds)
            show(f"{codec} {exchange}", num_peers, costs)
            shares = [replayed.received_bytes / snapshot.received_bytes for replayed, snapshot in costs]
            if codec == "int8":
                good = good and (len(shares) < 3 or shares[2] < INT8_LIMIT)
            else:
                good = good and shares[0] < TOPK_LIMIT * num_peers
    sys.stdout.write("targets kept\n" if good else "a target was missed\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
