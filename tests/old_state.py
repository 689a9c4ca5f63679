"""A state directory as today's code leaves it, packed for tomorrow's: `python tests/old_state.py`.

Run it only when the format of a file changes, with a new number in the name; the old pack stays, and the code
has to read it or to refuse it in one clear line.
"""

import asyncio
import io
import json
import logging
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

from trainer_help import make_manifest, make_session, write_vector

from talkoot.averaging.rules import Rules
from talkoot.peer.holdings import Holdings, open_holdings
from talkoot.peer.manifest import Compression, Manifest, from_canonical
from talkoot.peer.residual import Residual
from talkoot.peer.roundlog import limits_of
from talkoot.peer.rules_of import rules_of
from talkoot.peer.simulation.disks import simulated_disks
from talkoot.peer.simulation.tasks import CHUNK_SIZE
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.simulation.world import World
from talkoot.peer.statedir import StateDir

PACKS = [Path(__file__).parent / "testdata" / f"state-{number}.tar.xz" for number in (1, 2)]
EXPECTED = "expected.json"
SEED = 3
STEPS = 3


def rules_for(manifest: Manifest) -> Rules:
    return replace(rules_of(manifest), chunk_size=CHUNK_SIZE)


def opened(folder: Path) -> tuple[Holdings, Residual]:
    """What a node opens at its start."""
    paths = StateDir(folder)
    manifest = from_canonical(paths.load_manifest() or b"")
    holdings = open_holdings(paths, rules_for(manifest), manifest.state)
    holdings.keep_records(limits_of(manifest))
    residual = Residual(paths, holdings.rules)
    residual.follow(holdings.head, holdings.certificate_of)
    return holdings, residual


def summary(folder: Path) -> dict[str, object]:
    """What has to be found again."""
    holdings, residual = opened(folder)
    assert holdings.records is not None
    kept = holdings.snapshot()
    return {
        "digest": holdings.digest.hex(),
        "round": holdings.ledger.round,
        "certificates": [item.value.round for item in holdings.certificates(0)],
        "records": [record.round for record in holdings.records.records],
        "snapshot": kept[0].value.digest.hex() if kept is not None else None,
        "journal_lost": holdings.journal.lost,
        "voted": holdings.voter_journal() is not None,
        "carried": [residual.rounds, residual.tokens],
        "carry": float(residual.carry_P.double().abs().sum()),
    }


async def _play(world: World) -> None:
    await asyncio.sleep(150)  # virtual time
    for peer in world.peers:
        await world.stop(peer, 100.0)


def local_work(folder: Path) -> None:
    """Add what a trainer leaves at an orderly stop, of a model of its own."""
    session = make_session(make_manifest(), folder)
    write_vector(folder / "outer0", session.engine.layout.numel, 0)
    session.adopt(folder / "outer0", round_=0, digest="aa", global_step=0, mode="start")
    for _ in range(STEPS):
        session.step()
    session.save()


def make(pack: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with simulated_disks():
            world = World(
                2,
                SEED,
                folder,
                witness=lambda *_: None,
                on_head=lambda *_: None,
                real_signatures=True,
                compression=Compression(codec="int8", aggregate_codec="int8", error_feedback=True),
            )
            run_virtual(world.run(lambda: _play(world)))
        state = folder / "peer-0"
        (folder / "work").mkdir()
        local_work(folder / "work")
        (state / "trainer").mkdir(exist_ok=True)
        (folder / "work" / "trainer" / "local.safetensors").rename(state / "trainer" / "local.safetensors")
        for path in state.glob("trainer/snapshot-*"):
            path.unlink()
        pack.parent.mkdir(exist_ok=True)
        with tarfile.open(pack, "w:xz") as tar:
            tar.add(state, arcname="state")
            expected = json.dumps(summary(state), indent=1).encode()
            entry = tarfile.TarInfo(EXPECTED)
            entry.size = len(expected)
            tar.addfile(entry, io.BytesIO(expected))


if __name__ == "__main__":
    logging.disable()
    make(PACKS[-1])
