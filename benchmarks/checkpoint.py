"""Writing, verifying and restoring one checkpoint: time, rate and anonymous memory, by the size of the model.

`python benchmarks/checkpoint.py [--numel N] [--dir DIR]` founds a state of N parameters in a folder of its
own under DIR, writes a checkpoint of it as a node does, verifies it as `talkoot verify` does, and starts from
it in an empty state directory as `talkoot run --checkpoint` does before the network (which verifies it, too).
"""

import argparse
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from talkoot.averaging.certificate import genesis
from talkoot.averaging.digest import state_tree
from talkoot.dht.identity import Identity
from talkoot.peer import presets, restorable, restoring
from talkoot.peer.checkpoint_write import write_checkpoint
from talkoot.peer.checkpoints import source_of
from talkoot.peer.founding import first_ledger
from talkoot.peer.holdings import Holdings, open_holdings
from talkoot.peer.manifest import Manifest
from talkoot.peer.rules_of import rules_of
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.verify import verify_checkpoint

PIECE = 1 << 22
SAMPLE_S = 0.01


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process (RssAnon)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return int(psutil.Process().memory_info().rss)


def measured(job: Callable[[], object]) -> tuple[float, int]:
    """Seconds of a job, and by how much anonymous memory grew meanwhile at most."""
    before, peak, done = anonymous_bytes(), 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_S):
            peak = max(peak, anonymous_bytes() - before)

    thread = threading.Thread(target=sample)
    thread.start()
    began = time.perf_counter()
    try:
        job()
    finally:
        seconds = time.perf_counter() - began
        done.set()
        thread.join()
    return seconds, peak


def found(folder: Path, numel: int) -> tuple[Holdings, Manifest]:
    """The first state of a swarm of one founder, with random parameters."""
    founder = Identity.from_seed(b"f" * 32)
    draft = presets.make("numpy-test", name="benchmark")
    manifest = replace(
        draft,
        swarm=replace(draft.swarm, founders=(founder.peer_id,)),
        model=replace(draft.model, layout="benchmark", numel=numel),
    )
    paths = StateDir(folder)
    paths.prepare()
    ledger = first_ledger(manifest, (founder.key,)).encode()
    store = OuterStore.prepare(paths.outer, numel)
    staged, generator = store.stage(), torch.Generator().manual_seed(1)
    for start in range(0, numel, PIECE):
        piece = staged.theta[start : start + PIECE]
        piece.copy_(torch.randn(piece.numel(), generator=generator))
    staged.momentum.zero_()
    digest = state_tree(staged.theta, staged.momentum, ledger).digest
    certificate = genesis(manifest.swarm_id, digest, (founder.key,), founder).encode()
    store.commit(staged, round=0, digest=digest, ledger=ledger, certificate=certificate)
    return open_holdings(paths, rules_of(manifest)), manifest


def begin(path: Path, folder: Path) -> None:
    """Look at a checkpoint, then make it the state of an empty directory."""
    paths = StateDir(folder)
    paths.prepare()
    file = restorable.read(path)
    restorable.require_room(file, paths)
    restorable.require_whole(file)
    restoring.restore(file, paths)


def main() -> None:
    """Measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numel", type=int, default=125_000_000, help="parameters; 8 bytes of state each")
    parser.add_argument(
        "--dir", type=Path, default=None, help="where; default: the folder for temporary files"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="talkoot-checkpoint-", dir=arguments.dir) as name:
        holdings, manifest = found(Path(name) / "state", arguments.numel)
        path = Path(name) / "x.safetensors"
        source = source_of(holdings, manifest)
        write_s, write_bytes = measured(lambda: write_checkpoint(source, path))
        verify_s, verify_bytes = measured(lambda: verify_checkpoint(path))
        size = path.stat().st_size
        holdings.close()
        shutil.rmtree(Path(name) / "state")
        restore_s, restore_bytes = measured(lambda: begin(path, Path(name) / "again"))
    result = {
        "file_mb": round(size / 1e6, 1),
        "write_s": round(write_s, 2),
        "write_mb_per_s": round(size / 1e6 / write_s),
        "write_anonymous_mb": round(write_bytes / 1e6, 1),
        "verify_s": round(verify_s, 2),
        "verify_mb_per_s": round(size / 1e6 / verify_s),
        "verify_anonymous_mb": round(verify_bytes / 1e6, 1),
        "restore_s": round(restore_s, 2),
        "restore_mb_per_s": round(size / 1e6 / restore_s),
        "restore_anonymous_mb": round(restore_bytes / 1e6, 1),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
