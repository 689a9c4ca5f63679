"""The outer store keeps one whole committed generation, whatever happens to the process or the disk."""

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from talkoot.averaging.digest import state_tree
from talkoot.peer.generation import Generation
from talkoot.peer.head import StoreCorruptError, StoreMissingError, read_head
from talkoot.peer.store import OuterStore

NUMEL = 1000

STEPS = [
    "theta.f32 dirty",
    "momentum.f32 dirty",
    "vectors durable",
    "HEAD written",
    "HEAD renamed",
    "HEAD durable",
]


def new_store(path: Path, hook: Callable[[str], None] = lambda _: None) -> OuterStore:
    return OuterStore.create(path, NUMEL, torch.arange(NUMEL), ledger=b"l0", certificate=b"", hook=hook)


def fill(staged: Generation, number: int) -> dict[str, bytes]:
    """Content of round `number`; returns what `commit` is to be told."""
    staged.theta.fill_(number)
    staged.momentum.fill_(-number)
    ledger = b"ledger %d" % number
    digest = state_tree(staged.theta, staged.momentum, ledger).digest
    return {"digest": digest, "ledger": ledger, "certificate": b"certificate %d" % number}


def advance(store: OuterStore) -> None:
    staged = store.stage()
    number = store.head.round + 1
    store.commit(staged, round=number, **fill(staged, number))


def test_what_was_committed_is_found_again(tmp_path: Path) -> None:
    store = new_store(tmp_path / "outer")
    assert store.head.round == 0
    assert store.head.certificate == b""
    for _ in range(3):
        advance(store)
    again = OuterStore.open(tmp_path / "outer", NUMEL, verify=True)
    assert again.head == store.head
    assert again.head.round == 3
    assert again.head.ledger == b"ledger 3"
    assert torch.equal(again.theta, torch.full((NUMEL,), 3.0))
    assert torch.equal(again.momentum, torch.full((NUMEL,), -3.0))


def test_files_are_flat_little_endian_fp32(tmp_path: Path) -> None:
    store = new_store(tmp_path / "outer")
    data = store.current.theta_path.read_bytes()
    assert torch.equal(torch.frombuffer(bytearray(data), dtype=torch.float32), torch.arange(NUMEL).float())
    assert store.current.momentum_path.read_bytes() == bytes(4 * NUMEL)
    assert store.current.theta_path.stat().st_mode & 0o077 == 0


def test_staging_leaves_the_head_alone(tmp_path: Path) -> None:
    store = new_store(tmp_path / "outer")
    before = store.theta.clone()
    staged = store.stage()
    fill(staged, 9)
    assert torch.equal(store.theta, before)
    again = OuterStore.open(tmp_path / "outer", NUMEL, verify=True)
    assert torch.equal(again.theta, before)


def test_create_takes_slices(tmp_path: Path) -> None:
    slices = (torch.full((n,), float(n)) for n in (400, 600))
    store = OuterStore.create(tmp_path / "outer", NUMEL, slices, ledger=b"", certificate=b"")
    assert store.theta[399:401].tolist() == [400.0, 600.0]
    for count in (NUMEL - 1, NUMEL + 1):
        with pytest.raises(ValueError, match="elements"):
            OuterStore.create(tmp_path / str(count), NUMEL, torch.zeros(count), ledger=b"", certificate=b"")
        assert not OuterStore.exists(tmp_path / str(count))


def test_a_download_goes_on_where_it_was(tmp_path: Path) -> None:
    store = OuterStore.prepare(tmp_path / "outer", NUMEL)
    assert store.empty
    store.stage().theta[:10].fill_(7)
    del store
    with pytest.raises(StoreMissingError):
        OuterStore.open(tmp_path / "outer", NUMEL)
    store = OuterStore.prepare(tmp_path / "outer", NUMEL)
    staged = store.stage()
    assert staged.theta[:10].tolist() == [7.0] * 10
    store.commit(staged, round=12, **fill(staged, 12))
    assert OuterStore.open(tmp_path / "outer", NUMEL, verify=True).head.round == 12
    with pytest.raises(FileExistsError):
        OuterStore.prepare(tmp_path / "outer", NUMEL)


def test_only_the_staged_generation_can_be_committed(tmp_path: Path) -> None:
    store = new_store(tmp_path / "outer")
    with pytest.raises(ValueError, match="stage"):
        store.commit(store.current, round=1, digest=b"", ledger=b"", certificate=b"")


def test_a_certificate_can_be_replaced(tmp_path: Path) -> None:
    store = new_store(tmp_path / "outer")
    advance(store)
    store.recertify(b"final")
    again = OuterStore.open(tmp_path / "outer", NUMEL, verify=True)
    assert again.head.certificate == b"final"
    assert again.head.round == 1


@pytest.mark.parametrize("position", [0, 20, 60, -1])
def test_a_damaged_head_is_noticed(tmp_path: Path, position: int) -> None:
    new_store(tmp_path / "outer")
    head = tmp_path / "outer" / "HEAD"
    data = bytearray(head.read_bytes())
    data[position] ^= 1
    head.write_bytes(data)
    with pytest.raises(StoreCorruptError, match="checksum"):
        OuterStore.open(tmp_path / "outer", NUMEL)


def test_a_damaged_vector_is_noticed_when_verified(tmp_path: Path) -> None:
    store = new_store(tmp_path / "outer")
    store.theta[5] = 1234
    assert OuterStore.open(tmp_path / "outer", NUMEL).head.round == 0
    with pytest.raises(StoreCorruptError, match="digest"):
        OuterStore.open(tmp_path / "outer", NUMEL, verify=True)


def test_a_missing_or_short_vector_is_noticed(tmp_path: Path) -> None:
    store = new_store(tmp_path / "outer")
    with pytest.raises(StoreCorruptError, match="bytes instead of"):
        OuterStore.open(tmp_path / "outer", NUMEL + 1)
    store.current.momentum_path.unlink()
    with pytest.raises(StoreCorruptError, match="missing"):
        OuterStore.open(tmp_path / "outer", NUMEL)


def test_the_generation_that_is_not_committed_may_be_lost(tmp_path: Path) -> None:
    store = new_store(tmp_path / "outer")
    shutil.rmtree(store.stage().path)
    again = OuterStore.open(tmp_path / "outer", NUMEL, verify=True)
    advance(again)
    assert again.head.round == 1


def test_the_steps_of_a_commit(tmp_path: Path) -> None:
    steps: list[str] = []
    new_store(tmp_path / "outer", steps.append)
    assert steps == STEPS


class FullDisk:
    """A hook that fails like a full disk at one step, once armed."""

    def __init__(self) -> None:
        self.step = ""

    def __call__(self, step: str) -> None:
        if step == self.step:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("retry", ["same", "other"])
def test_a_commit_that_fails_leaves_the_old_head(tmp_path: Path, step: str, retry: str) -> None:
    disk = FullDisk()
    store = new_store(tmp_path / "outer", disk)
    advance(store)
    disk.step = step
    staged = store.stage()
    values = fill(staged, 2)
    with pytest.raises(OSError, match="No space"):
        store.commit(staged, round=2, **values)
    assert store.head.round == 1
    assert OuterStore.open(tmp_path / "outer", NUMEL, verify=True).head.round in (1, 2)

    disk.step = ""
    if retry == "other":
        staged = store.stage()
        assert read_head(tmp_path / "outer") == store.head  # before a byte of the staged vectors changes
        values = fill(staged, 22)
    store.commit(staged, round=2, **values)
    again = OuterStore.open(tmp_path / "outer", NUMEL, verify=True)
    assert again.head == store.head
    assert again.theta[0] == (22 if retry == "other" else 2)


def test_a_first_commit_that_fails_leaves_an_empty_store(tmp_path: Path) -> None:
    disk = FullDisk()
    store = OuterStore.prepare(tmp_path / "outer", NUMEL, hook=disk)
    disk.step = "HEAD renamed"
    staged = store.stage()
    with pytest.raises(OSError, match="No space"):
        store.commit(staged, round=4, **fill(staged, 4))
    assert store.empty
    store.stage()
    assert read_head(tmp_path / "outer") is None


CHILD = """
import json, os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_peer_store import NUMEL, STEPS, advance, new_store, OuterStore

path, acknowledged = Path(sys.argv[1]) / "outer", Path(sys.argv[1]) / "acknowledged"

def child(hook):
    store = OuterStore.open(path, NUMEL, hook=hook)
    with acknowledged.open("r+b", buffering=0) as file:
        while True:
            advance(store)
            os.pwrite(file.fileno(), store.head.round.to_bytes(8, "little"), 0)

def check():
    store = OuterStore.open(path, NUMEL, verify=True)
    low = int.from_bytes(acknowledged.read_bytes(), "little")
    assert low <= store.head.round <= low + 1, (low, store.head.round)
    acknowledged.write_bytes(store.head.round.to_bytes(8, "little"))
    return store.head.round

def killed(run):
    pid = os.fork()
    if pid == 0:
        run()
        os._exit(1)
    return pid

def reap(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    return check()

new_store(path)
acknowledged.write_bytes(bytes(8))
rounds = []
for step in STEPS:
    for nth in (1, 2):
        def hook(name, left=[nth]):
            left[0] -= name == step
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        rounds.append(reap(killed(lambda: child(hook))))
seeded = random.Random(7)
for _ in range(int(sys.argv[3])):
    pid = killed(lambda: child(lambda _: None))
    time.sleep(seeded.uniform(0, 0.02))
    os.kill(pid, signal.SIGKILL)
    rounds.append(reap(pid))
print(json.dumps(rounds))
"""


@pytest.mark.processes
def test_sigkill_at_any_instant_leaves_a_whole_generation(tmp_path: Path) -> None:
    instants = 40
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(Path(__file__).parent), str(instants)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    rounds = json.loads(done.stdout)
    assert len(rounds) == 2 * len(STEPS) + instants
    assert rounds == sorted(rounds)


TMPFS = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'

FULL = """
import errno, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_peer_store import NUMEL, OuterStore, advance, new_store

mounted = Path(sys.argv[1])
store = new_store(mounted / "outer")
advance(store)
filler = (mounted / "filler").open("wb", buffering=0)
try:
    while True:
        filler.write(bytes(4096))
except OSError as error:
    assert error.errno == errno.ENOSPC
try:
    advance(store)
    raise SystemExit("the disk was not full")
except OSError as error:
    assert error.errno == errno.ENOSPC
assert OuterStore.open(mounted / "outer", NUMEL, verify=True).head.round == 1
try:
    OuterStore.prepare(mounted / "second", 100 * NUMEL)
    raise SystemExit("the disk was not full")
except OSError as error:
    assert error.errno == errno.ENOSPC
filler.truncate(0)
advance(store)
assert OuterStore.open(mounted / "outer", NUMEL, verify=True).head.round == 2
"""


def can_mount() -> bool:
    unshare = shutil.which("unshare")
    probe = "mount -t tmpfs tmpfs /mnt"
    return unshare is not None and subprocess.run([unshare, "-m", "sh", "-c", probe]).returncode == 0


@pytest.mark.processes
def test_a_really_full_disk_loses_nothing(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("needs the right to mount a tmpfs")
    command = ["unshare", "-m", "sh", "-c", TMPFS, "sh", "64k", str(tmp_path)]
    command += [sys.executable, "-c", FULL, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
